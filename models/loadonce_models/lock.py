"""Writes a hash-checked lock from a requirements file, for the running Python and platform.

    python -m loadonce_models.lock requirements.in requirements.lock

Names every package of the resolved set with the sha256 of the one wheel that
this platform uses, for `pip install --require-hashes`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def resolve(requirements: Path) -> list[tuple[str, str, str]]:
    """Name, version and sha256 of everything pip would install into an empty environment."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--only-binary=:all:",
    ]
    report = subprocess.run([*command, "--report", "-", "-r", str(requirements)], check=True, capture_output=True)
    found = []
    for item in json.loads(report.stdout)["install"]:
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        found.append((item["metadata"]["name"].lower().replace("_", "-"), item["metadata"]["version"], digest))
    return sorted(found)


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    lines = [f"# CPython 3.11, x86-64 Linux; made from {source.name} by loadonce_models.lock.\n"]
    lines += [f"{name}=={version} --hash=sha256:{digest}\n" for name, version, digest in resolve(source)]
    target.write_text("".join(lines))


if __name__ == "__main__":
    main()
