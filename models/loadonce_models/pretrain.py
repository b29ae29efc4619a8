"""Pretrains a sense network on generated data.

    python -m loadonce_models.pretrain --scale tiny --out build/sense-tiny

The number of steps is fixed, so that the same run gives about the same network
on every machine. A run that is interrupted goes on from its last checkpoint. A
CUDA device is used where there is one; on processors that multiply bf16 in
hardware the matrix products run in bf16.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from . import batches, machines, pictures, signals
from .distil import Teacher
from .network import SCALES, Sense, pool
from .objectives import SKETCH, Heads, losses, total

# Steps of a run: below 30, 60 and 150 minutes on two cores that multiply bf16 in hardware.
STEPS = {"tiny": 7000, "small": 7000, "base": 10000}
PEAK_RATE = {"tiny": 1.5e-3, "small": 1.2e-3, "base": 8e-4}
WARM_UP = 150
CHECKPOINT_EVERY_S, REPORT_EVERY = 60.0, 50


def _rate(peak: float, step: int, progress: float) -> float:
    return peak * min(1.0, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * progress)) + 1e-6


def fast_bf16(device: str) -> bool:
    """Whether matrix products in bf16 are faster here."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


class Run:
    """Weights, optimizer and counters of one pretraining run."""

    def __init__(self, scale: str, steps: int, seed: int, device: str, teacher: Teacher | None = None):
        torch.manual_seed(seed)
        self.scale, self.steps, self.seed, self.device, self.teacher = scale, steps, seed, device, teacher
        shape = SCALES[scale]
        self.net = Sense(shape).to(device)
        kinds = {
            "window": (len(signals.FAMILIES), len(machines.FAULTS)),
            "picture": (pictures.FAMILIES, pictures.DETAILS),
        }
        self.heads = torch.nn.ModuleDict({name: Heads(shape, *sizes, SKETCH[name]) for name, sizes in kinds.items()})
        self.heads.to(device)
        parameters = [*self.net.parameters(), *self.heads.parameters()]
        if teacher:
            parameters += teacher.readouts(shape).to(device).parameters()
        self.parameters = parameters
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE[scale], betas=(0.9, 0.98), fused=device == "cuda")
        self.bf16 = fast_bf16(device)
        self.step, self.cpu_s, self.wall_s = 0, 0.0, 0.0

    def _parts(self, modality: str, batch: batches.Batch) -> dict[str, Tensor]:
        heads = self.heads[modality]
        patches, ids, hide = (part.to(self.device, non_blocking=True) for part in batch[:3])
        labels = {name: value.to(self.device, non_blocking=True) for name, value in batch.labels.items()}
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            exits = [h.float() for h in self.net(patches, ids, hide, heads.cover)]
        pooled = [pool(h) for h in exits]
        parts = losses(heads, pooled, exits[-1], patches, hide, labels, batches.VARIANTS)
        if self.teacher:
            with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
                parts["teacher"] = self.teacher.loss(pooled, patches, ids)
        return parts

    def advance(self, step: dict[str, batches.Batch]) -> dict[str, Tensor]:
        """One optimizer step on a window batch and a picture batch; the losses stay where they were computed."""
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(PEAK_RATE[self.scale], self.step, self.step / self.steps)
        self.optimizer.zero_grad()
        seen = {}
        for modality, batch in step.items():
            parts = self._parts(modality, batch)
            (total(parts) / len(step)).backward()
            seen |= {f"{modality} {name}": value.detach() for name, value in parts.items()}
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        return seen

    def save(self, path: Path) -> None:
        """Writes a checkpoint; the rename keeps the older one whole if this is interrupted."""
        state = {"net": self.net.state_dict(), "heads": self.heads.state_dict(), "step": self.step}
        state |= {"optimizer": self.optimizer.state_dict(), "steps": self.steps}
        state |= {"cpu_s": self.cpu_s, "wall_s": self.wall_s}
        if self.teacher:
            state["readouts"] = self.teacher.heads.state_dict()
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint of the same plan."""
        state = torch.load(path, map_location=self.device)
        if state["steps"] != self.steps:
            raise SystemExit(f"{path} is of {state['steps']} steps, not {self.steps}; remove it or ask for those")
        self.net.load_state_dict(state["net"])
        self.heads.load_state_dict(state["heads"])
        if self.teacher:
            self.teacher.heads.load_state_dict(state["readouts"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.cpu_s, self.wall_s = state["step"], state["cpu_s"], state["wall_s"]


def weights(net: Sense) -> dict[str, Tensor]:
    """The network's fp32 weights as stored in `weights.safetensors`."""
    return {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}


def train(run: Run, out: Path, workers: int) -> None:
    """Runs to the last step, with progress and checkpoints."""
    checkpoint = out / "checkpoint.pt"
    save_file(weights(run.net), out / "random.safetensors")
    if checkpoint.exists():
        run.load(checkpoint)
        print(f"goes on from step {run.step}", flush=True)
    before, first, cpu0, start = (run.cpu_s, run.wall_s), run.step, time.process_time(), time.monotonic()
    saved, seen = start, {}
    for step in batches.ahead(batches.Steps(list(run.heads), run.seed, run.steps), run.step, workers):
        for name, value in run.advance(step).items():
            seen.setdefault(name, []).append(value)
        now = time.monotonic()
        run.cpu_s, run.wall_s = before[0] + time.process_time() - cpu0, before[1] + now - start
        if run.step % REPORT_EVERY == 0:
            left = (now - start) / (run.step - first) * (run.steps - run.step) / 60
            means = " ".join(f"{name} {torch.stack(values).mean():.3f}" for name, values in seen.items())
            print(f"step {run.step}/{run.steps} {run.wall_s:.0f} s, {left:.0f} min left: {means}", flush=True)
            seen.clear()
        if now - saved > CHECKPOINT_EVERY_S or run.step == run.steps:
            run.save(checkpoint)
            save_file(weights(run.net), out / "weights.safetensors")
            saved = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=SCALES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="another number of steps than the scale's own")
    parser.add_argument("--teacher", type=Path, help="build folder of a larger scale to distil from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, help="processes that generate data; beside a CUDA device 6, else none")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    workers = args.workers if args.workers is not None else 6 * (device == "cuda")
    teacher = Teacher(args.teacher, device) if args.teacher else None
    run = Run(args.scale, args.steps or STEPS[args.scale], args.seed, device, teacher)
    print(f"{args.scale} on {device}, {'bf16' if run.bf16 else 'fp32'} products, {run.steps} steps", flush=True)
    train(run, args.out, workers)
    summary = {"scale": args.scale, "wall_minutes": round(run.wall_s / 60, 2), "steps": run.step, "seed": args.seed}
    summary |= {"cpu_minutes": round(run.cpu_s / 60, 2) if device == "cpu" else None}
    summary |= {"device": device, "bf16": run.bf16, "teacher": args.teacher.name if args.teacher else None}
    (args.out / "pretrain.json").write_text(json.dumps(summary) + "\n")
    print(summary)


if __name__ == "__main__":
    main()
