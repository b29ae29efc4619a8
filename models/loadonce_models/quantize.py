"""Dynamic int8 form of a segment, as small and as plain as both engines want it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from .export import EMBED_NODE, IR


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights per channel in symmetric int8 of 7 bits, activations per tensor at run time.

    x86-64 processors without VNNI add two products of u8 and i8 in 16 bits and saturate;
    with weights in -64..64 nothing can, so every processor and engine computes the same
    integers and a fingerprint means the same features everywhere.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[EMBED_NODE],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            # Attention multiplies two activations; in int8 that loses more than it saves.
            extra_options={"MatMulConstBOnly": True, "EnableSubgraph": False},
        )
        quantized = onnx.load(target)
    return plain(quantized)


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drops what costs time or trips an engine and changes no value.

    An all-zero weight zero point makes ONNX Runtime miss its symmetric kernel,
    and tract refuses the intermediate shapes the quantizer leaves behind.
    """
    del model.graph.value_info[:]
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulInteger" and len(node.input) == 4:
            if numpy_helper.to_array(constants[node.input[3]]).any():
                raise ValueError(f"{node.name}: the weight zero points are not zero; quantize symmetrically")
            del node.input[3]
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.producer_name, model.producer_version = "loadonce", ""
    model.ir_version = IR
    onnx.checker.check_model(model)
    return model
