"""Heads and losses of pretraining; none of this ships.

Three questions are asked of the network at once: what was under the covered
tokens (masked reconstruction, last exit), what is it (family, fault or glyph
or defect, pitch: every exit), and which other sample comes from the same
template (contrast, every exit; the loss of Oord et al., arXiv 1807.03748).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import Shape, pool

TEMPERATURE = 0.15


class Heads(nn.Module):
    """Readouts of one modality."""

    def __init__(self, shape: Shape, families: int, details: int):
        super().__init__()
        pooled = 2 * shape.width
        self.cover = nn.Parameter(torch.randn(shape.width) * 0.02)
        self.family = nn.ModuleList(nn.Linear(pooled, families) for _ in range(shape.exits))
        self.detail = nn.ModuleList(nn.Linear(pooled, details) for _ in range(shape.exits))
        self.pitch = nn.ModuleList(nn.Linear(pooled, 1) for _ in range(shape.exits))
        self.contrast = nn.ModuleList(nn.Linear(pooled, 96) for _ in range(shape.exits))
        self.norm = nn.LayerNorm(shape.width)
        self.paint = nn.Sequential(nn.Linear(shape.width, shape.width), nn.GELU(), nn.Linear(shape.width, shape.patch))


def contrast(z: Tensor, variants: int) -> Tensor:
    """Cross-entropy of finding a sample's sibling; rows of one template are adjacent."""
    z = F.normalize(z, dim=-1)
    score = z @ z.T / TEMPERATURE
    row = torch.arange(len(z))
    score = score.masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
    sibling = row - row % variants + (row + 1) % variants
    return F.cross_entropy(score, sibling)


def losses(
    heads: Heads, exits: list[Tensor], patches: Tensor, hide: Tensor, labels: dict[str, Tensor], variants: int
) -> dict[str, Tensor]:
    """All losses of one batch by name; `labels` has one row per sample."""
    paint = heads.paint(heads.norm(exits[-1]))
    gap = (paint - patches).square().mean(-1)
    out = {"paint": (gap * hide).sum() / hide.sum().clamp(min=1)}
    known, pitched = labels["detail"] >= 0, ~torch.isnan(labels["pitch"])
    parts: dict[str, list[Tensor]] = {"family": [], "detail": [], "pitch": [], "contrast": []}
    for k, h in enumerate(exits):
        p = pool(h)
        parts["family"].append(F.cross_entropy(heads.family[k](p), labels["family"]))
        parts["detail"].append(F.cross_entropy(heads.detail[k](p[known]), labels["detail"][known]))
        parts["pitch"].append(F.smooth_l1_loss(heads.pitch[k](p[pitched])[:, 0], labels["pitch"][pitched]))
        parts["contrast"].append(contrast(heads.contrast[k](p), variants))
    return out | {name: torch.stack(values).mean() for name, values in parts.items()}


WEIGHTS = {"paint": 1.0, "family": 0.15, "detail": 0.25, "pitch": 0.25, "contrast": 0.5}


def total(parts: dict[str, Tensor]) -> Tensor:
    """The weighted sum that is minimized."""
    return sum((WEIGHTS[name] * value for name, value in parts.items()), torch.zeros(()))
