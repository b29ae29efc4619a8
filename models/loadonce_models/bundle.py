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
from .features import project
from .preprocess import PICTURE_IDS, WINDOW_IDS, picture_patches, window_patches

MANIFEST = "backbone.toml"
SIZE_LIMIT = 2_000_000
_MANIFEST_TEXT = """\
format = 1
name = "{name}"
family = "sense"
scale = "tiny"
version = "1"
licence = "MIT OR Apache-2.0"
parameters = {parameters}
fp32_bytes = {fp32_bytes}
opset = 17
quantization = "dynamic int8, per channel, symmetric 7-bit weights"

[input]
modalities = ["window", "picture"]
patch = 16
window_length = 256
window_first_token = 0
picture_side = 32
picture_patch_side = 4
picture_first_token = 16

[features]
file = "features.safetensors"
pooled = 256
directions = 128
"""


def _segment_text(number: int, segments: int) -> str:
    inputs = '["patches", "token_ids"]' if number == 1 else f'["hidden_{number - 1}"]'
    lines = [
        "",
        "[[segments]]",
        f'file = "segment-{number}.onnx"',
        "layers = 2",
        f"exit = {number}",
        f"inputs = {inputs}",
    ]
    if number < segments:
        lines.append(f'hidden = "hidden_{number}"')
    return "\n".join([*lines, f'pooled = "pooled_{number}"', ""])


def write(
    folder: Path, segments: list[bytes], features: dict[str, NDArray], *, parameters: int, fp32_bytes: int
) -> str:
    """Writes the bundle and returns its fingerprint."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, content in enumerate(segments, 1):
        names.append(f"segment-{number}.onnx")
        (folder / names[-1]).write_bytes(content)
    names.append("features.safetensors")
    save_file({name: np.ascontiguousarray(value) for name, value in features.items()}, folder / names[-1])
    text = _MANIFEST_TEXT.format(name=folder.name, parameters=parameters, fp32_bytes=fp32_bytes)
    text += "".join(_segment_text(n, len(segments)) for n in range(1, len(segments) + 1))
    text += "\n[files]\n"
    for name in sorted(names):
        (folder / name).chmod(0o644)
        text += f'"{name}" = "{hashlib.sha256((folder / name).read_bytes()).hexdigest()}"\n'
    (folder / MANIFEST).write_bytes(text.encode())
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > SIZE_LIMIT:
        raise ValueError(f"{folder.name} holds {size} bytes, above the limit of {SIZE_LIMIT}")
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

    def window(self, channels: NDArray) -> NDArray[np.float32]:
        """[channels, length] to z [channels, exits, 128]; each channel is encoded on its own."""
        return project(self.engine.pooled_all(window_patches(channels), WINDOW_IDS), self.features)

    def picture(self, picture: NDArray) -> NDArray[np.float32]:
        """One picture to z [1, exits, 128]."""
        return project(self.engine.pooled_all([picture_patches(picture)], PICTURE_IDS), self.features)
