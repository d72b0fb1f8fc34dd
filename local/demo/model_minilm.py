"""MiniLM sentence embeddings: token ids in, one unit vector of 384 floats out.

`load(folder)` is the entry point that the release spec names (`model.py:load`).
"""

from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

# Added to the scores of padding: exp underflows to exactly 0 behind it, and unlike the smallest float32
# (-3.4e38) it leaves room for INT8 ranges and FP16.
MASKED: Final = -10_000.0


class SentenceEmbedder(torch.nn.Module):
    """BERT, mean over the tokens that the mask keeps, then L2 norm."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """int64 [batch, sequence] twice -> float32 [batch, 384], each row of length 1."""
        keep = attention_mask.to(torch.float32)
        # A four-dimensional additive mask is taken as it is; from a two-dimensional one transformers
        # decides in Python whether it can be left out, which a trace would freeze.
        additive = (1.0 - keep[:, None, None, :]) * MASKED
        if self.bert.dtype != additive.dtype:  # a model in FP16; asked in Python, so that no trace sees it
            additive = additive.to(self.bert.dtype)
        hidden = self.bert(input_ids=input_ids, attention_mask=additive).last_hidden_state
        mean = (hidden * keep[:, :, None]).sum(dim=1) / keep.sum(dim=1, keepdim=True).clamp(min=1.0)
        return mean / mean.norm(dim=1, keepdim=True).clamp(min=1e-12)


def load(folder: Path) -> torch.nn.Module:
    """The model in eval mode, from `config.json` and `model.safetensors` in `folder`."""
    config = BertConfig.from_json_file(str(folder / "config.json"))
    # Eager attention is plain MatMul and Softmax: it exports at opset 17, and INT8 can reach its MatMuls.
    config._attn_implementation = "eager"
    bert = BertModel(config, add_pooling_layer=False)
    weights = load_file(str(folder / "model.safetensors"))
    bert.load_state_dict({k: v for k, v in weights.items() if not k.startswith("pooler.")}, strict=False)
    return SentenceEmbedder(bert).eval()
