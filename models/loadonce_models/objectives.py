"""Heads and losses of pretraining; none of this ships.

Four questions are asked of the network at once: what was under the covered
tokens (masked reconstruction, last exit), what is it (family, fault or glyph
or defect, pitch: every exit), which other sample comes from the same template
(contrast, every exit; the loss of Oord et al., arXiv 1807.03748), and what
does the whole look like from afar (sketch, every exit), so that the pooled
features keep the coarse shape that contrast alone would let go.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import Shape

TEMPERATURE = 0.15
# Numbers of a sketch: 16 points of a window, 8 x 8 of a picture.
SKETCH = {"window": 16, "picture": 64}


class Heads(nn.Module):
    """Readouts of one modality."""

    def __init__(self, shape: Shape, families: int, details: int, sketch: int):
        super().__init__()
        pooled = 2 * shape.width
        self.cover = nn.Parameter(torch.randn(shape.width) * 0.02)
        self.family = nn.ModuleList(nn.Linear(pooled, families) for _ in range(shape.exits))
        self.detail = nn.ModuleList(nn.Linear(pooled, details) for _ in range(shape.exits))
        self.pitch = nn.ModuleList(nn.Linear(pooled, 1) for _ in range(shape.exits))
        self.contrast = nn.ModuleList(nn.Linear(pooled, 96) for _ in range(shape.exits))
        self.sketch = nn.ModuleList(nn.Linear(pooled, sketch) for _ in range(shape.exits))
        self.norm = nn.LayerNorm(shape.width)
        self.paint = nn.Sequential(nn.Linear(shape.width, shape.width), nn.GELU(), nn.Linear(shape.width, shape.patch))


def contrast(z: Tensor, variants: int) -> Tensor:
    """Cross-entropy of finding a sample's sibling; rows of one template are adjacent."""
    z = F.normalize(z, dim=-1)
    score = z @ z.T / TEMPERATURE
    row = torch.arange(len(z), device=z.device)
    score = score.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -1e9)
    sibling = row - row % variants + (row + 1) % variants
    return F.cross_entropy(score, sibling)


def losses(
    heads: Heads,
    pooled: list[Tensor],
    last: Tensor,
    patches: Tensor,
    hide: Tensor,
    labels: dict[str, Tensor],
    variants: int,
) -> dict[str, Tensor]:
    """All losses of one batch by name from each exit's pooled features and the `last` hidden state."""
    paint = heads.paint(heads.norm(last))
    gap = (paint - patches).square().mean(-1)
    out = {"paint": (gap * hide).sum() / hide.sum().clamp(min=1)}
    # Masks, not selections: a selection's size would have to be waited for on a GPU.
    detail_of, known = labels["detail"].long(), labels["detail"] >= 0
    pitched = ~torch.isnan(labels["pitch"])
    pitch_of = labels["pitch"].nan_to_num()
    parts: dict[str, list[Tensor]] = {"family": [], "detail": [], "pitch": [], "contrast": [], "sketch": []}
    for k, p in enumerate(pooled):
        parts["family"].append(F.cross_entropy(heads.family[k](p), labels["family"]))
        detail = F.cross_entropy(heads.detail[k](p), detail_of, ignore_index=-1, reduction="sum")
        pitch = (F.smooth_l1_loss(heads.pitch[k](p)[:, 0], pitch_of, reduction="none") * pitched).sum()
        # A small batch may hold no sample that has one.
        parts["detail"].append(detail / known.sum().clamp(min=1))
        parts["pitch"].append(pitch / pitched.sum().clamp(min=1))
        parts["contrast"].append(contrast(heads.contrast[k](p), variants))
        parts["sketch"].append((heads.sketch[k](p) - labels["sketch"]).square().mean())
    return out | {name: torch.stack(values).mean() for name, values in parts.items()}


WEIGHTS = {
    "paint": 1.0, "family": 0.15, "detail": 0.25, "pitch": 0.25, "contrast": 0.5, "sketch": 0.25, "teacher": 1.0,
}  # fmt: skip


def total(parts: dict[str, Tensor]) -> Tensor:
    """The weighted sum that is minimized."""
    return torch.stack([WEIGHTS[name] * value for name, value in parts.items()]).sum()
