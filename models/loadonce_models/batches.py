"""Fresh batches of generated tokens for pretraining, in every length and side a task may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from . import pictures, signals
from .preprocess import LENGTH, PATCH, SIDE, picture_ids, resample, tile, window_ids

VARIANTS = 2
# How often each size is drawn, and templates per batch: about as many tokens whatever the size.
WINDOWS = {64: (0.05, 64), 128: (0.2, 64), 256: (0.45, 64), 512: (0.2, 32), 1024: (0.1, 24)}
PICTURES = {16: (0.2, 40), 32: (0.5, 40), 48: (0.15, 32), 64: (0.15, 24)}
# Early on only this many of a larger picture's tokens are kept, which buys steps.
KEPT, ALL_TOKENS_FROM = {32: 32, 48: 64, 64: 64}, 0.8
# Templates with all tokens, where that would be too much at once.
WHOLE = {48: 20, 64: 12}
# Share of samples that are fainter than standardized ones, as the chroma of an almost grey picture is.
FAINT = 0.1


class Batch(NamedTuple):
    """Patches [rows, tokens, 16], ids [rows, tokens], which tokens are covered, and labels, one row per sample."""

    patches: Tensor
    ids: Tensor
    hide: Tensor
    labels: dict[str, Tensor]


def _pick(rng: np.random.Generator, sizes: dict[int, tuple[float, int]]) -> int:
    share = np.array([share for share, _ in sizes.values()])
    return int(rng.choice(list(sizes), p=share / share.sum()))


def _pace(rng: np.random.Generator, size: int, usual: int) -> float:
    """Another size shows the same in other detail, or more or less of it."""
    return 1.0 if rng.random() < 0.5 else size / usual


def _labels(batch: signals.Batch, sketch: np.ndarray) -> dict[str, Tensor]:
    repeat = lambda a: torch.tensor(a).repeat_interleave(VARIANTS)  # noqa: E731
    labels = {"family": repeat(batch.family), "detail": repeat(batch.detail), "pitch": repeat(batch.pitch)}
    return labels | {"sketch": torch.tensor(sketch, dtype=torch.float32)}


def _faded(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rows = len(x)
    fade = np.where(rng.random(rows) < FAINT, rng.random(rows), 1.0).astype(np.float32)
    return x * fade.reshape(-1, *[1] * (x.ndim - 1))


def _covered(rng: np.random.Generator, shape: tuple[int, int]) -> Tensor:
    """Half of the samples stay whole, as they are in use; of the others 40 % is covered."""
    covered = rng.random((shape[0], 1)) < 0.5
    return torch.tensor((rng.random(shape) < 0.4) & covered)


def windows(rng: np.random.Generator) -> Batch:
    """A batch of windows of one length."""
    length = _pick(rng, WINDOWS)
    batch = signals.windows(rng, WINDOWS[length][1], VARIANTS, length, _pace(rng, length, LENGTH))
    x = _faded(batch.x.reshape(-1, length), rng)
    patches, ids = torch.tensor(x).view(len(x), -1, PATCH), torch.tensor(window_ids(length))
    return Batch(
        patches, ids.repeat(len(x), 1), _covered(rng, patches.shape[:2]), _labels(batch, resample(x, 16))
    )


def planes(rng: np.random.Generator, progress: float) -> Batch:
    """A batch of picture planes of one side."""
    side = _pick(rng, PICTURES)
    whole = progress >= ALL_TOKENS_FROM or side not in KEPT
    templates = WHOLE.get(side, PICTURES[side][1]) if whole else PICTURES[side][1]
    batch = pictures.pictures(rng, templates, VARIANTS, side, _pace(rng, side, SIDE))
    x = _faded(batch.x.reshape(-1, side, side), rng)
    sketch = np.swapaxes(resample(np.swapaxes(resample(x, 8), 1, 2), 8), 1, 2).reshape(len(x), -1)
    patches = torch.tensor(np.ascontiguousarray(tile(x)))
    ids = torch.tensor(picture_ids(side)).repeat(len(x), 1)
    if not whole:
        kept = torch.tensor(rng.random(ids.shape)).argsort(1)[:, : KEPT[side]]
        patches, ids = patches.gather(1, kept[..., None].expand(-1, -1, PATCH)), ids.gather(1, kept)
    return Batch(patches, ids, _covered(rng, patches.shape[:2]), _labels(batch, sketch))


def fresh(modality: str, rng: np.random.Generator, progress: float) -> Batch:
    """One batch; `progress` on 0..1 decides whether pictures are whole."""
    return windows(rng) if modality == "window" else planes(rng, progress)


class Steps(Dataset):
    """Item `step` holds the batches of that optimizer step by modality, the same wherever it is made."""

    def __init__(self, modalities: list[str], seed: int, steps: int):
        self.modalities, self.seed, self.steps = modalities, seed, steps

    def __getitem__(self, step: int) -> dict[str, Batch]:
        rng = np.random.default_rng([self.seed, step])
        return {modality: fresh(modality, rng, step / self.steps) for modality in self.modalities}


def ahead(steps: Steps, first: int, workers: int) -> Iterator[dict[str, Batch]]:
    """The batches from step `first` on; `workers` processes make them beforehand, none makes them when asked."""
    more = {"prefetch_factor": 4, "pin_memory": True} if workers else {}
    # The order of the sampler is kept, so that the run does not depend on the workers.
    return iter(DataLoader(steps, batch_size=None, sampler=range(first, steps.steps), num_workers=workers, **more))
