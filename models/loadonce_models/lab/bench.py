"""Times every exit of every backbone beside its fp32 single graph; writes target/bench/backbone.json.

python -m loadonce_models.lab.bench --loadonce ../target/release/loadonce
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

from .. import single
from ..data import MODELS
from . import backbones


def _inputs(bundle: backbones.Bundle, quick: bool) -> list[str]:
    """Every length and side that the bundle takes, or the usual ones."""
    if quick:
        return [f"{m}:32" if m == "text" else m for m in bundle.modalities]
    found = [f"window:{points}" for points in bundle.lengths] + [f"picture:{side}" for side in bundle.sides]
    found += [f"colour:{side}" for side in bundle.sides]
    return found + ([f"text:{tokens}" for tokens in (16, 32, 64, 128, 256)] if "text" in bundle.modalities else [])


def _run(loadonce: Path, arguments: list[str]) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "bench.json")
        done = subprocess.run([loadonce, "bench", "--out", out, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        print(done.stdout, end="", flush=True)
        return json.loads(out.read_text())


def measure(loadonce: Path, bundle: backbones.Bundle, quick: bool) -> tuple[list[dict], dict]:
    """Latency rows and memory of one backbone."""
    folder = MODELS / "build/report/single" / f"{bundle.name}-{bundle.fingerprint[:8]}"
    if not (folder / single.MANIFEST).exists():
        single.write(bundle.folder, folder)
    inputs = [part for name in _inputs(bundle, quick) for part in ("--input", name)]
    limits = ["--repeats", "20", "--seconds", "1"] if quick else []
    run = _run(loadonce, ["--bundle", str(bundle.folder), "--against", str(folder), *inputs, *limits])
    # A process of its own: otherwise what the segments freed would be found again.
    alone = _run(loadonce, ["--bundle", str(folder), "--repeats", "1", "--seconds", "0.1", *inputs])
    rows = [
        {"backbone": bundle.name, "scale": bundle.scale, "threads": run["threads"], **row} for row in run["latency"]
    ]
    memory = {
        "backbone": bundle.name,
        "bundle_bytes": run["bundle_bytes"],
        "single_bytes": alone["bundle_bytes"],
        "process_bytes": run["memory"]["after_passes"],
        "single_process_bytes": alone["memory"]["after_passes"],
        "ratio": round(run["memory"]["after_passes"] / alone["memory"]["after_passes"], 4),
    }
    return rows, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loadonce", type=Path, default=MODELS.parent / "target/release/loadonce")
    parser.add_argument("--out", type=Path, default=MODELS.parent / "target/bench/backbone.json")
    parser.add_argument("--backbones", default="", help="only these, separated by commas")
    parser.add_argument("--quick", action="store_true", help="usual sizes, a second each")
    args = parser.parse_args()
    only = [part for part in args.backbones.split(",") if part]
    report: dict = {"cores": os.cpu_count(), "latency": [], "memory": []}
    for bundle in backbones.found():
        if only and bundle.name not in only:
            continue
        rows, memory = measure(args.loadonce.resolve(), bundle, args.quick)
        report["latency"] += rows
        report["memory"].append(memory)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"figures in {args.out}")


if __name__ == "__main__":
    main()
