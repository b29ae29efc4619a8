"""Pretrains the sense network on generated data, within a budget of CPU time.

    python -m loadonce_models.pretrain --out build/sense-tiny --minutes 25

The budget counts this process's CPU time, data generation included. A run that
is interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from . import machines, pictures, signals
from .network import Sense
from .objectives import Heads, losses, total
from .preprocess import PICTURE_IDS, WINDOW_IDS, tile

WINDOW_TEMPLATES, PICTURE_TEMPLATES, VARIANTS = 64, 40, 2
# Early on only this many of a picture's 64 tokens are kept, which buys steps.
PICTURE_KEPT, ALL_TOKENS_FROM = 32, 0.8
PEAK_RATE, WARM_UP = 1.5e-3, 100
CHECKPOINT_EVERY_S = 60.0


def _labels(batch: signals.Batch) -> dict[str, Tensor]:
    repeat = lambda a: torch.tensor(a).repeat_interleave(VARIANTS)  # noqa: E731
    return {"family": repeat(batch.family), "detail": repeat(batch.detail), "pitch": repeat(batch.pitch)}


def _inputs(modality: str, rng: np.random.Generator, progress: float) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Patches [rows, tokens, 16], ids [rows, tokens] and labels of one fresh batch."""
    if modality == "window":
        batch = signals.windows(rng, WINDOW_TEMPLATES, VARIANTS)
        patches, ids = torch.tensor(batch.x).view(-1, 16, 16), torch.tensor(WINDOW_IDS)
        return patches, ids.expand(len(patches), -1), _labels(batch)
    batch = pictures.pictures(rng, PICTURE_TEMPLATES, VARIANTS)
    patches = torch.tensor(np.ascontiguousarray(tile(batch.x))).view(-1, 64, 16)
    ids = torch.tensor(PICTURE_IDS).expand(len(patches), -1)
    if progress < ALL_TOKENS_FROM:
        kept = torch.tensor(rng.random(ids.shape)).argsort(1)[:, :PICTURE_KEPT]
        patches, ids = patches.gather(1, kept[..., None].expand(-1, -1, 16)), ids.gather(1, kept)
    return patches, ids, _labels(batch)


def _hidden(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Half of the samples stay whole, as they are in use; of the others 40 % is covered."""
    covered = rng.random((shape[0], 1)) < 0.5
    return torch.tensor((rng.random(shape) < 0.4) & covered)


def _rate(step: int, progress: float) -> float:
    return PEAK_RATE * min(1.0, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * progress)) + 1e-6


class Run:
    """Weights, optimizer and counters of one pretraining run."""

    def __init__(self, seed: int):
        torch.manual_seed(seed)
        self.seed = seed
        self.net = Sense()
        self.heads = torch.nn.ModuleDict(
            {
                "window": Heads(self.net.shape, len(signals.FAMILIES), len(machines.FAULTS)),
                "picture": Heads(self.net.shape, pictures.FAMILIES, pictures.DETAILS),
            }
        )
        self.parameters = [*self.net.parameters(), *self.heads.parameters()]
        matrices = [p for p in self.parameters if p.ndim > 1]
        vectors = [p for p in self.parameters if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))
        self.step, self.cpu_s = 0, 0.0

    def advance(self, progress: float) -> dict[str, float]:
        """One optimizer step on a window batch and a picture batch."""
        rng = np.random.default_rng([self.seed, self.step])
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(self.step, progress)
        self.optimizer.zero_grad()
        seen = {}
        for modality, heads in self.heads.items():
            patches, ids, labels = _inputs(modality, rng, progress)
            hide = _hidden(patches.shape[:2], rng)
            exits = self.net(patches, ids, hide, heads.cover)
            parts = losses(heads, exits, patches, hide, labels, VARIANTS)
            (total(parts) / len(self.heads)).backward()
            seen |= {f"{modality} {name}": value.item() for name, value in parts.items()}
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        return seen

    def save(self, path: Path) -> None:
        """Writes a checkpoint; the rename keeps the older one whole if this is interrupted."""
        state = {"net": self.net.state_dict(), "heads": self.heads.state_dict(), "step": self.step}
        torch.save(state | {"optimizer": self.optimizer.state_dict(), "cpu_s": self.cpu_s}, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint."""
        state = torch.load(path)
        self.net.load_state_dict(state["net"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.cpu_s = state["step"], state["cpu_s"]


def weights(net: Sense) -> dict[str, Tensor]:
    """The network's fp32 weights as stored in `weights.safetensors`."""
    return {name: value.detach().contiguous() for name, value in net.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25.0, help="CPU minutes of this process")
    parser.add_argument("--wall-minutes", type=float, default=60.0, help="stop here at the latest, on a busy machine")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(2)
    args.out.mkdir(parents=True, exist_ok=True)
    run, checkpoint = Run(args.seed), args.out / "checkpoint.pt"
    save_file(weights(run.net), args.out / "random.safetensors")
    if checkpoint.exists():
        run.load(checkpoint)
    before, cpu0, wall0, saved, progress = run.cpu_s, time.process_time(), time.monotonic(), time.monotonic(), 0.0
    seen: dict[str, list[float]] = {}
    while True:
        run.cpu_s = before + time.process_time() - cpu0
        wall_s = time.monotonic() - wall0
        # Never backwards: the schedule follows whichever budget runs out first.
        progress = max(progress, run.cpu_s / (60 * args.minutes), wall_s / (60 * args.wall_minutes))
        if progress >= 1:
            break
        for name, value in run.advance(progress).items():
            seen.setdefault(name, []).append(value)
        if run.step % 50 == 0:
            means = " ".join(f"{name} {np.mean(values):.3f}" for name, values in seen.items())
            print(f"step {run.step} cpu {run.cpu_s:.0f}s wall {wall_s:.0f}s {means}", flush=True)
            seen.clear()
        if time.monotonic() - saved > CHECKPOINT_EVERY_S:
            run.save(checkpoint)
            save_file(weights(run.net), args.out / "weights.safetensors")
            saved = time.monotonic()
    run.save(checkpoint)
    save_file(weights(run.net), args.out / "weights.safetensors")
    summary = {"cpu_minutes": round(run.cpu_s / 60, 2), "steps": run.step, "seed": args.seed}
    (args.out / "pretrain.json").write_text(json.dumps(summary) + "\n")
    print(summary)


if __name__ == "__main__":
    main()
