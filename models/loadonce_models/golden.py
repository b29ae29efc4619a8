"""Golden vectors that hold every implementation to the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from .bundle import Backbone
from .preprocess import picture_patches, window_patches

_LENGTHS = {
    "window_1": (1, 256),
    "window_2": (3, 100),
    "window_3": (2, 1000),
    "window_4": (1, 24),
    "window_5": (2, 1),
    "window_6": (1, 513),
}
_SIZES = {"picture_1": (8, 8), "picture_2": (32, 32), "picture_3": (45, 30), "picture_4": (100, 80, 3)}
_FEATURES = ("window_1", "window_2", "window_3", "picture_1", "picture_3", "picture_4")


def samples() -> dict[str, NDArray]:
    """Inputs that touch every branch of pre-processing; window_2 has a constant channel."""
    rng = np.random.default_rng(7)
    out: dict[str, NDArray] = {}
    for name, (channels, length) in _LENGTHS.items():
        t = np.linspace(0, 1, length)
        pitch = rng.uniform(2, 12, (channels, 1))
        wave = 3.0 + np.sin(6.283 * pitch * t) + 0.2 * rng.normal(size=(channels, length))
        out[name] = wave.astype(np.float32)
    out["window_2"][1] = 4.25
    for name, shape in _SIZES.items():
        y, x = np.meshgrid(*(np.linspace(0, 1, s) for s in shape[:2]), indexing="ij")
        base = 120 + 70 * np.sin(9 * x + 5 * y)
        if len(shape) == 3:
            base = np.stack([base, 255 - base, base / 2], -1)
        out[name] = np.clip(base + 20 * rng.normal(size=shape), 0, 255).astype(np.uint8)
    return out


def write(folder: Path, backbone: Backbone) -> None:
    """Writes preprocess.safetensors and features.safetensors."""
    tokens: dict[str, NDArray] = {}
    features: dict[str, NDArray] = {}
    for name, sample in samples().items():
        picture = name.startswith("picture")
        tokens[f"{name}.in"] = sample
        tokens[f"{name}.out"] = picture_patches(sample) if picture else window_patches(sample)
        if name in _FEATURES:
            features[f"{name}.in"] = sample
            z = backbone.picture(sample) if picture else backbone.window(sample)
            for k in range(z.shape[1]):
                features[f"{name}.z{k + 1}"] = np.ascontiguousarray(z[:, k])
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in (("preprocess", tokens), ("features", features)):
        path = folder / f"{name}.safetensors"
        save_file(tensors, path)
        path.chmod(0o644)
