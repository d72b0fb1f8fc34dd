"""A GPT-style decoder's prefill: token ids in, the hidden state of the last token out.

`load(folder)` makes the weights from the seed in `config.json`: a checkpoint of 1.3 B parameters without a large file.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Causal attention, then an MLP of four times the width, each behind its own norm."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, hidden // heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.projection = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, sequence, hidden] -> the same."""
        batch, sequence, _ = x.shape
        shape, hidden = (batch, sequence, self.heads, self.width), self.heads * self.width
        # Sizes that are numbers here are constants in the graph; `chunk` would be arithmetic on shapes in every block.
        query, key, value = self.qkv(self.attention_norm(x)).split(hidden, dim=-1)
        attended = functional.scaled_dot_product_attention(
            *(part.reshape(shape).transpose(1, 2) for part in (query, key, value)), is_causal=True
        )
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, sequence, hidden))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x))))


class Decoder(nn.Module):
    """Token and position embeddings, the blocks, a last norm."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden = config["hidden"]
        self.tokens = nn.Embedding(config["vocabulary"], hidden)
        self.positions = nn.Embedding(config["positions"], hidden)
        self.blocks = nn.ModuleList(Block(hidden, config["heads"]) for _ in range(config["layers"]))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """int64 [batch, sequence] -> float32 [batch, hidden], of the last token."""
        x = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, -1]).to(torch.float32)


def load(folder: Path) -> nn.Module:
    """The decoder that `config.json` describes, in eval mode; the same weights on every call."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        model = Decoder(config)
    model.to_empty(device="cpu")
    # Every parameter has a generator of its own, so threads can share the work and cannot change the result.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: _fill(*job), _jobs(model, config)))
    return model.eval()


def _jobs(model: nn.Module, config: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor, int, float]]:
    """(name, parameter, seed, deviation): as GPT-2, what is added to the residual shrinks with the depth."""
    residual = 0.02 / (2 * config["layers"]) ** 0.5
    for number, (name, parameter) in enumerate(model.named_parameters()):
        added = name.endswith(("projection.weight", "down.weight"))
        yield name, parameter.data, config["seed"] + number, residual if added else 0.02


def _fill(name: str, tensor: torch.Tensor, seed: int, deviation: float) -> None:
    if name.endswith("bias"):
        tensor.zero_()
    elif "norm" in name:
        tensor.fill_(1.0)
    else:
        tensor.normal_(0.0, deviation, generator=torch.Generator().manual_seed(seed))
