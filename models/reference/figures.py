"""Metrics by their direct formulas, held to scikit-learn where it is installed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from passes import LEVELS


def metrics(rng: np.random.Generator) -> dict[str, NDArray]:
    """Inputs of every metric, with ties and rare classes, and the values by the direct formula."""
    n = 60
    labels = rng.choice(4, n, p=[0.6, 0.2, 0.15, 0.05]).astype(np.uint16)
    logits = rng.normal(size=(n, 4)) + 1.5 * np.eye(4)[labels]
    p = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    answers = p.argmax(1).astype(np.uint16)
    anomalous = (rng.uniform(size=n) < 0.25).astype(np.uint16)
    scores = (np.rint(4 * (rng.normal(size=n) + anomalous)) / 4).astype(np.float32)
    actual, history = rng.normal(size=12) + 3, rng.normal(size=40) + 3
    quantiles = np.sort(rng.normal(size=(12, 3)) + 3, axis=1)
    recalls = [np.mean(answers[labels == c] == c) for c in np.unique(labels)]
    higher = scores[anomalous == 1][:, None] - scores[anomalous == 0]
    precision = 0.0
    for t in np.unique(scores):
        taken = scores >= t
        found = ((scores == t) & (anomalous == 1)).sum()
        precision += found / anomalous.sum() * anomalous[taken].mean()
    error = actual[:, None] - quantiles
    level = np.array(LEVELS)
    wql = 2 * np.maximum(level * error, (level - 1) * error).sum(0) / np.abs(actual).sum()
    events, seen, threshold = [], [], 0.5
    for i in range(n):
        if anomalous[i] and (i == 0 or not anomalous[i - 1]):
            events.append([])
        if anomalous[i]:
            events[-1].append(scores[i] > threshold)
    seen = [any(event) for event in events]
    values = [
        np.mean(answers == labels),
        np.mean(recalls),
        -np.log(p.astype(float)[np.arange(n), labels]).mean(),
        np.abs(quantiles[:, 1] - actual).mean() / np.abs(history[7:] - history[:-7]).mean(),
        wql.mean(),
        ((higher > 0) + 0.5 * (higher == 0)).mean(),
        precision,
        np.mean(seen),
        np.mean(scores[anomalous == 0] > threshold),
    ]
    try:
        from sklearn import metrics as sk
    except ImportError:
        pass
    else:
        theirs = [
            sk.accuracy_score(labels, answers),
            sk.balanced_accuracy_score(labels, answers),
            sk.log_loss(labels, p.astype(float) / p.astype(float).sum(1, keepdims=True), labels=range(4)),
            *values[3:4],
            np.mean([2 * sk.mean_pinball_loss(actual, quantiles[:, i], alpha=a) for i, a in enumerate(LEVELS)])
            / np.abs(actual).mean(),
            sk.roc_auc_score(anomalous, scores),
            sk.average_precision_score(anomalous, scores),
        ]
        assert np.allclose(theirs, values[:7], rtol=1e-6), (theirs, values)
    return {
        "metrics.probabilities": p,
        "metrics.answers": answers,
        "metrics.labels": labels,
        "metrics.scores": scores,
        "metrics.anomalous": anomalous,
        "metrics.actual": actual,
        "metrics.history": history,
        "metrics.quantiles": quantiles,
        "metrics.values": np.array(values),
    }
