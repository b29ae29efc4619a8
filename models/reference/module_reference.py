"""Reference of the module mathematics, written apart from the Rust crate and compared with it.

    python models/reference/module_reference.py            write the golden files
    python models/reference/module_reference.py --check    compare with them; exit 1 if they differ

makes tests/golden/module-reference.safetensors: a fixed case with the outputs,
losses and gradients of every kind and recipe, the modules solved from exact
sums, and metrics. numpy only; every formula is the direct one, in f64. Where
scikit-learn is installed the metrics and the ridge regression are also held
to it. It also makes the golden module files, byte by byte as
docs/module-format.md says, and the golden sums.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
EXITS, FEATURES, OUTPUTS, RANK, SAMPLES = 3, 10, 4, 2, 40
UNSEEN_BIAS = -30.0
CORRELATION = 0.5
TEMPERATURE = 0.25
HORIZON, LEVELS = 3, (0.1, 0.5, 0.9)
HUBER = 0.25
CLASS_WEIGHTS = (1.0, 0.5, 3.0, 2.0)
PENALTIES = tuple(4.0**j for j in range(4, -11, -1))
# By how much more the backbone's features are penalized.
APART = (2.0**20, 2.0**10, 2.0**5, 1.0)
# A forecast's features by what they are: the backbone's, the last value, that of a season before it, two of a calendar
# (or whatever), and one per step the value a season before it.
BACKBONE, LAST, BEFORE, SEASON = 4, 4, 5, (7, 8, 9)
# Another BLAS adds in another order; a wrong formula is far off.
TOLERANCE = 1e-9


def tensors(recipe: str, outputs: int = OUTPUTS) -> list[tuple[str, tuple[int, ...]]]:
    """Canonical names and dimensions."""
    out: list[tuple[str, tuple[int, ...]]] = []
    for k in range(1, EXITS + 1):
        width = FEATURES
        if recipe == "ladder":
            width = RANK
            out += [(f"exit_{k}.down", (RANK, FEATURES)), (f"exit_{k}.down_bias", (RANK,))]
            out += [(f"exit_{k}.gate", (RANK,))] if k > 1 else []
        out += [(f"exit_{k}.weight", (outputs, width)), (f"exit_{k}.bias", (outputs,))]
    return out


def named(recipe: str, flat: F64, outputs: int = OUTPUTS) -> dict[str, F64]:
    """Flat parameters as named tensors."""
    out, at = {}, 0
    for name, dims in tensors(recipe, outputs):
        size = int(np.prod(dims))
        out[name] = flat[at : at + size].reshape(dims)
        at += size
    assert at == flat.size
    return out


def forward(recipe: str, flat: F64, z: F64, outputs: int = OUTPUTS) -> F64:
    """Features [n, exits, features] to outputs [n, exits, outputs]."""
    p, state, out = named(recipe, flat, outputs), None, []
    for k in range(1, EXITS + 1):
        x = z[:, k - 1]
        if recipe == "ladder":
            a = x @ p[f"exit_{k}.down"].T + p[f"exit_{k}.down_bias"]
            open_ = 1 / (1 + np.exp(-p[f"exit_{k}.gate"])) if k > 1 else 0.0
            state = a if state is None else open_ * state + (1 - open_) * a
            x = state
        out.append(x @ p[f"exit_{k}.weight"].T + p[f"exit_{k}.bias"])
    return np.stack(out, 1)


def log_softmax(x: F64) -> F64:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def loss(recipe: str, flat: F64, z: F64, labels: NDArray, offset: F64, weights: F64) -> float:
    """Weighted mean over samples of the sum over exits of the cross-entropy."""
    logp = log_softmax(forward(recipe, flat, z) + offset)
    each = -logp[np.arange(len(labels)), :, labels].sum(1)
    return float((each * weights).sum() / weights.sum())


def gradient(recipe: str, flat: F64, z: F64, labels: NDArray, offset: F64, weights: F64) -> F64:
    """Of the loss by the parameters, by the complex step: exact to rounding, and no derivation to get wrong."""
    out = np.zeros_like(flat)
    for i in range(flat.size):
        moved = flat.astype(np.complex128)
        moved[i] += 1e-30j
        logits = forward(recipe, moved, z) + offset
        each = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), :, labels]
        out[i] = ((each.sum(1) * weights).sum() / weights.sum()).imag / 1e-30
    return out


def each_loss(kind: str, out: F64, target: NDArray) -> F64:
    """Loss of every sample, summed over exits; works for complex outputs."""
    if kind == "anomaly":
        score = (out * out).mean(-1)
        loss_ = np.where(target[:, None] == 1, 1 / (score + 1e-6), score)
        return loss_.sum(1)
    n, exits, _ = out.shape
    error = target[:, None, :, None] - out.reshape(n, exits, HORIZON, len(LEVELS))
    above = error.real >= 0
    side, size = np.where(above, LEVELS, 1 - np.array(LEVELS)), np.where(above, error, -error)
    if kind == "huber":
        size = np.where(size.real < HUBER, size * size / (2 * HUBER), size - HUBER / 2)
    return (side * size).mean((2, 3)).sum(1)


def loss_and_gradient(kind: str, recipe: str, outputs: int, flat: F64, z: F64, target: NDArray) -> tuple[float, F64]:
    """Mean loss and its gradient by the complex step."""
    loss_ = float(each_loss(kind, forward(recipe, flat, z, outputs), target).mean())
    out = np.zeros_like(flat)
    for i in range(flat.size):
        moved = flat.astype(np.complex128)
        moved[i] += 1e-30j
        out[i] = each_loss(kind, forward(recipe, moved, z, outputs), target).mean().imag / 1e-30
    return loss_, out


def forecast_sums(q: NDArray[np.int16], y: NDArray[np.int16]) -> NDArray[np.int64]:
    """Exact sums in the order count, y, y squared, plain, cross, gram."""
    wide, target = q.astype(np.int64), y.astype(np.int64)
    upper = np.triu_indices(FEATURES)
    plain = [wide[:, k].sum(0) for k in range(EXITS)]
    cross = [(target.T @ wide[:, k]).ravel() for k in range(EXITS)]
    gram = [(wide[:, k].T @ wide[:, k])[upper] for k in range(EXITS)]
    return np.concatenate([[len(q)], target.sum(0), (target * target).sum(0), *plain, *cross, *gram])


def anomaly_sums(q: NDArray[np.int16], anomalous: NDArray) -> NDArray[np.int64]:
    """Exact sums of two classes; only normal samples enter gram."""
    wide = q.astype(np.int64)
    counts = np.bincount(anomalous, minlength=2).astype(np.int64)
    cross = [np.stack([wide[anomalous == c, k].sum(0) for c in (0, 1)]).ravel() for k in range(EXITS)]
    upper = np.triu_indices(FEATURES)
    normal = wide[anomalous == 0]
    return np.concatenate([counts, *cross, *[(normal[:, k].T @ normal[:, k])[upper] for k in range(EXITS)]])


class Ridge:
    """One exit's regression of all steps, from the samples themselves, by the hat matrix.

    `patterned` tells it what the features are, and that there is a window at every step.
    """

    def __init__(self, z: F64, y: F64, penalty: float | None, patterned: bool = False):
        n, steps = len(z), np.arange(1, HORIZON + 1)
        self.centre, self.mean, scale = z.mean(0), y.mean(0), z.std(0)
        overlap = (2 * steps**2 + 1) / (3 * steps) if patterned else np.ones(HORIZON)
        shared, spent = np.zeros((HORIZON, FEATURES)), 0.0
        if patterned:
            shared, spent = self.pattern(z - self.centre, y - self.mean, overlap)
        target = y - self.mean - (z - self.centre) @ shared.T
        best = None
        for apart in APART if patterned and penalty is None else (1.0,):
            divisor = scale * np.where(np.arange(FEATURES) < BACKBONE, apart**0.5, 1.0)
            x = (z - self.centre) / divisor
            for lam in PENALTIES if penalty is None else (penalty,):
                inverse = np.linalg.inv(x.T @ x + n * lam * np.eye(x.shape[1]))
                hat = x @ inverse @ x.T + 1 / n
                rest = target - hat @ target
                freedom = n - overlap * (np.trace(hat) + spent)
                score = n * ((rest * rest).sum(0) / freedom**2).sum()
                if (freedom > 0).all() and (best is None or score < best[0]):
                    slopes = (inverse @ x.T @ target).T / divisor
                    best = (score, slopes, (rest * rest).sum(0) / freedom, lam)
        _, slopes, residual, self.penalty = best
        self.weight = slopes + shared
        self.residual = np.clip(residual, 1e-6, np.maximum(1.0, y.var(0)))
        self.covariance = np.cov(z.T, bias=True)

    @staticmethod
    def pattern(x: F64, y: F64, overlap: F64) -> tuple[F64, float]:
        """Slopes shared by all steps, as weights of every step, by least squares on (sample, step) pairs."""
        near = 1 / np.arange(1, HORIZON + 1)
        ones = np.ones(HORIZON)
        shapes = [(SEASON, ones), *(([at] * HORIZON, part) for at in (LAST, BEFORE) for part in (ones, near))]
        design = np.stack([x[:, list(at)] * part for at, part in shapes], -1).reshape(-1, len(shapes))
        normal = design.T @ design / y.size
        drawn = np.diag(normal) * overlap.mean() / (32 * len(x)) + 2.0**-20
        slopes = np.linalg.solve(normal + np.diag(drawn), design.T @ y.ravel() / y.size)
        weight = np.zeros((HORIZON, FEATURES))
        for slope, (at, part) in zip(slopes, shapes, strict=True):
            weight[np.arange(HORIZON), list(at)] += slope * part
        return weight, len(shapes) / HORIZON


def normal_quantiles() -> F64:
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf(level) for level in LEVELS])


def forecast_solve(z: F64, y: F64, penalty: float | None, patterned: bool = False) -> F64:
    """Parameters of a forecast's moments module."""
    out = []
    for k in range(EXITS):
        exit_ = Ridge(z[:, k], y, penalty, patterned)
        point = exit_.mean - exit_.weight @ exit_.centre
        out += [np.repeat(exit_.weight, len(LEVELS), 0).ravel()]
        out += [(point[:, None] + exit_.residual[:, None] ** 0.5 * normal_quantiles()).ravel()]
    return np.concatenate(out)


def forecast_start(z: F64, y: F64, penalty: float | None) -> F64:
    """Starting parameters of a forecast's ladder."""
    exits = [Ridge(z[:, k], y, penalty) for k in range(EXITS)]
    predictions = [e.weight @ e.covariance @ e.weight.T for e in exits]
    _, basis = spectrum(sum(predictions) / EXITS)
    q, out, total, variance = basis[:RANK], [], 0.0, np.zeros(HORIZON)
    assert len(q) == RANK
    outside = np.eye(HORIZON) - q.T @ q
    for k, exit_ in enumerate(exits):
        down = q @ exit_.weight
        certainty = 1 / exit_.residual.mean()
        out += [down.ravel(), -down @ exit_.centre] + ([np.full(RANK, np.log(total / certainty))] if k else [])
        total += certainty
        variance += certainty * (exit_.residual + np.diag(outside @ predictions[k] @ outside))
        out += [np.repeat(q.T, len(LEVELS), 0).ravel()]
        out += [(exit_.mean[:, None] + (variance / total)[:, None] ** 0.5 * normal_quantiles()).ravel()]
    return np.concatenate(out)


def shrunk(z: F64, shrinkage: float | None) -> F64:
    """Covariance drawn towards the identity."""
    s, freedom, d = np.cov(z.T), len(z) - 1, z.shape[1]
    trace, square = np.trace(s), (s * s).sum()
    if shrinkage is None:
        shrinkage = ((1 - 2 / d) * square + trace**2) / ((freedom + 1 - 2 / d) * (square - trace**2 / d))
        shrinkage = float(np.clip(shrinkage, 1e-3, 1))
    return (1 - shrinkage) * s + shrinkage * trace / d * np.eye(d)


def whitening(z: F64, rank: int | None, shrinkage: float | None) -> F64:
    """Parameters of an anomaly's moments module, or of a probe's start."""
    out = []
    for k in range(EXITS):
        s = shrunk(z[:, k], shrinkage)
        rows = np.linalg.inv(np.linalg.cholesky(s))
        if rank is not None:
            values, vectors = spectrum(s)
            rows = (vectors / values[:, None] ** 0.5)[::-1][:rank]
        out += [rows.ravel(), -rows @ z[:, k].mean(0)]
    return np.concatenate(out)


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


def sums(q: NDArray[np.int16], labels: NDArray) -> NDArray[np.int64]:
    """Exact sums in the order counts, cross, gram (upper triangles)."""
    wide = q.astype(np.int64)
    counts = np.bincount(labels, minlength=OUTPUTS).astype(np.int64)
    hot = np.eye(OUTPUTS, dtype=np.int64)[labels]
    cross = [hot.T @ wide[:, k] for k in range(EXITS)]
    upper = np.triu_indices(FEATURES)
    gram = [(wide[:, k].T @ wide[:, k])[upper] for k in range(EXITS)]
    return np.concatenate([counts, *[c.ravel() for c in cross], *gram])


class Discriminant:
    """One exit's shared-covariance discriminant, from the samples themselves."""

    def __init__(self, z: F64, labels: NDArray, shrinkage: float | None):
        self.seen = np.unique(labels)
        means = np.stack([z[labels == c].mean(0) for c in self.seen])
        within = z - means[np.searchsorted(self.seen, labels)]
        freedom = len(z) - len(self.seen)
        s, d = within.T @ within / freedom, z.shape[1]
        trace, square = np.trace(s), (s * s).sum()
        if shrinkage is None:
            # Chen et al. 2010, eq. 23.
            shrinkage = ((1 - 2 / d) * square + trace**2) / ((freedom + 1 - 2 / d) * (square - trace**2 / d))
            shrinkage = float(np.clip(shrinkage, 1e-3, 1))
        drawn = (1 - shrinkage) * s + shrinkage * trace / d * np.eye(d)
        self.centre = means.mean(0)
        self.means = np.zeros((OUTPUTS, d))
        self.means[self.seen] = means - self.centre
        self.weight = self.means @ np.linalg.inv(drawn)
        self.gram = self.weight @ self.means.T

    def biases(self, values: F64) -> F64:
        """Biases with those of unseen classes below the lowest of the others."""
        out = np.full(OUTPUTS, values[self.seen].min() + UNSEEN_BIAS)
        out[self.seen] = values[self.seen]
        return out


def solve(z: F64, labels: NDArray, shrinkage: float | None) -> F64:
    """Parameters of a moments module."""
    out = []
    for k in range(EXITS):
        exit_ = Discriminant(z[:, k], labels, shrinkage)
        bias = -exit_.weight @ exit_.centre - 0.5 * np.diag(exit_.gram)
        out += [TEMPERATURE * exit_.weight.ravel(), exit_.biases(TEMPERATURE * bias)]
    return np.concatenate(out)


def spectrum(matrix: F64) -> tuple[F64, F64]:
    """Nonzero eigenvalues, largest first, and eigenvectors as rows, largest component positive."""
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1], vectors.T[::-1]
    signs = np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(1)])
    kept = values > values[0] * 1e-9
    return values[kept], (vectors * signs[:, None])[kept]


def ladder_start(z: F64, labels: NDArray, shrinkage: float | None) -> F64:
    """Starting parameters of a ladder; the rank here does not exceed the number of class differences."""
    exits = [Discriminant(z[:, k], labels, shrinkage) for k in range(EXITS)]
    _, basis = spectrum(sum(e.gram for e in exits) / EXITS)
    q, out, state = basis[:RANK], [], np.zeros((RANK, OUTPUTS))
    assert len(q) == RANK
    for k, exit_ in enumerate(exits):
        values, vectors = spectrum(exit_.gram)
        root = vectors.T @ np.diag(values**0.5) @ vectors
        inverse_root = vectors.T @ np.diag(values**-0.5) @ vectors
        down = q @ inverse_root @ exit_.weight
        open_ = k / (k + 1)
        state = open_ * state + (1 - open_) * (q @ root)
        variance = (1 + k * CORRELATION) / (k + 1)
        scale = TEMPERATURE / variance
        out += [down.ravel(), -down @ exit_.centre] + ([np.full(RANK, np.log(k))] if k else [])
        out += [scale * state.T.ravel(), exit_.biases(-0.5 * scale * (state**2).sum(0))]
    return np.concatenate(out)


def safetensors(header: dict, data: bytes) -> bytes:
    """The container: header length, JSON header padded to 8 bytes, data."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def kind_file(kind: str) -> bytes:
    """A personal forecast ladder with shift i / 8, or a shared anomaly probe; parameters i / 64 - 1."""
    forecast = kind == "forecast"
    recipe, outputs = ("ladder", HORIZON * len(LEVELS)) if forecast else ("probe", OUTPUTS)
    metadata = {
        "backbone": "0123456789abcdef" * 4,
        "base": "fedcba9876543210" * 4 if forecast else "",
        "exits": str(EXITS),
        "features": str(FEATURES),
        "format": "loadonce-module/1",
        "kind": kind,
        "outputs": str(outputs),
        "rank": str(RANK if forecast else 0),
        "recipe": recipe,
        "role": "personal" if forecast else "shared",
        "task": "demand" if forecast else "spindle",
        "version": "3",
    }
    if forecast:
        metadata["horizon"] = str(HORIZON)
        metadata["quantiles"] = "[100,500,900]"
        metadata["shift"] = "[" + ",".join(str(i / 8) for i in range(EXITS * outputs)) + "]"
    header: dict = {"__metadata__": dict(sorted(metadata.items()))}
    at, data, dtype, width = 0, b"", "F32" if forecast else "F16", "<f4" if forecast else "<f2"
    for name, dims in tensors(recipe, outputs):
        size = int(np.prod(dims))
        raw = (np.arange(at, at + size) / 64 - 1).astype(width).tobytes()
        header[name] = {"dtype": dtype, "shape": list(dims), "data_offsets": [len(data), len(data) + len(raw)]}
        at, data = at + size, data + raw
    return safetensors(header, data)


def module_file(role: str, dtype: str) -> bytes:
    """A module file with parameters i / 64 - 1 and, if personal, the prior -0.5, -1.25, -2.0, -0.0625."""
    metadata = {
        "backbone": "0123456789abcdef" * 4,
        "base": "" if role == "shared" else "fedcba9876543210" * 4,
        "classes": '["ok","scratch","dent","傷"]',
        "exits": str(EXITS),
        "features": str(FEATURES),
        "format": "loadonce-module/1",
        "kind": "classify",
        "outputs": str(OUTPUTS),
        "rank": str(RANK),
        "recipe": "ladder",
        "role": role,
        "task": "inspect-lid",
        "version": "3",
    }
    if role == "personal":
        metadata["prior"] = "[-0.5,-1.25,-2.0,-0.0625]"
    header: dict = {"__metadata__": dict(sorted(metadata.items()))}
    at, data = 0, b""
    for name, dims in tensors("ladder"):
        size = int(np.prod(dims))
        raw = (np.arange(at, at + size) / 64 - 1).astype({"F16": "<f2", "F32": "<f4"}[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(dims), "data_offsets": [len(data), len(data) + len(raw)]}
        at, data = at + size, data + raw
    return safetensors(header, data)


def sums_file(values: NDArray[np.int64], outputs: int = OUTPUTS, statistic: int = 0) -> bytes:
    """Sums as docs/module-format.md says."""
    head = b"LOSM" + np.array([1, EXITS, FEATURES, outputs], "<u2").tobytes() + bytes([statistic, 0, 0, 0])
    return head + values.astype("<i8").tobytes()


TYPES = {"float32": "F32", "float64": "F64", "int64": "I64", "int16": "I16", "uint16": "U16"}


def encode(content: dict[str, NDArray]) -> bytes:
    """Named arrays as a safetensors file."""
    header, data = {}, b""
    # The widest type first keeps every tensor aligned.
    for name, array in sorted(content.items(), key=lambda item: (-item[1].itemsize, item[0])):
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": TYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    return safetensors(header, data)


def decode(raw: bytes) -> dict[str, NDArray]:
    """The named arrays of `encode`."""
    numpy_types = {short: name for name, short in TYPES.items()}
    start = 8 + int.from_bytes(raw[:8], "little")
    out = {}
    for name, entry in json.loads(raw[8:start]).items():
        a, b = (start + offset for offset in entry["data_offsets"])
        dtype = np.dtype(numpy_types[entry["dtype"]]).newbyteorder("<")
        out[name] = np.frombuffer(raw[a:b], dtype).reshape(entry["shape"])
    return out


def differences(golden: bytes, case: dict[str, NDArray]) -> list[str]:
    """Names whose golden values are not those of `case`: integers exactly, floats to TOLERANCE."""
    kept = decode(golden)
    out = sorted(kept.keys() ^ case.keys())
    for name in kept.keys() & case.keys():
        want, got = kept[name], case[name]
        same = want.shape == got.shape and want.dtype.kind == got.dtype.kind
        if same and want.dtype.kind == "f":
            gap = np.abs(want.astype(float) - got) / np.maximum(1.0, np.abs(got))
            same = bool(np.max(gap, initial=0.0) <= TOLERANCE)
        elif same:
            same = np.array_equal(want, got)
        out += [] if same else [name]
    return out


def case() -> dict[str, NDArray]:
    """The fixed case: inputs and everything computed from them."""
    rng = np.random.default_rng(20)
    labels = rng.choice([0, 1, 3], SAMPLES).astype(np.uint16)  # class 2 has no samples
    shift = rng.normal(size=(EXITS, OUTPUTS, FEATURES))
    z = rng.normal(size=(SAMPLES, EXITS, FEATURES)) @ rng.normal(size=(FEATURES, FEATURES)) * 0.5
    z += shift[:, labels].transpose(1, 0, 2)
    q = np.clip(np.rint(np.clip(z, -8, 8) * 4096), -32768, 32767).astype(np.int16)
    z = q / 4096.0
    offset = rng.normal(size=OUTPUTS).astype(np.float32)
    weights = rng.uniform(0.5, 1.5, SAMPLES).astype(np.float32)
    content = {"q": q, "labels": labels, "offset": offset, "weights": weights, "sums": sums(q, labels)}
    for recipe in ("probe", "ladder"):
        size = sum(int(np.prod(dims)) for _, dims in tensors(recipe))
        params = (0.5 * rng.normal(size=size)).astype(np.float32)
        args = (params.astype(np.float64), z, labels, offset.astype(np.float64), weights.astype(np.float64))
        content |= {
            f"{recipe}.params": params,
            f"{recipe}.logits": forward(recipe, args[0], z),
            f"{recipe}.loss": np.array([loss(recipe, *args)]),
            f"{recipe}.gradient": gradient(recipe, *args),
        }
    for name, shrinkage in (("auto", None), ("fixed", 0.2)):
        content[f"solved.{name}"] = solve(z, labels, shrinkage)
        content[f"start.{name}"] = ladder_start(z, labels, shrinkage)
        content[f"weighted.{name}"] = weighted(content[f"solved.{name}"])
    # A linear law of some features, step by step weaker, in noise.
    law = rng.normal(size=(FEATURES, HORIZON)) * 0.1 * np.array([3, 2, 1])
    y = np.clip(np.rint((z[:, -1] @ law + 0.3 * rng.normal(size=(SAMPLES, HORIZON))) * 4096), -32768, 32767)
    y = y.astype(np.int16)
    target = y / 4096.0
    anomalous = (np.arange(SAMPLES) % 5 == 4).astype(np.uint16)
    normal = z[anomalous == 0]
    content |= {"y": y, "anomalous": anomalous}
    content |= {"forecast.sums": forecast_sums(q, y), "anomaly.sums": anomaly_sums(q, anomalous)}
    for name, penalty in (("auto", None), ("fixed", 0.2)):
        content[f"forecast.solved.{name}"] = forecast_solve(z, target, penalty)
        content[f"forecast.patterned.{name}"] = forecast_solve(z, target, penalty, patterned=True)
        content[f"forecast.start.{name}"] = forecast_start(z, target, penalty)
        content[f"anomaly.solved.{name}"] = whitening(normal, None, penalty)
        content[f"anomaly.start.{name}"] = whitening(normal, OUTPUTS, penalty)
    wide = HORIZON * len(LEVELS)
    for kind, recipe, outputs, wanted in (
        ("pinball", "probe", wide, target),
        ("pinball", "ladder", wide, target),
        ("huber", "ladder", wide, target),
        ("anomaly", "probe", OUTPUTS, anomalous),
    ):
        size = sum(int(np.prod(dims)) for _, dims in tensors(recipe, outputs))
        params = (0.3 * rng.normal(size=size)).astype(np.float32)
        value, slope = loss_and_gradient(kind, recipe, outputs, params.astype(float), z, wanted)
        name = f"{kind}.{recipe}"
        content |= {f"{name}.params": params, f"{name}.loss": np.array([value]), f"{name}.gradient": slope}
    held_to_sklearn(z, target)
    return content | metrics(rng)


def weighted(params: F64) -> F64:
    """A solved module whose classes are weighed."""
    out, width = params.copy(), OUTPUTS * (FEATURES + 1)
    for k in range(EXITS):
        out[(k + 1) * width - OUTPUTS : (k + 1) * width] += np.log(CLASS_WEIGHTS)
    return out


def held_to_sklearn(z: F64, y: F64) -> None:
    """The regression against scikit-learn's, where it is installed."""
    try:
        from sklearn.linear_model import Ridge as Theirs
    except ImportError:
        return
    ours = Ridge(z[:, 0], y, None)
    x = (z[:, 0] - z[:, 0].mean(0)) / z[:, 0].std(0)
    theirs = Theirs(alpha=ours.penalty * len(z)).fit(x, y)
    assert np.allclose(ours.weight * z[:, 0].std(0), theirs.coef_, rtol=1e-8, atol=1e-10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the golden files instead of writing them")
    check = parser.parse_args().check
    content = case()
    files = {
        "module-v1.safetensors": module_file("shared", "F16"),
        "module-v1-personal.safetensors": module_file("personal", "F32"),
        "module-v1-forecast.safetensors": kind_file("forecast"),
        "module-v1-anomaly.safetensors": kind_file("anomaly"),
        "module-sums-v1.bin": sums_file(content["sums"]),
        "module-sums-v1-forecast.bin": sums_file(content["forecast.sums"], HORIZON, 2),
        "module-sums-v1-anomaly.bin": sums_file(content["anomaly.sums"], 2, 1),
    }
    reference = GOLDEN / "module-reference.safetensors"
    if check:
        wrong = [f"{reference.name}: {name}" for name in differences(reference.read_bytes(), content)]
        wrong += [name for name, raw in files.items() if (GOLDEN / name).read_bytes() != raw]
        if wrong:
            raise SystemExit("golden files differ from the reference:\n" + "\n".join(wrong))
        print(f"{len(files) + 1} golden files agree with the reference, {len(content)} arrays in {reference.name}")
        return
    reference.write_bytes(encode(content))
    for name, raw in files.items():
        (GOLDEN / name).write_bytes(raw)
        print(f"{name}: {len(raw)} bytes")


if __name__ == "__main__":
    main()
