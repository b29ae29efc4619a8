"""Runs a chain of segments in ONNX Runtime, one sample at a time.

Batch 1 is part of the contract: dynamic int8 scales depend on everything in
the batch, so a sample would otherwise depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray


class Engine:
    """The segments of one backbone, on one thread."""

    def __init__(self, segments: Sequence[bytes | str]):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.sessions = [
            ort.InferenceSession(segment, options, providers=["CPUExecutionProvider"]) for segment in segments
        ]

    def pooled(
        self, patches: NDArray[np.float32], ids: NDArray[np.int64], exits: int | None = None
    ) -> NDArray[np.float32]:
        """Tokens [T, 16] and their ids [T] to pooled features [exits, pooled]."""
        out, feed = [], {"patches": patches[None], "token_ids": ids}
        for number, session in enumerate(self.sessions[:exits], 1):
            values = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
            out.append(values[f"pooled_{number}"][0])
            if f"hidden_{number}" in values:
                feed = {f"hidden_{number}": values[f"hidden_{number}"]}
        return np.stack(out)

    def pooled_all(
        self, samples: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]]
    ) -> NDArray[np.float32]:
        """Many samples, each with its ids: [samples, exits, pooled]."""
        return np.stack([self.pooled(patches, ids) for patches, ids in samples])
