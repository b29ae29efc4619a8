"""From results to the entries of models/report/report.json."""

from __future__ import annotations

from typing import Any

from ..data import load
from . import stats
from .backbones import Bundle
from .protocol import protocol

Entry = dict[str, Any]


def accuracies(result: Entry | None, recipe: str, labels: str, exit_index: int) -> list[float]:
    """One accuracy per draw; empty where it was not measured."""
    draws = result["draws"] if result else []
    own = sorted((d for d in draws if d["recipe"] == recipe and d["labels"] == labels), key=lambda d: d["draw"])
    return [d["accuracy"][exit_index] for d in own]


def _mean(values: list[float]) -> float | None:
    return round(stats.mean(values), 5) if values else None


def _gain(a: list[float], b: list[float]) -> Entry | None:
    """Paired gain in points with its interval, where both were drawn more than once."""
    found = stats.paired(a, b) if len(a) == len(b) else None
    return found and {key: round(100 * value, 3) for key, value in zip(("mean", "low", "high"), found, strict=True)}


def sets(name: str, bundle: Bundle, result: Entry) -> list[Entry]:
    """One entry per number of labels and exit."""
    fixed, recipe, out = protocol()["classify"], protocol()["classify"]["headline"], []
    pretrained = result["pretrained"]
    labels_seen = list(dict.fromkeys(d["labels"] for d in pretrained["draws"]))
    recipes = [r for r in fixed["recipes"] if any(d["recipe"] == r for d in pretrained["draws"])]
    for labels in labels_seen:
        raw = accuracies(result["raw"], recipe, labels, 0)
        scratch = result.get("scratch", {}).get(labels, [])
        for k in range(pretrained["exits"]):
            own = accuracies(pretrained, recipe, labels, k)
            blank = accuracies(result.get("random"), recipe, labels, k)
            out.append(
                {
                    "name": name,
                    "modality": load(name).modality,
                    "backbone": bundle.name,
                    "labels_per_class": labels,
                    "exit": k + 1,
                    "pretrained": _mean(own),
                    "random": _mean(blank),
                    "raw": _mean(raw),
                    "scratch": _mean(scratch),
                    "spread": round(stats.spread(own), 5),
                    "random_spread": round(stats.spread(blank), 5) if blank else None,
                    "raw_spread": round(stats.spread(raw), 5) if raw else None,
                    "scratch_spread": round(stats.spread(scratch), 5) if scratch else None,
                    "draws": len(own),
                    "train": pretrained["train"],
                    "test": pretrained["test"],
                    "classes": pretrained["classes"],
                    "recipes": {r: _mean(accuracies(pretrained, r, labels, k)) for r in recipes},
                    "recipes_spread": {
                        r: round(stats.spread(accuracies(pretrained, r, labels, k)), 5) for r in recipes
                    },
                    "raw_logistic": _mean(result.get("logistic", {}).get(labels, [])),
                    "gain_over_random": _gain(own, blank),
                    "gain_over_raw": _gain(own, raw),
                }
            )
    return out


def exits(name: str, bundle: Bundle, result: Entry, latency: list[Entry]) -> list[Entry]:
    """What early exits saved and cost, per recipe and number of labels, mean over the draws."""
    draws = result.get("early", {}).get("draws", [])
    out = []
    for recipe, labels in dict.fromkeys((d["recipe"], d["labels"]) for d in draws):
        early = [d["early"] for d in draws if (d["recipe"], d["labels"]) == (recipe, labels)]
        shares = [stats.mean(column) for column in zip(*(e["shares"] for e in early), strict=True)]
        out.append(
            {
                "name": name,
                "backbone": bundle.name,
                "kind": "classify",
                "labels_per_class": labels,
                "recipe": recipe,
                "draws": len(early),
                "calibrated_on": early[0]["calibrated_on"],
                "measured_on": early[0]["measured_on"],
                "mean_exit": round(stats.mean([e["mean_exit"] for e in early]), 4),
                "shares": [round(share, 5) for share in shares],
                "mean_depth": round(sum(s * (k + 1) for k, s in enumerate(shares)) / len(shares), 4),
                **_saved(protocol()["sets"][name], bundle.name, shares, latency),
                "loss_points": round(100 * stats.mean([e["figure_last"] - e["figure"] for e in early]), 3),
                "disagreement": round(stats.mean([e["disagreement"] for e in early]), 5),
                "on": round(stats.mean([float(e["threshold"] <= 1) for e in early]), 3),
            }
        )
    return out


def _saved(spec: Entry, backbone: str, shares: list[float], latency: list[Entry]) -> Entry:
    """How much faster early exits are in the mean, and what it is computed from."""
    spent, how = _spent(spec, backbone, shares, latency)
    return {"speedup": round(1 / spent, 3), "saved_time": round(1 - spent, 4), "speedup_by": how}


def _spent(spec: Entry, backbone: str, shares: list[float], latency: list[Entry]) -> tuple[float, str]:
    """Mean time with early exits over the time of all segments, and what it is computed from."""
    modality = spec.get("modality", "window")
    kind = "colour" if spec.get("colour") else modality
    own = [row for row in latency if row["backbone"] == backbone and row["modality"] == kind]
    asked = {"window": spec.get("points", 256), "picture": spec.get("side", 32), "text": 32}[modality]
    if own:
        row = min(own, key=lambda row: abs(row["size"] - asked))
        times = [exit_["int8_ms"] for exit_ in row["exits"]]
        return sum(s * t for s, t in zip(shares, times, strict=True)) / times[-1], "measured latency"
    return sum(s * (k + 1) for k, s in enumerate(shares)) / len(shares), "segments run"


def exits_of_kinds(report: Entry, latency: list[Entry]) -> list[Entry]:
    """Early exits of the forecasts and of the anomaly tasks, in closed form."""
    out = []
    for kind, group in (("forecast", "series"), ("anomaly", "sets")):
        for entry in report[kind]:
            early = entry["early"]
            if early is None or entry["recipe"] != "moments":
                continue
            spec = protocol()[kind][group][entry["name"]]
            # A forecast's figure is an error: what is lost is its rise, in percent of the last exit's.
            lost = early["figure_last"] - early["figure"]
            if kind == "forecast":
                lost = -lost / early["figure_last"]
            out.append(
                {
                    "name": entry["name"],
                    "backbone": entry["backbone"],
                    "kind": kind,
                    "labels_per_class": "all",
                    "recipe": "moments",
                    "draws": 1,
                    **{key: early[key] for key in ("calibrated_on", "measured_on", "shares", "disagreement")},
                    "mean_exit": round(early["mean_exit"], 4),
                    "mean_depth": round(early["mean_exit"] / len(early["shares"]), 4),
                    **_saved(spec, entry["backbone"], early["shares"], latency),
                    "loss_points": round(100 * lost, 3),
                    "on": float(early["threshold"] <= 1),
                }
            )
    return out


def retimed(entry: Entry, latency: list[Entry]) -> Entry:
    """An entry of early exits of an earlier run, with its speed from the latest latencies."""
    fixed = protocol()
    specs = {"classify": fixed["sets"], "forecast": fixed["forecast"]["series"], "anomaly": fixed["anomaly"]["sets"]}
    return entry | _saved(specs[entry["kind"]][entry["name"]], entry["backbone"], entry["shares"], latency)


def int8(results: dict[tuple[str, str], Entry], earlier: list[Entry]) -> Entry:
    """int8 against fp32 over all sets, per backbone and exit, and whether the bars hold; `earlier` are loss rows."""
    fixed = protocol()["classify"]["int8"]
    rows = [
        {"backbone": backbone, "name": name, "exit": k, **figures}
        for (backbone, name), result in results.items()
        for k, figures in enumerate(result.get("int8") or [], 1)
    ]
    measured = {row["backbone"] for row in rows}
    rows = [row for row in earlier if row["backbone"] not in measured] + rows
    pooled: dict[tuple[str, int], list[int]] = {}
    for row in rows:
        both = pooled.setdefault((row["backbone"], row["exit"]), [0, 0])
        both[0] += row["same"]
        both[1] += row["samples"]
    agreement = [
        {"backbone": backbone, "exit": k, "samples": n, "same": same, "share": round(same / n, 6)}
        for (backbone, k), (same, n) in pooled.items()
    ]
    everywhere = [sum(a[key] for a in agreement) for key in ("same", "samples")]
    return {
        "agreement": agreement,
        "pooled": round(everywhere[0] / everywhere[1], 6) if agreement else None,
        "agreement_holds": bool(agreement) and all(a["share"] >= fixed["agreement"] for a in agreement),
        "loss": rows,
        "loss_contradicted_by": [[r["backbone"], r["name"], r["exit"]] for r in rows if r["low"] > fixed["points"]],
    }
