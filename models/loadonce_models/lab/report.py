"""Measures every backbone on real data and writes models/report/report.json, the tables and the plots of the cards.

    python -m loadonce_models.lab.report --loadonce ../target/release/loadonce

Everything is resumed from models/build/report; what changed is measured again.
What the report that is there says of backbones that are not measured now stays
(`--backbones`, or one that is not built here), and so do random weights, training
from scratch and int8 against fp32 where what they need is not at hand: as long as
the protocol and the bundle are the same.
`--quick` is a smoke run on the committed sets that writes where --out says and
touches no card.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

from .. import data
from ..data import MODELS
from ..data.anomalies import WATCHED
from ..data.series import SERIES
from . import anomaly, backbones, cards, classify, figures, forecast
from .protocol import PATH, digest, protocol


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _names(lab: classify.Lab, only: list[str]) -> list[str]:
    """The sets that are there, in the protocol's order."""
    names = [n for n in protocol()["sets"] if (not only or n in only) and (not lab.quick or n in data.COMMITTED)]
    there = []
    for name in names:
        try:
            data.path(name)
            there.append(name)
        except data.Unavailable as error:
            lab.say(f"{name} is left out: {error}")
    return there


def _of_kind(
    lab: classify.Lab,
    kind: str,
    names: list[str],
    bundle: backbones.Bundle,
    twins: dict[str, backbones.Bundle],
    measure: Callable[..., list[figures.Entry]],
) -> list[figures.Entry]:
    """Entries of all series or sets that a backbone takes."""
    out = []
    for name in names:
        spec = protocol()[kind]["series" if kind == "forecast" else "sets"][name]
        if spec.get("modality", "window") not in bundle.modalities:
            continue
        try:
            out += measure(lab, name, bundle, twins)
        except data.Unavailable as error:
            lab.say(f"{name} is left out: {error}")
    return out


def _earlier(path: Path, bundles: list[backbones.Bundle], measured: list[backbones.Bundle]) -> dict[str, list]:
    """What the report at `path` says and still holds: of other backbones everything, of the measured ones int8."""
    keys = ("backbones", "sets", "forecast", "anomaly", "exits", "latency", "int8")
    old = json.loads(path.read_text()) if path.exists() else {}
    if old.get("quick", True) or old["protocol"] != digest(PATH.read_text()):
        return {key: [] for key in (*keys, "memory", "again")}
    now = {bundle.name: bundle.fingerprint for bundle in bundles}
    same = {b["name"] for b in old["backbones"] if now.get(b["name"], b["fingerprint"]) == b["fingerprint"]}
    others = same - {bundle.name for bundle in measured}
    kept = {key: [e for e in old[key] if e.get("backbone", e.get("name")) in others] for key in keys[1:-1]}
    kept["backbones"] = [b for b in old["backbones"] if b["name"] in others]
    kept["memory"] = [e for e in old.get("memory", []) if e["backbone"] in same]
    kept["again"] = [e for key in ("sets", "forecast", "anomaly") for e in old[key] if e["backbone"] in same - others]
    return kept | {"int8": [row for row in old["int8"]["loss"] if row["backbone"] in same]}


def _identity(entry: figures.Entry) -> tuple:
    """What an entry is about, whatever was measured."""
    kind = next((key for key in ("labels_per_class", "horizon", "events") if key in entry), "")
    return (kind, *(entry.get(key) for key in ("backbone", "name", "recipe", "labels_per_class", "exit")))


def _completed(entries: list[figures.Entry], again: list[figures.Entry]) -> None:
    """Adds what the report already said of the same bundle and cannot be measured without its builder's files."""
    known = {_identity(entry): entry for entry in again}
    for entry in entries:
        old = known.get(_identity(entry), {})
        for key, value in old.items():
            kept = key.startswith(("random", "scratch")) or key == "gain_over_random"
            if kept and entry.get(key) is None:
                entry[key] = value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loadonce", type=Path, default=MODELS.parent / "target/release/loadonce")
    parser.add_argument("--bench", type=Path, default=MODELS.parent / "target/bench/backbone.json")
    parser.add_argument("--out", type=Path, default=MODELS / "report")
    parser.add_argument("--work", type=Path, default=MODELS / "build/report")
    parser.add_argument("--quick", action="store_true", help="committed sets, few draws, no cards")
    parser.add_argument("--no-scratch", action="store_true", help="leave out training from scratch, the longest part")
    parser.add_argument("--sets", default="", help="only these, separated by commas")
    parser.add_argument("--backbones", default="", help="only these, separated by commas")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    begun = time.monotonic()
    lab = classify.Lab(args.loadonce.resolve(), args.work.resolve(), args.quick, args.threads)
    lab.scratch = not (args.quick or args.no_scratch)
    if args.quick:
        lab.labels, lab.draws, lab.recipes = ["5", "all"], 2, ["moments", "ladder"]
    lab.work.mkdir(parents=True, exist_ok=True)
    only = [part for part in args.backbones.split(",") if part]
    there = backbones.found()
    bundles = [b for b in there if not only or b.name in only]
    earlier = _earlier(args.out / "report.json", there, bundles)
    names = _names(lab, [part for part in args.sets.split(",") if part])
    latency = json.loads(args.bench.read_text())["latency"] if args.bench.exists() else []
    timed = {row["backbone"] for row in latency}
    latency = [row for row in earlier["latency"] if row["backbone"] not in timed] + latency
    memory = json.loads(args.bench.read_text())["memory"] if args.bench.exists() else []
    memory = [row for row in earlier["memory"] if row["backbone"] not in timed] + memory

    results: dict[tuple[str, str], figures.Entry] = {}
    report: dict = {
        "protocol": digest(PATH.read_text()),
        "quick": args.quick,
        "machine": {"processor": _processor(), "python": platform.python_version()},
        "backbones": [],
        **{key: [] for key in ("sets", "forecast", "anomaly", "exits")},
        "latency": latency,
        "memory": memory,
    }
    for bundle in bundles:
        own = [n for n in names if protocol()["sets"][n]["modality"] in bundle.modalities]
        twins = {} if args.quick else backbones.twins(bundle, MODELS / "build" / bundle.name, lab.work / "twins")
        lab.say(f"{bundle.name}: {len(own)} sets; twins: {', '.join(twins) or 'none'}")
        report["backbones"].append({"name": bundle.name, "fingerprint": bundle.fingerprint, "twins": sorted(twins)})
        if bundle.scale == "tiny" and lab.scratch:
            classify.scratch_all(lab, [n for n in own if protocol()["sets"][n]["modality"] != "text"])
        for name in own:
            result = classify.measure(lab, name, bundle, twins)
            results[bundle.name, name] = result
            report["sets"] += figures.sets(name, bundle, result)
            report["exits"] += figures.exits(name, bundle, result, latency)
        if not args.quick and not args.sets:
            for kind, names_of, measure in (
                ("forecast", SERIES, forecast.measure),
                ("anomaly", WATCHED, anomaly.measure),
            ):
                report[kind] += _of_kind(lab, kind, list(names_of), bundle, twins, measure)
    for key in ("sets", "forecast", "anomaly"):
        _completed(report[key], earlier["again"])
    report["exits"] += figures.exits_of_kinds(report, latency)
    earlier["exits"] = [figures.retimed(entry, latency) for entry in earlier["exits"]]
    rank = {bundle.name: number for number, bundle in enumerate(there)}
    for key in ("backbones", "sets", "forecast", "anomaly", "exits"):
        both = earlier[key] + report[key]
        report[key] = sorted(both, key=lambda e: rank.get(e.get("backbone", e["name"]), len(rank)))
    report["int8"] = figures.int8(results, earlier["int8"])
    report["seconds"] = round(time.monotonic() - begun)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    if not args.quick:
        cards.write(report)
    lab.say(f"{len(report['sets'])} figures in {args.out / 'report.json'}, {report['seconds']} s")


if __name__ == "__main__":
    main()
