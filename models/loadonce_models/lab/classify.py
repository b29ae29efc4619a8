"""Runs every labelled set through every backbone that takes it, and keeps what was measured.

A result is a JSON file named by the blake3 of all it depends on, so that an
interrupted run goes on and a changed bundle, set or protocol is measured again.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import blake3

from .. import data as sets
from ..data import Data
from . import raw, scratch
from .backbones import Bundle
from .protocol import digest, manifest, protocol, write_if_new


@dataclass
class Lab:
    """Where things are and how much is asked."""

    loadonce: Path
    work: Path
    quick: bool = False
    threads: int = 2
    scratch: bool = True
    labels: list[str] = field(default_factory=lambda: list(protocol()["classify"]["labels_per_class"]))
    draws: int = protocol()["classify"]["draws"]
    recipes: list[str] = field(default_factory=lambda: list(protocol()["classify"]["recipes"]))

    def say(self, text: str) -> None:
        """Progress, with the time."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def path(self, kind: str, name: str, key: list[object]) -> Path:
        """Where a result is kept."""
        return self.work / "results" / f"{name}-{kind.replace(' ', '-')}-{digest(kind, key)}.json"

    def keep(self, kind: str, name: str, key: list[object], result: Any) -> None:
        """Keeps a result; a reader never sees half of it."""
        path = self.path(kind, name, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result))
        part.replace(path)

    def cached(self, kind: str, name: str, key: list[object], make: Callable[[], Any]) -> Any:
        """The result of `make`, from its file when there is one."""
        path = self.path(kind, name, key)
        if not path.exists():
            begun = time.monotonic()
            self.keep(kind, name, key, make())
            self.say(f"{name}, {kind}: {time.monotonic() - begun:.0f} s")
        return json.loads(path.read_text())

    def evaluate(self, arguments: list[str | Path]) -> Any:
        """`loadonce evaluate`, its figures."""
        out = self.work / "figures.json"
        command = [self.loadonce, "evaluate", "--threads", str(self.threads), "--out", out, *arguments]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(str(part) for part in command)}\n{done.stderr}")
        return json.loads(out.read_text())


def _bench(lab: Lab, name: str, spec: dict, data: Data, bundle: Bundle, more: list[str | Path]) -> Any:
    """One backbone on one set."""
    task = lab.work / "tasks" / f"{name}-{bundle.name}.toml"
    write_if_new(task, manifest(name, spec, data, bundle))
    return lab.evaluate(["--task", task, "--data", sets.path(name), *more])


def features_file(lab: Lab, name: str, spec: dict, bundle: Bundle) -> Path:
    """Where a backbone's features of a set are kept."""
    key = digest(bundle.fingerprint, spec, protocol()["classify"]["features"], _hash(name))
    path = lab.work / "features" / f"{name}-{bundle.folder.name}-{key}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _hash(name: str) -> str:
    return blake3.blake3(sets.path(name).read_bytes()).hexdigest()


def _common(lab: Lab) -> list[str]:
    return ["--recipes", ",".join(lab.recipes), "--labels", ",".join(lab.labels), "--draws", str(lab.draws)]


def measure(lab: Lab, name: str, bundle: Bundle, twins: dict[str, Bundle]) -> dict[str, Any]:
    """Everything about one set on one backbone: {pretrained, random, raw, logistic, scratch, int8, early}."""
    spec, data = protocol()["sets"][name], sets.load(name)
    fixed = protocol()["classify"]
    # What neither features nor modules depend on has a key of its own, so that changing it measures only itself again.
    apart = {key: value for key, value in fixed.items() if key not in ("exits", "int8", "scratch")}
    base = [_hash(name), spec, apart, lab.labels, lab.draws, lab.recipes]
    key = [bundle.fingerprint, *base]
    out: dict[str, Any] = {}
    file = features_file(lab, name, spec, bundle)
    own = ["--bundle", bundle.folder, "--features", file]
    out["pretrained"] = lab.cached(
        bundle.name, name, key, lambda: _bench(lab, name, spec, data, bundle, [*own, *_common(lab)])
    )
    early = [
        *own,
        "--recipes",
        ",".join(fixed["exits"]["recipes"]),
        "--labels",
        ",".join(fixed["exits"]["labels_per_class"]),
    ]
    if not lab.quick:
        early_make = lambda: _bench(lab, name, spec, data, bundle, [*early, "--draws", str(lab.draws), "--exits"])  # noqa: E731
        out["early"] = lab.cached(f"{bundle.name} exits", name, [*key, fixed["exits"]], early_make)
    if "random" in twins:
        twin = twins["random"]
        more = ["--bundle", twin.folder, "--features", features_file(lab, name, spec, twin), *_common(lab)]
        out["random"] = lab.cached(
            f"{bundle.name} random", name, [twin.fingerprint, *base], lambda: _bench(lab, name, spec, data, twin, more)
        )
    if "fp32" in twins:
        out["int8"] = lab.cached(
            f"{bundle.name} fp32",
            name,
            [twins["fp32"].fingerprint, *key],
            lambda: _int8(lab, name, spec, data, bundle, twins["fp32"]),
        )
    out["raw"] = lab.cached("raw", name, base, lambda: _raw(lab, name, spec, data, bundle))
    if not lab.quick:
        out["logistic"] = lab.cached("logistic", name, base, lambda: raw.logistic(data, lab.labels, lab.draws))
        if lab.scratch and bundle.scale == "tiny" and data.modality != "text":
            out["scratch"] = lab.cached("scratch", name, scratch_key(name), lambda: scratch.train(name, "tiny"))
    return out


def scratch_key(name: str) -> list[object]:
    """What training from scratch depends on."""
    return [_hash(name), protocol()["sets"][name], protocol()["classify"]["scratch"], "tiny"]


def scratch_all(lab: Lab, names: list[str]) -> None:
    """Trains from scratch on several sets at a time, each on one thread, where there is no result yet."""
    waiting = [name for name in names if not lab.path("scratch", name, scratch_key(name)).exists()]
    if not waiting:
        return
    lab.say(f"training from scratch on {len(waiting)} sets, {lab.threads} at a time")
    with ProcessPoolExecutor(lab.threads, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(scratch.train, name, "tiny"): name for name in waiting}
        for done in as_completed(running):
            name = running[done]
            lab.keep("scratch", name, scratch_key(name), done.result())
            lab.say(f"{name}: trained from scratch")


def _raw(lab: Lab, name: str, spec: dict, data: Data, bundle: Bundle) -> Any:
    file = lab.work / "features" / f"{name}-raw.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    raw.write(data, _hash(name), file)
    return _bench(lab, name, spec, data, bundle, ["--features", file, *_common(lab)])


def _int8(lab: Lab, name: str, spec: dict, data: Data, bundle: Bundle, twin: Bundle) -> Any:
    other = features_file(lab, name, spec, twin)
    one = ["--recipes", "moments", "--labels", "all", "--draws", "1"]
    if not other.exists():
        _bench(lab, name, spec, data, twin, ["--bundle", twin.folder, "--features", other, *one])
    mine = ["--bundle", bundle.folder, "--features", features_file(lab, name, spec, bundle)]
    return _bench(lab, name, spec, data, bundle, [*mine, "--against", other, *one])["against"]
