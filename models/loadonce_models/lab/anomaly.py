"""Anomalies: the sets, the two baselines on raw windows, and what the backbones' modules find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ..data.anomalies import CLASSES, WATCHED, Watched
from ..data.store import save
from . import stats
from .backbones import Bundle
from .classify import Lab
from .protocol import anomaly_manifest, protocol, write_if_new
from .raw import features as raw_features

F64 = NDArray[np.float64]


def write(watched: Watched, path: Path) -> None:
    """The data file that `loadonce evaluate` reads: a labelled set with the events and what calibrates."""
    save(watched.data, path)
    tensors = load_file(path)
    tensors["events"] = watched.events.astype(np.int32)
    if watched.calibrate is not None:
        tensors["calibrate"] = watched.calibrate
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"classes": json.dumps(CLASSES)})
    part.replace(path)


def _split(watched: Watched) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Normal training samples to fit, the held-out ones, and the test samples; as the product splits them."""
    data = watched.data
    normal, test = np.where((data.test == 0) & (data.y == 0))[0], np.where(data.test == 1)[0]
    if watched.calibrate is not None:
        flags = watched.calibrate[normal] == 1
        return normal[~flags], normal[flags], test
    keys = [blake3.blake3(f"heldout {row}".encode()).digest() for row in normal]
    ranked = normal[sorted(range(len(normal)), key=keys.__getitem__)]
    held = len(normal) // 2
    return np.sort(ranked[held:]), ranked[:held], test


def auc(scores: F64, bad: NDArray[np.bool_]) -> tuple[float | None, float | None]:
    """ROC-AUC and average precision; None without both kinds of samples."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    if bad.all() or not bad.any():
        return None, None
    return float(roc_auc_score(bad, scores)), float(average_precision_score(bad, scores))


def _judge(watched: Watched, held: F64, tested: F64, test: NDArray[np.int64]) -> dict[str, Any]:
    """The figures of a baseline, its alarm calibrated as the product calibrates its own."""
    bad = watched.data.y[test] == 1
    roc, pr = auc(tested, bad)
    out: dict[str, Any] = {"roc_auc": roc, "pr_auc": pr, "event_recall": None, "false_alarms": None}
    share = protocol()["anomaly"]["false_alarms"]
    rank = int(np.ceil((1 - share) * (len(held) + 1) - 1e-9))
    if rank <= len(held):
        threshold = np.sort(held)[rank - 1]
        events = watched.events[test]
        numbers = sorted(set(events.tolist()) - {0})
        if numbers:
            out["event_recall"] = float(np.mean([(tested[events == n] > threshold).any() for n in numbers]))
        out["false_alarms"] = float((tested[~bad] > threshold).mean())
    return out


def baselines(watched: Watched) -> dict[str, Any]:
    """Reconstruction by principal components, and the isolation forest."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest

    fixed = protocol()["anomaly"]
    fit, held, test = _split(watched)
    x = raw_features(watched.data, fixed["raw_features"], fit)[:, 0].astype(np.float64)
    pca = PCA(n_components=fixed["explained"], svd_solver="full").fit(x[fit])

    def left(part: F64) -> F64:
        return ((part - pca.inverse_transform(pca.transform(part))) ** 2).mean(1)

    forest = IsolationForest(n_estimators=fixed["trees"], random_state=0).fit(x[fit])
    return {
        "pca": _judge(watched, left(x[held]), left(x[test]), test) | {"components": int(pca.n_components_)},
        "forest": _judge(watched, -forest.score_samples(x[held]), -forest.score_samples(x[test]), test),
    }


def _over(draws: list[dict], exit_index: int, key: str) -> float | None:
    known = [d["exits"][exit_index][key] for d in draws if d["exits"][exit_index][key] is not None]
    return round(stats.mean(known), 5) if known else None


def measure(lab: Lab, name: str, bundle: Bundle, twins: dict[str, Bundle]) -> list[dict[str, Any]]:
    """Entries of the report: one per recipe and exit."""
    spec, fixed = protocol()["anomaly"]["sets"][name], {**protocol()["anomaly"], "sets": None}
    watched = WATCHED[name]()
    data = lab.work / "data" / f"anomaly-{name}.safetensors"
    data.parent.mkdir(parents=True, exist_ok=True)
    write(watched, data)
    key = [spec, fixed, blake3.blake3(data.read_bytes()).hexdigest()]
    known = bool(((watched.data.test == 0) & (watched.data.y == 1)).any())
    rivals = lab.cached("anomaly baselines", name, key, lambda: baselines(watched))
    # Without a labelled anomaly a probe has nothing to learn.
    recipes = [recipe for recipe in fixed["recipes"] if recipe == "moments" or known]

    def run(of: Bundle) -> Any:
        task = lab.work / "tasks" / f"anomaly-{name}-{of.folder.name}.toml"
        write_if_new(task, anomaly_manifest(name, spec, watched.data, of))
        more = ["--recipes", ",".join(recipes), "--draws", str(2 if lab.quick else fixed["draws"])]
        more += ["--anomalies", str(fixed["few_labels"]), *([] if lab.quick else ["--exits"])]
        return lab.evaluate(["--task", task, "--data", data, "--bundle", of.folder, *more])

    shipped = lab.cached(f"{bundle.name} anomaly", name, [bundle.fingerprint, *key], lambda: run(bundle))
    blank = None
    if "random" in twins:
        twin = twins["random"]
        blank = lab.cached(f"{bundle.name} anomaly random", name, [twin.fingerprint, *key], lambda: run(twin))
    out = []
    for recipe in recipes:
        own = [d for d in shipped["draws"] if d["recipe"] == recipe]
        other = [d for d in blank["draws"] if d["recipe"] == recipe] if blank else []
        for k in range(shipped["exits"]):
            first = own[0]["exits"][k]
            out.append(
                {
                    "name": name,
                    "modality": watched.data.modality,
                    "backbone": bundle.name,
                    "recipe": recipe,
                    "exit": k + 1,
                    "labelled_anomalies": own[0]["anomalies"],
                    "draws": len(own),
                    "normals": own[0]["normals"],
                    "calibrated_on": own[0]["calibrated_on"],
                    "test": shipped["test"],
                    "events": len(set(watched.events[watched.data.test == 1].tolist()) - {0}),
                    **{key: _over(own, k, key) for key in ("roc_auc", "pr_auc", "event_recall", "false_alarms")},
                    "event_recall_interval": first["event_recall_interval"],
                    "false_alarms_interval": first["false_alarms_interval"],
                    "promised": first["promised"],
                    "random_roc_auc": _over(other, k, "roc_auc") if other else None,
                    "pca": rivals["pca"],
                    "forest": rivals["forest"],
                    "early": own[0].get("early") if k + 1 == shipped["exits"] else None,
                }
            )
    return out
