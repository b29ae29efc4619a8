"""Distillation: a smaller network is also asked for a larger one's features, exit by exit.

The target is what a module would see: the teacher's pooled features, projected
on its principal directions and of unit variance (features.safetensors). The
student answers through a linear readout that is thrown away. Exits match by
their share of the depth.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from .network import SCALES, Sense, Shape, pool


def matching(student: int, teacher: int) -> list[int]:
    """For each of the student's exits the teacher's, counted from 0, at the nearest share of the depth."""
    return [max(1, round((k + 1) * teacher / student)) - 1 for k in range(student)]


class Teacher:
    """A frozen larger network, from its build folder."""

    def __init__(self, folder: Path, device: str):
        weights = {name: torch.tensor(value) for name, value in load_file(folder / "weights.safetensors").items()}
        width = weights["table"].shape[1]
        self.shape = next(shape for shape in SCALES.values() if shape.width == width)
        self.net = Sense(self.shape)
        self.net.load_state_dict(weights)
        self.net.requires_grad_(False).to(device)
        features = load_file(folder / "features.safetensors")
        self.mean, self.projection = (
            [torch.tensor(features[f"exit_{k + 1}.{part}"]).float().to(device) for k in range(self.shape.exits)]
            for part in ("mean", "projection")
        )
        self.heads = nn.ModuleList()

    def readouts(self, student: Shape) -> nn.ModuleList:
        """Linear maps from the student's pooled features to the matching targets."""
        self.matched = matching(student.exits, self.shape.exits)
        sizes = [self.projection[k].shape[0] for k in self.matched]
        self.heads = nn.ModuleList(nn.Linear(2 * student.width, size) for size in sizes)
        return self.heads

    def loss(self, pooled: list[Tensor], patches: Tensor, ids: Tensor) -> Tensor:
        """Mean squared error of the readouts; the teacher sees the sample uncovered."""
        with torch.no_grad():
            exits = self.net(patches, ids)
        gaps = []
        for head, p, k in zip(self.heads, pooled, self.matched, strict=True):
            target = (pool(exits[k].float()) - self.mean[k]) @ self.projection[k].T
            gaps.append((head(p).float() - target.float()).square().mean())
        return torch.stack(gaps).mean()
