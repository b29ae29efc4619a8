"""What one backbone gains over another on the labelled sets, draw by draw: `python -m loadonce_models.lab.compare A B`.

    python -m loadonce_models.lab.compare build/tiny-from-small/bundles/sense-tiny bundles/sense-tiny

A and B are bundle folders of the same number of exits. Results are kept where the report keeps its own, in
models/build/report.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import data
from ..data import MODELS
from . import backbones, cards, classify, stats
from .figures import accuracies
from .protocol import protocol


def _row(recipe: str, labels: str, exit_index: int, pairs: dict[str, tuple[dict, dict]]) -> list[str]:
    """One line of the table: mean gain over the sets, and on how many sets the interval excludes none."""
    gains, better, worse, seen = [], [], [], 0
    for name, (ours, theirs) in pairs.items():
        a, b = (accuracies(result, recipe, labels, exit_index) for result in (ours, theirs))
        gains.append(100 * (stats.mean(a) - stats.mean(b)))
        found = stats.paired(a, b) if len(a) > 1 else None
        if found:
            seen += 1
            better += [name] if found[1] > 0 else []
            worse += [name] if found[2] < 0 else []
    counts = [f"{len(better)} / {len(worse)} of {seen}", ", ".join(worse) or "–"] if seen else ["–", "–"]
    gain = f"{stats.mean(gains):+.2f} ({min(gains):+.1f} to {max(gains):+.1f})"
    return [recipe, labels, str(exit_index + 1), gain, *counts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs=2, metavar="BUNDLE")
    parser.add_argument("--loadonce", type=Path, default=MODELS.parent / "target/release/loadonce")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    # Neither exits nor other baselines than the one of the report.
    lab = classify.Lab(args.loadonce.resolve(), MODELS / "build/report", True, args.threads)
    ours, theirs = (backbones.read(folder) for folder in args.bundles)
    if ours.exits != theirs.exits:
        raise SystemExit(f"{ours.folder} has {ours.exits} exits, {theirs.folder} has {theirs.exits}")
    pairs = {}
    for name in data.LABELLED:
        spec = protocol()["sets"][name]
        if spec["modality"] in ours.modalities and spec["modality"] in theirs.modalities:
            try:
                data.path(name)
            except data.Unavailable as error:
                lab.say(f"{name} is left out: {error}")
                continue
            pairs[name] = tuple(classify.measure(lab, name, bundle, {})["pretrained"] for bundle in (ours, theirs))
    rows = []
    for recipe in ("moments", "ladder"):
        for labels in lab.labels:
            # A ladder's last exit uses the features of all.
            first = 0 if recipe == "moments" else ours.exits - 1
            rows += [_row(recipe, labels, k, pairs) for k in range(first, ours.exits)]
    head = [
        "recipe",
        "labels per class",
        "exit",
        "mean gain over the sets, points (least to most)",
        "better / worse",
        "worse on",
    ]
    print(f"{ours.fingerprint[:8]} against {theirs.fingerprint[:8]}, {len(pairs)} sets:\n")
    print(cards.table(head, rows))


if __name__ == "__main__":
    main()
