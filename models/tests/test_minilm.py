"""The text graph against the same network written a second time, in numpy and f64."""

import math

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from loadonce_models import minilm
from loadonce_models.quantize import quantize

ort = pytest.importorskip("onnxruntime")
_erf = np.vectorize(math.erf)
WORDS, HIDDEN = 500, 256


def random_weights(layers: int = 2) -> minilm.Weights:
    """A small vocabulary and feed-forward, and nothing left at its default, so that no term can be missing."""
    rng = np.random.default_rng(3)
    width = minilm.WIDTH
    shapes = {
        "embeddings.word_embeddings.weight": (WORDS, width), "embeddings.position_embeddings.weight": (512, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,), "embeddings.LayerNorm.bias": (width,),
    }  # fmt: skip
    for k in range(layers):
        p = f"encoder.layer.{k}"
        dense = {f"{p}.attention.self.{n}": (width, width) for n in ("query", "key", "value")}
        dense |= {f"{p}.attention.output.dense": (width, width), f"{p}.intermediate.dense": (HIDDEN, width)}
        dense |= {f"{p}.output.dense": (width, HIDDEN)}
        for name, shape in dense.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        for name in (f"{p}.attention.output.LayerNorm", f"{p}.output.LayerNorm"):
            shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return {name: (rng.normal(size=shape) * shape[-1] ** -0.5).astype(np.float32) for name, shape in shapes.items()}


def _norm(x: NDArray, w: NDArray | float, b: NDArray | float, eps: float) -> NDArray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * w + b


def pooled(w: minilm.Weights, ids: NDArray, layers: int = 2) -> NDArray:
    """The pooled features after `layers` layers."""

    def linear(x: NDArray, name: str) -> NDArray:
        return x @ w[f"{name}.weight"].T.astype(float) + w[f"{name}.bias"]

    def norm(x: NDArray, name: str) -> NDArray:
        return _norm(x, w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    h = w["embeddings.word_embeddings.weight"][ids].astype(float)
    h += w["embeddings.position_embeddings.weight"][: len(ids)] + w["embeddings.token_type_embeddings.weight"][0]
    h = norm(h, "embeddings.LayerNorm")
    for k in range(layers):
        p = f"encoder.layer.{k}"
        parts = (linear(h, f"{p}.attention.self.{n}") for n in ("query", "key", "value"))
        q, k_, v = (x.reshape(len(ids), minilm.HEADS, -1).swapaxes(0, 1) for x in parts)
        scores = q @ k_.swapaxes(1, 2) / np.sqrt(minilm.WIDTH // minilm.HEADS)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (share / share.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), -1)
        h = norm(linear(mixed, f"{p}.attention.output.dense") + h, f"{p}.attention.output.LayerNorm")
        up = linear(h, f"{p}.intermediate.dense")
        h = norm(linear(up * (1 + _erf(up / np.sqrt(2))) / 2, f"{p}.output.dense") + h, f"{p}.output.LayerNorm")
    x = _norm(h, 1.0, 0.0, 1e-5)
    return np.concatenate([x.mean(0), np.sqrt(x.var(0) + 1e-6)])


def run(model: onnx.ModelProto, ids: NDArray[np.int64]) -> NDArray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["pooled_1"], {"token_ids": ids})[0][0]


@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_the_graph_is_the_network(tokens: int) -> None:
    w = random_weights()
    ids = np.random.default_rng(tokens).integers(0, WORDS, tokens)
    expected = pooled(w, ids)
    np.testing.assert_allclose(run(minilm.part(w, 0, 2, False), ids), expected, rtol=0, atol=3e-5)
    damping = {
        f"layers.{k}.{n}": np.random.default_rng(k).uniform(0.5, 4, HIDDEN if n == "down" else minilm.WIDTH)
        for k in range(2)
        for n in minilm.DAMPED
    }
    damping = {name: scale.astype(np.float32) for name, scale in damping.items()}
    damped = minilm.part(w, 0, 2, False, damping)
    assert sum(node.name.endswith(".damped") for node in damped.graph.node) == 2 * len(minilm.DAMPED)
    np.testing.assert_allclose(run(damped, ids), expected, rtol=0, atol=3e-5)


def test_the_shipped_form_holds_what_both_engines_want_and_stays_close() -> None:
    w = random_weights()
    ids = np.random.default_rng(1).integers(0, WORDS, 30)
    model = quantize(minilm.part(w, 0, 2, True))
    assert not model.graph.value_info
    integer = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    assert len(integer) == 8
    assert all(len(node.input) == 3 for node in integer)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert all(np.abs(weights[node.input[1]].astype(int)).max() <= 64 for node in integer)
    assert weights["words"].dtype == np.int8
    a, b = run(model, ids), pooled(w, ids)
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99


def test_rows_of_words_keep_their_scale() -> None:
    table = np.random.default_rng(2).normal(size=(50, 384)).astype(np.float32) * np.logspace(-3, 1, 50)[:, None]
    table = table.astype(np.float32)
    rows, scales = minilm.by_row(table)
    assert (np.abs(rows * scales - table) <= scales / 2 + 1e-7).all()
    assert np.abs(rows.astype(int)).max() == 127
