"""The sense network in torch, used for pretraining only.

Pre-norm transformer (Xiong et al., arXiv 2002.04745) over patches of 16
numbers, with an exit after every second layer. What ships is built from the
same weights by `export`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .preprocess import GRID, PATCH, POSITIONS


@dataclass(frozen=True)
class Shape:
    """Sizes of a sense network."""

    patch: int = PATCH
    width: int = 128
    heads: int = 4
    hidden: int = 512
    layers: int = 6
    segment: int = 2  # layers between exits

    @property
    def exits(self) -> int:
        """Number of exits, one after each segment."""
        return self.layers // self.segment


SCALES = {
    "tiny": Shape(),
    "small": Shape(width=192, heads=6, hidden=768, layers=8),
    "base": Shape(width=320, heads=10, hidden=1280, layers=8),
}


def _waves(at: Tensor, width: int) -> Tensor:
    """Sines and cosines of positions on 0..1, from half a cycle to 16: [len(at), width]."""
    cycles = 0.5 * 2 ** torch.linspace(0, 5, width // 2)
    turn = 2 * torch.pi * at[:, None] * cycles
    return torch.cat([turn.sin(), turn.cos()], -1)


def positions(width: int) -> Tensor:
    """Start of the embedding table: neighbours alike, whatever the stride; the two modalities apart."""
    window = _waves(torch.arange(POSITIONS) / POSITIONS, width)
    row, column = torch.meshgrid(*[torch.arange(GRID) / GRID] * 2, indexing="ij")
    picture = torch.cat([_waves(axis.flatten(), width // 2) for axis in (row, column)], -1)
    return 0.3 * torch.cat([part + torch.randn(width) for part in (window, picture)])


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v)
    # Written out: on a CPU the fused kernel's backward pass takes up to eight times as long at so few tokens.
    score = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return score.float().softmax(-1).to(v.dtype) @ v


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.heads = shape.heads
        self.norm_1 = nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm_2 = nn.LayerNorm(shape.width)
        self.up = nn.Linear(shape.width, shape.hidden)
        self.down = nn.Linear(shape.hidden, shape.width)

    def forward(self, h: Tensor) -> Tensor:
        batch, tokens, width = h.shape
        qkv = self.qkv(self.norm_1(h)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = _attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        h = h + self.out(mixed)
        return h + self.down(F.gelu(self.up(self.norm_2(h))))


class Sense(nn.Module):
    """Patches [batch, tokens, 16] and their token ids [batch, tokens] to the hidden states of all exits."""

    def __init__(self, shape: Shape = Shape()):
        super().__init__()
        self.shape = shape
        self.embed = nn.Linear(shape.patch, shape.width)
        self.table = nn.Parameter(positions(shape.width))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        for layer in self.layers:
            # Keeps the residual stream from growing with depth at the start.
            layer.out.weight.data.mul_(0.5)
            layer.down.weight.data.mul_(0.5)

    def forward(
        self, patches: Tensor, ids: Tensor, hide: Tensor | None = None, cover: Tensor | None = None
    ) -> list[Tensor]:
        """`hide` [batch, tokens] marks tokens whose content is replaced by `cover` [width]."""
        h = self.embed(patches)
        if hide is not None and cover is not None:
            h = torch.where(hide[..., None], cover, h)
        h = h + self.table[ids]
        exits = []
        for number, layer in enumerate(self.layers, 1):
            h = layer(h)
            if number % self.shape.segment == 0:
                exits.append(h)
        return exits


def pool(h: Tensor) -> Tensor:
    """Mean and population standard deviation over the tokens of the normalized state: [batch, 2 width]."""
    h = F.layer_norm(h, h.shape[-1:], eps=1e-5)
    mean = h.mean(1)
    variance = (h - mean[:, None]).square().mean(1)
    return torch.cat([mean, torch.sqrt(variance + 1e-6)], -1)
