"""Weights to bundle: export, quantize, measure the feature statistics, write, golden vectors.

    python -m loadonce_models.assemble --scale tiny --build build/sense-tiny
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from . import bundle, directions, export, golden
from .engine import Engine
from .quantize import quantize


def segments(weights: export.Weights, int8: bool = True) -> list[bytes]:
    """Serialized segments of a network."""
    count = sum(name.endswith(".qkv.weight") for name in weights) // export.SEGMENT
    models = [export.segment(weights, number) for number in range(1, count + 1)]
    return [(quantize(model) if int8 else model).SerializeToString(deterministic=True) for model in models]


def assemble(scale: str, build: Path, weights: str, folder: Path, samples: int = 3000) -> str:
    """Builds a bundle from `weights` in the build folder; returns the fingerprint."""
    source = build / weights
    tensors = load_file(source)
    parts = segments(tensors)
    statistics = directions.build(Engine(parts), samples)
    parameters = sum(int(np.prod(w.shape)) for w in tensors.values())
    size = source.stat().st_size
    return bundle.write(folder, scale, parts, statistics, parameters=parameters, fp32_bytes=size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=bundle.SIZE_LIMITS, required=True)
    parser.add_argument("--build", type=Path, required=True, help="folder with weights and random.safetensors")
    parser.add_argument("--samples", type=int, default=3000, help="generated samples per modality for the statistics")
    args = parser.parse_args()
    for weights, name in (("weights", f"sense-{args.scale}"), ("random", f"sense-{args.scale}-random")):
        folder = args.build / "bundles" / name
        fingerprint = assemble(args.scale, args.build, f"{weights}.safetensors", folder, args.samples)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{name}: {size} bytes, fingerprint {fingerprint}")
    trained = args.build / "bundles" / f"sense-{args.scale}"
    shutil.copy(trained / "features.safetensors", args.build)  # what a student distils from
    golden.write(args.build / "golden", bundle.Backbone(trained))


if __name__ == "__main__":
    main()
