"""Tables and plots of the report, written into the model cards between two markers."""

from __future__ import annotations

from typing import Any

from ..data import MODELS
from . import plots
from .protocol import protocol

BEGIN, END = "<!-- report: begin -->", "<!-- report: end -->"
Report = dict[str, Any]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows]) + "\n"


def _share(value: float | None, spread: float = 0.0) -> str:
    """A share in percent, with the spread of the draws."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + (f" ± {100 * spread:.1f}" if spread else "")


def _transfer(entries: list[dict], exits: int) -> str:
    """One table per number of labels."""
    text = []
    scratch = any(e["scratch"] is not None for e in entries)
    for labels in protocol()["classify"]["labels_per_class"]:
        rows = []
        for name in dict.fromkeys(e["name"] for e in entries):
            own = {e["exit"]: e for e in entries if e["name"] == name and e["labels_per_class"] == labels}
            if not own:
                continue
            last = own[exits]
            rows.append(
                [
                    name,
                    *(_share(own[k]["pretrained"], own[k]["spread"]) for k in range(1, exits + 1)),
                    _share(last["recipes"].get("ladder"), last["recipes_spread"].get("ladder", 0.0)),
                    " / ".join(_share(own[k]["random"]) for k in (1, exits)),
                    " / ".join(_share(last[key]) for key in ("raw", "raw_logistic")),
                    *([_share(last["scratch"])] if scratch else []),
                ]
            )
        if rows:
            head = ["set", *(f"exit {k}" for k in range(1, exits + 1)), f"ladder, exit {exits}"]
            head += [f"random weights, exit 1 / {exits}", "raw input, same recipe / logistic"]
            head += ["from scratch"] if scratch else []
            count = "All labels" if labels == "all" else f"{labels} labels per class"
            text += [f"**{count}**\n", table(head, rows)]
    return "\n".join(text)


def _verdicts(entries: list[dict], exits: int) -> str:
    """On how many sets the backbone helps, and the ones where it does not, by the paired intervals over the draws."""
    lines = []
    for labels in ("5", "10", "50"):
        for rival, key in (("random weights", "gain_over_random"), ("raw input", "gain_over_raw")):
            # Without a width the draws were all one: the set has no more samples than were asked for.
            own = [
                e
                for e in entries
                if e["labels_per_class"] == labels and e["exit"] == exits and e[key] and e[key]["low"] < e[key]["high"]
            ]
            if not own:
                continue
            better = [e["name"] for e in own if e[key]["low"] > 0]
            worse = [f"{e['name']} ({e[key]['mean']:+.1f})" for e in own if e[key]["high"] < 0]
            lines.append(
                f"- {labels} labels, last exit, against {rival}: better on {len(better)} of {len(own)} sets, "
                f"worse on {len(worse)}{': ' + ', '.join(worse) if worse else ''}; the rest within the interval."
            )
    return "\n".join(lines) + "\n"


def _exits(entries: list[dict]) -> str:
    """One row per set and number of labels, the recipes side by side."""
    spec = protocol()["classify"]["exits"]
    recipes = list(dict.fromkeys(e["recipe"] for e in entries))
    rows = []
    for name, labels in dict.fromkeys((e["name"], e["labels_per_class"]) for e in entries):
        own = {e["recipe"]: e for e in entries if (e["name"], e["labels_per_class"]) == (name, labels)}
        row = [name, labels]
        for recipe in recipes:
            e = own[recipe]
            shown = (
                f"{e['mean_exit']:.2f} / {e['speedup']:.2f} / {e['loss_points']:+.2f} / {100 * e['disagreement']:.2f}"
            )
            # The fewest that can prove the promise: 99 prove the looser one, which is for classes alone.
            few = 99 if e["kind"] == "classify" else spec["few"]
            row.append(
                shown if e["on"] > 0 else f"off: {'too few samples' if e['calibrated_on'] < few else 'no threshold'}"
            )
        first = own[recipes[0]]
        rows.append([*row, f"{first['calibrated_on']} / {first['measured_on']}"])
    heads = [f"{recipe}: mean exit / times faster / points lost / differ, %" for recipe in recipes]
    return table(["set", "labels per class", *heads, "calibrated / measured"], rows)


def _fast(entries: list[dict], recipe: str, labels: str) -> int:
    """On how many sets early exits save as much as is aimed at, for no more than a point."""
    own = [e for e in entries if e["recipe"] == recipe and e["labels_per_class"] == labels and e["on"] > 0]
    return sum(e["speedup"] >= 1.8 and e["loss_points"] <= 1.0 for e in own)


def _int8(report: Report, name: str) -> str:
    own = [a for a in report["int8"]["agreement"] if a["backbone"] == name]
    if not own:
        return "The fp32 weights were not there: not measured.\n"
    bar = protocol()["classify"]["int8"]
    agree = ", ".join(f"{100 * a['share']:.2f} % at exit {a['exit']}" for a in own)
    loss = [row for row in report["int8"]["loss"] if row["backbone"] == name]
    broken = [row for row in loss if row["low"] > bar["points"]]
    seen = [f"{row['name']} at exit {row['exit']} ({row['loss']:.2f})" for row in loss if row["low"] > 0]
    worst = max(loss, key=lambda row: row["loss"])
    return (
        f"Pooled over {own[0]['samples']:,} test samples the same module gives the same class on int8 and on fp32 "
        f"features for {agree} (bar: {100 * bar['agreement']:.0f} %). With a module of its own each, int8 loses most "
        f"on {worst['name']}, exit {worst['exit']}: {worst['loss']:.2f} points, 95 % interval {worst['low']:.2f} to "
        f"{worst['high']:.2f}; sets whose interval lies wholly above {bar['points']:.0f} point: "
        f"{', '.join(sorted({row['name'] for row in broken})) or 'none'}; above none: {', '.join(seen) or 'none'}.\n"
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _forecast(entries: list[dict]) -> str:
    """One row per series: the recipes at the last exit, the better exit is not picked in hindsight."""
    last = max(e["exit"] for e in entries)
    rows, beaten, chosen, straight, spread = [], [], [], [], []
    for name in dict.fromkeys(e["name"] for e in entries):
        own = {(e["recipe"], e["exit"]): e for e in entries if e["name"] == name}
        first = own["moments", last]
        naive, linear = first["naive"], first["linear"]
        shown = [f"{_number(own[r, last]['mase'])} / {_number(own[r, last]['wql'], 4)}" for r in ("moments", "probe")]
        served = own["probe", last]
        if served["choice"] and not served["choice"]["trained"]:
            shown[1] = "closed form kept"
        rivals = [f"{_number(r['mase'])} / {_number(r['wql'], 4)}" for r in (naive, linear)]
        coverage = f"{100 * first['coverage']:.0f}, {100 * served['coverage']:.0f} of {100 * first['nominal']:.0f}"
        blank = f"{_number(first['random_mase'])} / {_number(first['random_wql'], 4)}"
        wide = _number(first["wide_mase"])
        rows.append([name, str(first["horizon"]), str(first["origins"]), *shown, wide, blank, *rivals, coverage])
        if first["beats_naive"]:
            beaten.append(name)
        if served["beats_naive"]:
            chosen.append(name)
        if served["wql"] < naive["wql"]:
            spread.append(name)
        if linear["mase"] < first["mase"]:
            straight.append(name)
    head = [
        "series",
        "horizon",
        "origins",
        "moments",
        "probe",
        "moments, all features",
        "random weights",
        "seasonal naive",
        "linear",
        "covered, %",
    ]
    return (
        f"MASE / weighted quantile loss at exit {last}, on rolling origins; smaller is better. The closed form beats "
        f"the seasonal naive forecast in MASE on {len(beaten)} of {len(rows)} series ({', '.join(beaten) or 'none'}), "
        f"and what `module.choose` serves (column probe) on {len(chosen)} ({', '.join(chosen) or 'none'}), in weighted "
        f"quantile loss on {len(spread)} ({', '.join(spread) or 'none'}); "
        f"the linear autoregression beats the closed form on {len(straight)} ({', '.join(straight) or 'none'}).\n\n"
        + table(head, rows)
    )


def _anomaly(entries: list[dict]) -> str:
    last = max(e["exit"] for e in entries)
    rows = []
    for name in dict.fromkeys(e["name"] for e in entries):
        own = {(e["recipe"], e["exit"]): e for e in entries if e["name"] == name}
        first, probe = own["moments", last], own.get(("probe", last))
        both = lambda e: f"{_number(e['roc_auc'])} / {_number(e['pr_auc'])}"  # noqa: E731
        found = [e["event_recall"] for e in (first, first["pca"], first["forest"])]
        recall = "–" if found[0] is None else f"{' / '.join(_share(r) for r in found)} of {first['events']}"
        alarms = "–"
        if first["false_alarms"] is not None:
            low, high = first["false_alarms_interval"]
            alarms = f"{100 * first['false_alarms']:.2f} ({100 * low:.2f}–{100 * high:.2f})"
        rows.append(
            [
                name,
                both(own["moments", 1]),
                both(first),
                both(probe) if probe else "–",
                _number(first["random_roc_auc"]),
                both(first["pca"]),
                both(first["forest"]),
                recall,
                alarms,
            ]
        )
    head = ["set", "exit 1", f"exit {last}", "probe, 5 labels", "random, ROC", "PCA", "isolation forest"]
    head += ["events found / by PCA / by the forest, %", "false alarms, % (95 %)"]
    share = protocol()["anomaly"]["false_alarms"]
    return (
        f"ROC-AUC / PR-AUC. Events and false alarms at the threshold calibrated to {100 * share:.0f} %, exit {last}; a "
        "dash where too few normal samples were left to calibrate, or no anomaly is marked.\n\n" + table(head, rows)
    )


def _latency(report: Report, name: str) -> str:
    rows = []
    for row in report["latency"]:
        if row["backbone"] != name:
            continue
        times = [f"{e['int8_ms']:.2f} ({e['ratio']:.2f})" for e in row["exits"]]
        rows.append([f"{row['modality']} {row['size']}", str(row["tokens"]), *times, f"{row['single_ms']:.2f}"])
    if not rows:
        return ""
    exits = len(rows[0]) - 3
    memory = next((m for m in report["memory"] if m["backbone"] == name), None)
    kept = memory and (
        f"A process that ran it at every size holds {memory['process_bytes'] / 1e6:.0f} MB, ONNX Runtime included; "
        f"with the fp32 single graph {memory['single_process_bytes'] / 1e6:.0f} ({memory['ratio']:.2f}). "
    )
    head = ["input", "tokens", *(f"exit {k}" for k in range(1, exits + 1)), "fp32 single graph"]
    return (
        "### Latency on the runtime\n\n"
        "Median milliseconds on one thread from the prepared input to an exit's features, "
        "in brackets the ratio to the fp32 single graph, run in turn by the same engine (`make bench-backbone`). The "
        "throughput of a thread is the reciprocal. Rows were taken one by one beside other work: compare within "
        f"a row, not between rows or cards. {kept or ''}\n\n" + table(head, rows)
    )


def section(report: Report, name: str) -> str:
    """Everything the report says about one backbone, as Markdown."""
    entries = [e for e in report["sets"] if e["backbone"] == name]
    exits = max(e["exit"] for e in entries)
    fixed = protocol()["classify"]
    early = [e for e in report["exits"] if e["backbone"] == name and e["kind"] == "classify"]
    text = [
        "### Few-label transfer\n",
        f"Test accuracy in percent, mean ± standard deviation over {fixed['draws']} draws of labels (`all`: once), on "
        f"{len({e['name'] for e in entries})} real sets (`models/data/README.md`). Exits 1 to {exits} are the module "
        "`moments`, in closed form from the exit's features alone; `ladder` is trained and uses all exits. Random "
        "weights: the same network, never trained, through the same int8 and statistics. "
        + (
            "From scratch: this network trained end to end on the labels alone, "
            f"{fixed['scratch']['draws']} draws, at most {fixed['scratch']['steps']} steps. "
            if any(e["scratch"] is not None for e in entries)
            else "Training from scratch was measured at the smallest scale only (card of sense-tiny). "
        )
        + "`models/protocol.toml` fixes everything.\n",
        f"![transfer]({name}-transfer.svg)\n",
        _verdicts(entries, exits),
        _transfer(entries, exits),
        "### int8 against fp32\n",
        _int8(report, name),
    ]
    if early:
        sets = {e["name"] for e in early}
        counts = "; ".join(
            f"with {r} {_fast(early, r, '50')} of {len(sets)} sets at 50 labels, {_fast(early, r, 'all')} with all"
            for r in fixed["exits"]["recipes"]
        )
        text += [
            "### Early exits\n",
            f"Calibrated without labels to at most {100 * fixed['exits']['max_disagreement']:.0f} % early answers that "
            f"differ from the last exit's ({100 * fixed['exits']['few_disagreement']:.0f} % where fewer than "
            f"{fixed['exits']['few']} test samples can calibrate), measured on samples that calibrated nothing. At "
            f"least 1.8 times faster at no more than one point lost (target: half of the sets): {counts}. Speed from "
            f"{early[0]['speedup_by']}.\n",
            f"![exits]({name}-exits.svg)\n",
            _exits(early),
        ]
    own = {kind: [e for e in report[kind] if e["backbone"] == name] for kind in ("forecast", "anomaly")}
    if own["forecast"]:
        text += ["### Forecasts\n", _forecast(own["forecast"])]
    if own["anomaly"]:
        text += ["### Anomalies\n", _anomaly(own["anomaly"])]
    others = [e for e in report["exits"] if e["backbone"] == name and e["kind"] != "classify"]
    if others:
        text += [
            "Early exits of these tasks, closed form; points lost are percent of MASE for a forecast, and of the "
            "balanced accuracy of the alarm for an anomaly task.\n",
            _exits(others),
        ]
    text.append(_latency(report, name))
    return "\n".join(text)


def write(report: Report) -> None:
    """Writes every backbone's section into its card, where the card has the markers, and its plots beside it."""
    for backbone in report["backbones"]:
        name = backbone["name"]
        if not any(e["backbone"] == name for e in report["sets"]):
            continue
        card = MODELS / "cards" / f"{name}.md"
        text = card.read_text() if card.exists() else f"# Model card: {name}\n\n## Report\n{BEGIN}\n{END}\n"
        if BEGIN not in text:
            text += f"\n## Report\n\nMade by `make models-report`.\n\n{BEGIN}\n{END}\n"
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        card.write_text(f"{before}{BEGIN}\n{section(report, name)}\n{END}{after}")
        plots.transfer(report, name, MODELS / "cards" / f"{name}-transfer.svg")
        if any(e["backbone"] == name for e in report["exits"]):
            plots.exits(report, name, MODELS / "cards" / f"{name}-exits.svg")
