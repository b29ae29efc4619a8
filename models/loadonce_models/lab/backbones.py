"""The backbones of a report: what ships, the same network with random weights, and the same weights in fp32.

A twin is the shipped bundle with other segments: so it runs in the same engine,
through the same pre-processing, and differs in nothing else.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

import blake3
from safetensors.numpy import load_file

from ..data import MODELS

MANIFEST = "backbone.toml"


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and what its manifest says."""

    folder: Path
    name: str
    scale: str
    modalities: tuple[str, ...]
    exits: int
    directions: int
    lengths: tuple[int, ...]
    sides: tuple[int, ...]
    fingerprint: str

    def fit(self, key: str, asked: int) -> int:
        """The size that is asked for, or the largest below it (else the smallest) where the bundle lacks it."""
        sizes = self.lengths if key == "points" else self.sides
        return max((size for size in sizes if size <= asked), default=min(sizes, default=asked))


def read(folder: Path) -> Bundle:
    """Reads a bundle's manifest."""
    raw = (folder / MANIFEST).read_bytes()
    text = tomllib.loads(raw.decode())
    taken = text["input"]
    return Bundle(
        folder, text["name"], text.get("scale", ""), tuple(m for m in ("window", "picture", "text") if m in taken),
        len(text["segments"]), text["features"]["directions"], tuple(taken.get("window", {}).get("lengths", ())),
        tuple(taken.get("picture", {}).get("sides", ())), blake3.blake3(raw).hexdigest(),
    )  # fmt: skip


def found() -> list[Bundle]:
    """Every bundle there is, committed (models/bundles) or built (models/build), the sense backbones first, by size."""
    bundles: dict[str, Bundle] = {}
    build = MODELS / "build"
    places = [*(MODELS / "bundles").glob("*"), *build.glob("sense-*/bundles/*"), *build.glob("*"), *build.glob("*/*")]
    for folder in places:
        if (folder / MANIFEST).is_file() and not folder.name.endswith("-random") and folder.parent.name != "twins":
            bundle = read(folder)
            bundles.setdefault(bundle.name, bundle)
    order = ["tiny", "small", "base"]
    size = lambda b: order.index(b.scale) if b.scale in order else len(order)  # noqa: E731
    return sorted(bundles.values(), key=lambda b: ("window" not in b.modalities, size(b), b.name))


def _fp32(original: Bundle, segments: list[bytes], folder: Path) -> Bundle:
    """The original's bundle with its segments in fp32; its statistics stay: the same projection of other numbers."""
    scratch = folder.with_name(folder.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(original.folder, scratch)
    manifest = (scratch / MANIFEST).read_text()
    parts = tomllib.loads(manifest)
    for entry, content in zip(parts["segments"], segments, strict=True):
        (scratch / entry["file"]).write_bytes(content)
    head = manifest.split("\n[files]\n")[0]
    head = re.sub(r'^quantization = ".*"$', 'quantization = "none, fp32"', head, flags=re.M)
    digests = {name: hashlib.sha256((scratch / name).read_bytes()).hexdigest() for name in sorted(parts["files"])}
    files = "".join(f'"{name}" = "{digest}"\n' for name, digest in digests.items())
    (scratch / MANIFEST).write_text(f"{head}\n[files]\n{files}")
    scratch.replace(folder)
    return read(folder)


def _weights(bundle: Bundle, build: Path) -> Path | None:
    """The fp32 weights a bundle was made from, where its builder left them."""
    if "text" in bundle.modalities:
        # The builder of the text backbone keeps them in its own environment.
        found = (MODELS / ".venv-text").glob("lib/python*/site-packages/*minilm*/model/model.safetensors")
        return next(iter(sorted(found)), None)
    path = build / "weights.safetensors"
    return path if path.exists() else None


def _segments(bundle: Bundle, weights: Path) -> list[bytes]:
    if "text" in bundle.modalities:
        from .. import minilm

        return minilm.fp32(load_file(weights))
    from ..assemble import segments

    return segments(load_file(weights), int8=False)


def twins(bundle: Bundle, build: Path, out: Path) -> dict[str, Bundle]:
    """The random and the fp32 twin of a backbone, as far as its builder left what they are made of."""
    made = {}
    beside = build.with_name(f"{build.name}-random")  # of the text backbone
    blank = beside if (beside / MANIFEST).exists() else build / "bundles" / f"{bundle.name}-random"
    if (blank / MANIFEST).exists():
        made["random"] = read(blank)
    folder, weights = out / f"{bundle.name}-fp32-{bundle.fingerprint[:8]}", _weights(bundle, build)
    if not (folder / MANIFEST).exists() and weights is not None:
        out.mkdir(parents=True, exist_ok=True)
        _fp32(bundle, _segments(bundle, weights), folder)
    if (folder / MANIFEST).exists():
        made["fp32"] = read(folder)
    return made
