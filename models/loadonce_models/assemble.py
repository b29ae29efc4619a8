"""Weights to bundle: export, quantize, measure the feature statistics, write, golden vectors.

python -m loadonce_models.assemble --weights build/sense-tiny/weights.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from . import bundle, directions, export, golden
from .engine import Engine
from .quantize import quantize

ROOT = Path(__file__).resolve().parents[2]


def segments(weights: export.Weights, int8: bool = True) -> list[bytes]:
    """Serialized segments of a network."""
    count = sum(name.endswith(".qkv.weight") for name in weights) // export.SEGMENT
    models = [export.segment(weights, number) for number in range(1, count + 1)]
    return [(quantize(model) if int8 else model).SerializeToString(deterministic=True) for model in models]


def assemble(weights_file: Path, folder: Path, golden_folder: Path, samples: int) -> str:
    """Builds a bundle and its golden vectors from fp32 weights; returns the fingerprint."""
    weights = load_file(weights_file)
    parts = segments(weights)
    tensors = directions.build(Engine(parts), samples)
    parameters = sum(int(np.prod(w.shape)) for w in weights.values())
    fingerprint = bundle.write(folder, parts, tensors, parameters=parameters, fp32_bytes=weights_file.stat().st_size)
    golden.write(golden_folder, bundle.Backbone(folder))
    return fingerprint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=ROOT / "models/bundles/sense-tiny")
    parser.add_argument("--golden", type=Path, default=ROOT / "tests/golden")
    parser.add_argument("--samples", type=int, default=3000, help="generated samples per modality for the statistics")
    args = parser.parse_args()
    fingerprint = assemble(args.weights, args.bundle, args.golden, args.samples)
    size = sum(path.stat().st_size for path in args.bundle.iterdir())
    print(f"{args.bundle.name}: {size} bytes, fingerprint {fingerprint}")


if __name__ == "__main__":
    main()
