"""Module files, sums and safetensors, byte by byte as docs/module-format.md says."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray
from passes import EXITS, FEATURES, HORIZON, LEVELS, OUTPUTS, RANK, tensors

TYPES = {"float32": "F32", "float64": "F64", "int64": "I64", "int16": "I16", "uint16": "U16"}
# Another BLAS adds in another order; a wrong formula is far off.
TOLERANCE = 1e-9


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
