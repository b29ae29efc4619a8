"""The fp32 single graph of the bench: the committed bundle's own network."""

import tomllib

import numpy as np
import onnx
import onnxruntime as ort

from loadonce_models import single
from loadonce_models.data import MODELS

BUNDLE = MODELS / "bundles/sense-tiny"


def test_the_single_graph_is_the_same_network(tmp_path):
    folder = single.write(BUNDLE, tmp_path / "single")
    parts = tomllib.loads((BUNDLE / "backbone.toml").read_text())["segments"]
    graph = onnx.load(folder / single.FILE)
    assert {node.op_type for node in graph.graph.node}.isdisjoint({"MatMulInteger", "DynamicQuantizeLinear"})
    assert [output.name for output in graph.graph.output] == [part["pooled"] for part in parts]

    rng = np.random.default_rng(3)
    feed = {"patches": rng.normal(size=(1, 16, 16)).astype(np.float32), "token_ids": np.arange(16)}
    whole = ort.InferenceSession(folder / single.FILE).run(None, feed)
    for number, part in enumerate(parts):
        session = ort.InferenceSession(BUNDLE / part["file"])
        found = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
        a, b = found[part["pooled"]][0], whole[number][0]
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.995
        feed = {part["hidden"]: found[part["hidden"]]} if "hidden" in part else {}
