"""Writes, reads and verifies a backbone bundle (docs/bundle-format.md)."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import blake3
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from .engine import Engine
from .export import SEGMENT
from .features import project
from .preprocess import (
    GRID, LENGTH, LENGTHS, PATCH, PATCH_SIDE, PICTURE_FIRST, POSITIONS, SIDE, SIDES, WINDOW_FIRST, Plane,
    picture_planes, window_planes,
)  # fmt: skip

MANIFEST = "backbone.toml"
# Bytes of a bundle: what a gateway is asked to hold, and what a repository can.
SIZE_LIMITS = {"tiny": 2_000_000, "small": 6_000_000, "base": 12_000_000}
_MANIFEST_TEXT = """\
format = 2
name = "{name}"
family = "sense"
scale = "{scale}"
version = "2"
licence = "MIT OR Apache-2.0"
parameters = {parameters}
fp32_bytes = {fp32_bytes}
opset = 17
quantization = "dynamic int8, per channel, symmetric 7-bit weights"

[input.window]
lengths = {lengths}
default = {length}
patch = {patch}
first_token = {window_first}
positions = {positions}

[input.picture]
sides = {sides}
default = {side}
patch_side = {patch_side}
first_token = {picture_first}
positions = {grid}

[features]
file = "features.safetensors"
pooled = {pooled}
directions = {directions}
"""


def _segment_text(number: int, segments: int) -> str:
    inputs = '["patches", "token_ids"]' if number == 1 else f'["hidden_{number - 1}"]'
    lines = [
        "",
        "[[segments]]",
        f'file = "segment-{number}.onnx"',
        f"layers = {SEGMENT}",
        f"exit = {number}",
        f"inputs = {inputs}",
    ]
    if number < segments:
        lines.append(f'hidden = "hidden_{number}"')
    return "\n".join([*lines, f'pooled = "pooled_{number}"', ""])


def write(
    folder: Path, scale: str, segments: list[bytes], features: dict[str, NDArray], *, parameters: int, fp32_bytes: int
) -> str:
    """Writes the bundle and returns its fingerprint."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, content in enumerate(segments, 1):
        names.append(f"segment-{number}.onnx")
        (folder / names[-1]).write_bytes(content)
    names.append("features.safetensors")
    save_file({name: np.ascontiguousarray(value) for name, value in features.items()}, folder / names[-1])
    directions, pooled = features["exit_1.projection"].shape
    text = _MANIFEST_TEXT.format(
        name=folder.name, scale=scale, parameters=parameters, fp32_bytes=fp32_bytes, pooled=pooled,
        directions=directions, patch=PATCH, patch_side=PATCH_SIDE, lengths=list(LENGTHS), length=LENGTH,
        window_first=WINDOW_FIRST, positions=POSITIONS, sides=list(SIDES), side=SIDE, picture_first=PICTURE_FIRST,
        grid=GRID,
    )  # fmt: skip
    text += "".join(_segment_text(n, len(segments)) for n in range(1, len(segments) + 1))
    text += "\n[files]\n"
    for name in sorted(names):
        (folder / name).chmod(0o644)
        text += f'"{name}" = "{hashlib.sha256((folder / name).read_bytes()).hexdigest()}"\n'
    (folder / MANIFEST).write_bytes(text.encode())
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > SIZE_LIMITS[scale]:
        raise ValueError(f"{folder.name} holds {size} bytes, above the limit of {SIZE_LIMITS[scale]}")
    return verify(folder)


def verify(folder: Path) -> str:
    """Checks every file against the manifest and returns the fingerprint."""
    raw = (folder / MANIFEST).read_bytes()
    listed = tomllib.loads(raw.decode())["files"]
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if present != set(listed):
        raise ValueError(f"{folder.name} lists {sorted(listed)} but holds {sorted(present)}")
    for name, expected in listed.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f"{folder.name}/{name} has sha256 {found}, the manifest says {expected}; rebuild it")
    return blake3.blake3(raw).hexdigest()


class Backbone:
    """A verified bundle, ready to encode windows and pictures."""

    def __init__(self, folder: Path):
        self.fingerprint = verify(folder)
        manifest = tomllib.loads((folder / MANIFEST).read_text())
        self.engine = Engine([str(folder / part["file"]) for part in manifest["segments"]])
        self.features = load_file(folder / manifest["features"]["file"])

    def planes(self, planes: list[Plane]) -> NDArray[np.float32]:
        """The planes of one sample to z [channels, exits, directions]; each channel is encoded on its own."""
        return project(np.stack([self.engine.pooled(plane.patches, plane.ids) for plane in planes]), self.features)

    def window(self, channels: NDArray, length: int = LENGTH) -> NDArray[np.float32]:
        """[channels, L] to z [channels, exits, directions]."""
        return self.planes(window_planes(channels, length))

    def picture(self, picture: NDArray, side: int = SIDE, colour: bool = False) -> NDArray[np.float32]:
        """One picture to z [1 or 3, exits, directions]."""
        return self.planes(picture_planes(picture, side, colour))
