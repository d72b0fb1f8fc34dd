"""BERT's encoder with random weights: token ids in, the mean of the hidden states out.

`load(folder)` makes the weights from the seed in `config.json`, where the rest is a `transformers.BertConfig`.
"""

import json
from pathlib import Path
from typing import Final

import torch
from transformers import BertConfig, BertModel

MASKED: Final = -10_000.0  # added to the scores of padding: exp underflows to 0 behind it, and FP16 holds it


class Encoder(torch.nn.Module):
    """BERT, then the mean over the tokens that the mask keeps."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """int64 [batch, sequence] twice -> float32 [batch, hidden]."""
        keep = attention_mask.to(torch.float32)
        additive = (1.0 - keep[:, None, None, :]) * MASKED
        if self.bert.dtype != additive.dtype:  # a model in FP16; asked in Python, so that no trace sees it
            additive = additive.to(self.bert.dtype)
        hidden = self.bert(input_ids=input_ids, attention_mask=additive).last_hidden_state
        return (hidden * keep[:, :, None]).sum(dim=1) / keep.sum(dim=1, keepdim=True).clamp(min=1.0)


def load(folder: Path) -> torch.nn.Module:
    """The encoder in eval mode; the same weights on every call."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    seed = raw.pop("seed")
    config = BertConfig(**raw)
    # Eager attention is plain MatMul and Softmax, which every opset and every backend has.
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    return Encoder(BertModel(config, add_pooling_layer=False)).eval()
