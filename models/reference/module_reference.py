"""Reference of the module mathematics, written apart from the Rust crate and compared with it.

    python models/reference/module_reference.py            write the golden files
    python models/reference/module_reference.py --check    compare with them; exit 1 if they differ

makes tests/golden/module-reference.safetensors: a fixed case with the outputs,
losses and gradients of every kind and recipe, the modules solved from exact
sums, and metrics. numpy only; every formula is the direct one, in f64. Where
scikit-learn is installed the metrics and the ridge regression are also held
to it. It also makes the golden module files, byte by byte as
docs/module-format.md says, and the golden sums.

passes, losses: sizes, layout, forward, gradients. classify, forecast, anomaly: sums
and closed forms by kind. figures: metrics. files: the bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from anomaly import anomaly_sums, whitening
from classify import ladder_start, solve, sums, weighted
from figures import metrics
from files import differences, encode, kind_file, module_file, sums_file
from forecast import forecast_solve, forecast_start, forecast_sums, held_to_sklearn
from losses import gradient, loss, loss_and_gradient
from numpy.typing import NDArray
from passes import EXITS, FEATURES, HORIZON, LEVELS, OUTPUTS, SAMPLES, forward, tensors

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"


def case() -> dict[str, NDArray]:
    """The fixed case: inputs and everything computed from them."""
    rng = np.random.default_rng(20)
    labels = rng.choice([0, 1, 3], SAMPLES).astype(np.uint16)  # class 2 has no samples
    shift = rng.normal(size=(EXITS, OUTPUTS, FEATURES))
    z = rng.normal(size=(SAMPLES, EXITS, FEATURES)) @ rng.normal(size=(FEATURES, FEATURES)) * 0.5
    z += shift[:, labels].transpose(1, 0, 2)
    q = np.clip(np.rint(np.clip(z, -8, 8) * 4096), -32768, 32767).astype(np.int16)
    z = q / 4096.0
    offset = rng.normal(size=OUTPUTS).astype(np.float32)
    weights = rng.uniform(0.5, 1.5, SAMPLES).astype(np.float32)
    content = {"q": q, "labels": labels, "offset": offset, "weights": weights, "sums": sums(q, labels)}
    for recipe in ("probe", "ladder"):
        size = sum(int(np.prod(dims)) for _, dims in tensors(recipe))
        params = (0.5 * rng.normal(size=size)).astype(np.float32)
        args = (params.astype(np.float64), z, labels, offset.astype(np.float64), weights.astype(np.float64))
        content |= {
            f"{recipe}.params": params,
            f"{recipe}.logits": forward(recipe, args[0], z),
            f"{recipe}.loss": np.array([loss(recipe, *args)]),
            f"{recipe}.gradient": gradient(recipe, *args),
        }
    for name, shrinkage in (("auto", None), ("fixed", 0.2)):
        content[f"solved.{name}"] = solve(z, labels, shrinkage)
        content[f"start.{name}"] = ladder_start(z, labels, shrinkage)
        content[f"weighted.{name}"] = weighted(content[f"solved.{name}"])
    # A linear law of some features, step by step weaker, in noise.
    law = rng.normal(size=(FEATURES, HORIZON)) * 0.1 * np.array([3, 2, 1])
    y = np.clip(np.rint((z[:, -1] @ law + 0.3 * rng.normal(size=(SAMPLES, HORIZON))) * 4096), -32768, 32767)
    y = y.astype(np.int16)
    target = y / 4096.0
    anomalous = (np.arange(SAMPLES) % 5 == 4).astype(np.uint16)
    normal = z[anomalous == 0]
    content |= {"y": y, "anomalous": anomalous}
    content |= {"forecast.sums": forecast_sums(q, y), "anomaly.sums": anomaly_sums(q, anomalous)}
    for name, penalty in (("auto", None), ("fixed", 0.2)):
        content[f"forecast.solved.{name}"] = forecast_solve(z, target, penalty)
        content[f"forecast.patterned.{name}"] = forecast_solve(z, target, penalty, patterned=True)
        content[f"forecast.start.{name}"] = forecast_start(z, target, penalty)
        content[f"anomaly.solved.{name}"] = whitening(normal, None, penalty)
        content[f"anomaly.start.{name}"] = whitening(normal, OUTPUTS, penalty)
    wide = HORIZON * len(LEVELS)
    for kind, recipe, outputs, wanted in (
        ("pinball", "probe", wide, target),
        ("pinball", "ladder", wide, target),
        ("huber", "ladder", wide, target),
        ("anomaly", "probe", OUTPUTS, anomalous),
    ):
        size = sum(int(np.prod(dims)) for _, dims in tensors(recipe, outputs))
        params = (0.3 * rng.normal(size=size)).astype(np.float32)
        value, slope = loss_and_gradient(kind, recipe, outputs, params.astype(float), z, wanted)
        name = f"{kind}.{recipe}"
        content |= {f"{name}.params": params, f"{name}.loss": np.array([value]), f"{name}.gradient": slope}
    held_to_sklearn(z, target)
    return content | metrics(rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the golden files instead of writing them")
    check = parser.parse_args().check
    content = case()
    files = {
        "module-v1.safetensors": module_file("shared", "F16"),
        "module-v1-personal.safetensors": module_file("personal", "F32"),
        "module-v1-forecast.safetensors": kind_file("forecast"),
        "module-v1-anomaly.safetensors": kind_file("anomaly"),
        "module-sums-v1.bin": sums_file(content["sums"]),
        "module-sums-v1-forecast.bin": sums_file(content["forecast.sums"], HORIZON, 2),
        "module-sums-v1-anomaly.bin": sums_file(content["anomaly.sums"], 2, 1),
    }
    reference = GOLDEN / "module-reference.safetensors"
    if check:
        wrong = [f"{reference.name}: {name}" for name in differences(reference.read_bytes(), content)]
        wrong += [name for name, raw in files.items() if (GOLDEN / name).read_bytes() != raw]
        if wrong:
            raise SystemExit("golden files differ from the reference:\n" + "\n".join(wrong))
        print(f"{len(files) + 1} golden files agree with the reference, {len(content)} arrays in {reference.name}")
        return
    reference.write_bytes(encode(content))
    for name, raw in files.items():
        (GOLDEN / name).write_bytes(raw)
        print(f"{name}: {len(raw)} bytes")


if __name__ == "__main__":
    main()
