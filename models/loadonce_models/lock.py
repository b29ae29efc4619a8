"""Writes a hash-checked lock from a requirements file.

    python -m loadonce_models.lock requirements.in requirements.lock
    python -m loadonce_models.lock --everywhere requirements-test.in requirements-test.lock

Names every package of the resolved set with the sha256 of the wheel that this
Python and platform use, for `pip install --require-hashes`; with `--everywhere`
also the wheels of every other Python and processor that the tests support.
Versions are those that this Python resolves to, so run it with the oldest one.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

# Debian 12 and 13, Ubuntu 24.04 and what comes after.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PROCESSORS = ("x86_64", "aarch64")
GLIBCS = ("2_17", "2_24", "2_26", "2_27", "2_28")

Found = dict[tuple[str, str], set[str]]


def resolve(arguments: list[str]) -> Found:
    """Hashes by name and version of everything pip would install into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run"]
    command += ["--ignore-installed", "--only-binary=:all:", "--report", "-", *arguments]
    report = subprocess.run(command, check=True, capture_output=True)
    found: Found = {}
    for item in json.loads(report.stdout)["install"]:
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        name = item["metadata"]["name"].lower().replace("_", "-")
        found.setdefault((name, item["metadata"]["version"]), set()).add(digest)
    return found


def elsewhere(found: Found) -> None:
    """Adds the wheels that other Pythons and processors use for the same versions."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "pins.txt")
        pins.write_text("".join(f"{name}=={version}\n" for name, version in found))
        for python in PYTHONS:
            for processor in PROCESSORS:
                tags = [f"manylinux_{glibc}_{processor}" for glibc in GLIBCS] + [f"manylinux2014_{processor}"]
                chosen = [part for tag in tags for part in ("--platform", tag)]
                # The set is complete, so no dependency is looked up: markers would be those of this Python.
                target = ["--target", folder, "--no-deps", "--python-version", python, "-r", str(pins)]
                for key, digests in resolve([*chosen, *target]).items():
                    found[key] |= digests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--everywhere", action="store_true")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    found = resolve(["-r", str(args.source)])
    here = f"CPython {platform.python_version().rsplit('.', 1)[0]}, {platform.machine()} Linux"
    if args.everywhere:
        elsewhere(found)
        here = f"CPython {' '.join(PYTHONS)} on {' and '.join(PROCESSORS)} Linux"
    lines = [f"# {here}; made from {args.source.name} by loadonce_models.lock.\n"]
    for (name, version), digests in sorted(found.items()):
        lines.append(f"{name}=={version}" + "".join(f" \\\n    --hash=sha256:{d}" for d in sorted(digests)) + "\n")
    args.target.write_text("".join(lines))


if __name__ == "__main__":
    main()
