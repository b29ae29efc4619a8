"""Measures a bundle's size and fidelity and writes them into its model card, between two markers.

    python -m loadonce_models.card --build build/sense-tiny --bundle bundles/sense-tiny --card cards/sense-tiny.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.numpy import load_file

from . import fidelity
from .assemble import segments
from .bundle import Backbone
from .engine import Engine

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
# Below these the int8 form is broken, not merely rounded.
LEAST_COSINE, LEAST_AGREEMENT = 0.98, 0.9


def measure(build: Path, bundle: Path) -> dict:
    """All figures of the card."""
    backbone = Backbone(bundle)
    fp32 = Engine(segments(load_file(build / "weights.safetensors"), int8=False))
    figures: dict = {
        "fingerprint": backbone.fingerprint,
        "pretrain": json.loads((build / "pretrain.json").read_text()),
        "files": {path.name: path.stat().st_size for path in sorted(bundle.iterdir())},
        "fidelity": fidelity.agreement(fp32, backbone.engine, backbone.features),
    }
    for name, rows in figures["fidelity"].items():
        for number, row in enumerate(rows, 1):
            if row["mean"] < LEAST_COSINE or row["agreement"] < LEAST_AGREEMENT:
                raise SystemExit(f"{name}, exit {number}: int8 departs from fp32: {row}")
    return figures


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def render(figures: dict) -> str:
    """The figures as Markdown."""
    total = sum(figures["files"].values())
    run = figures["pretrain"]
    took = f"{run['cpu_minutes']} CPU-minutes" if run["cpu_minutes"] else f"{run['wall_minutes']} minutes"
    text = [
        f"Fingerprint `{figures['fingerprint']}`.",
        f"Pretraining: {took} on {run['device']}, {run['steps']} steps, seed {run['seed']}, "
        f"products in {'bf16' if run['bf16'] else 'fp32'}; teacher: {run['teacher'] or 'none'}.\n",
        "### Files\n",
        _table(["file", "bytes"], [[n, f"{s:,}"] for n, s in [*figures["files"].items(), ("together", total)]]),
        "### Fidelity of int8 to fp32\n",
        "600 fresh generated samples per modality; the probe tells families apart and was fitted on fp32.\n",
    ]
    rows = []
    for name, exits in figures["fidelity"].items():
        for k, row in enumerate(exits):
            shown = [
                f"{row['mean']:.4f} / {row['min']:.4f}",
                f"{row['agreement']:.3f}",
                f"{row['fp32']:.3f}",
                f"{row['int8']:.3f}",
            ]
            rows.append([f"{name}, exit {k + 1}", *shown])
    head = ["features", "cosine mean / min", "top-1 agreement", "probe accuracy fp32", "int8"]
    text.append(_table(head, rows))
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--card", type=Path, required=True)
    args = parser.parse_args()
    figures = measure(args.build, args.bundle)
    (args.build / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    card = args.card.read_text()
    before, after = card.split(BEGIN)[0], card.split(END)[1]
    args.card.write_text(f"{before}{BEGIN}\n{render(figures)}\n{END}{after}")


if __name__ == "__main__":
    main()
