"""Golden vectors that hold every implementation to the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from .bundle import Backbone
from .preprocess import levels, picture_planes, window_planes

# Channels and points of the windows, and the length they are resampled to.
_WINDOWS = {
    "window_1": (1, 256, 256),
    "window_2": (3, 100, 256),
    "window_3": (2, 1000, 512),
    "window_4": (1, 24, 64),
    "window_5": (2, 1, 128),
    "window_6": (1, 513, 1024),
}
# Shape of the pictures, side, colour.
_PICTURES = {
    "picture_1": ((8, 8), 32, False),
    "picture_2": ((32, 32), 32, True),
    "picture_3": ((45, 30), 16, False),
    "picture_4": ((100, 80, 3), 32, False),
    "picture_5": ((100, 80, 3), 64, True),
    "picture_6": ((40, 64, 3), 48, True),
}
RANGE = (-10.0, 15.0)


def samples() -> dict[str, NDArray]:
    """Inputs that touch every branch of pre-processing; window_2 has a constant channel, picture_6 is 16-bit."""
    rng = np.random.default_rng(7)
    out: dict[str, NDArray] = {}
    for name, (channels, points, _) in _WINDOWS.items():
        t = np.linspace(0, 1, points)
        pitch = rng.uniform(2, 12, (channels, 1))
        wave = 3.0 + np.sin(6.283 * pitch * t) + 0.2 * rng.normal(size=(channels, points))
        out[name] = wave.astype(np.float32)
    out["window_2"][1] = 4.25
    for name, (shape, _, _) in _PICTURES.items():
        y, x = np.meshgrid(*(np.linspace(0, 1, s) for s in shape[:2]), indexing="ij")
        base = 120 + 70 * np.sin(9 * x + 5 * y)
        if len(shape) == 3:
            base = np.stack([base, 255 - base, base / 2], -1)
        picture = np.clip(base + 20 * rng.normal(size=shape), 0, 255)
        out[name] = (picture * 257).astype(np.uint16) if name == "picture_6" else picture.astype(np.uint8)
    return out


def write(folder: Path, backbone: Backbone) -> None:
    """Writes preprocess.safetensors and features.safetensors."""
    tokens: dict[str, NDArray] = {}
    features: dict[str, NDArray] = {}
    for name, sample in samples().items():
        if name in _PICTURES:
            _, size, colour = _PICTURES[name]
            planes, span = picture_planes(sample, size, colour), (0.0, 1.0)
        else:
            size, colour = _WINDOWS[name][2], False
            planes, span = window_planes(sample, size), RANGE
        plan = np.array([size, int(colour)], np.int64)
        tokens |= {f"{name}.in": sample, f"{name}.plan": plan}
        features |= {f"{name}.in": sample, f"{name}.plan": plan}
        tokens[f"{name}.levels"] = np.stack([levels(plane, *span) for plane in planes])
        for c, plane in enumerate(planes):
            tokens |= {f"{name}.out{c + 1}": plane.patches, f"{name}.ids{c + 1}": plane.ids}
        z = backbone.planes(planes)
        for k in range(z.shape[1]):
            features[f"{name}.z{k + 1}"] = np.ascontiguousarray(z[:, k])
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in (("preprocess", tokens), ("features", features)):
        path = folder / f"{name}.safetensors"
        save_file(tensors, path)
        path.chmod(0o644)
