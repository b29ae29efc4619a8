"""The same network trained end to end on the task's few labels, from random weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..data import Data, draw, load
from .protocol import protocol


def _tokens(spec: dict, data: Data) -> tuple[NDArray[np.float32], list[NDArray[np.int64]]]:
    """Patches [n, tokens of all channels, 16], and the token ids of each channel."""
    from ..preprocess import LENGTH, SIDE, picture_planes, window_planes

    samples = []
    for i, x in enumerate(data.x):
        if data.modality == "window":
            cut = x if data.lengths is None else x[:, : data.lengths[i]]
            samples.append(window_planes(cut.astype(np.float64), spec.get("points", LENGTH)))
        else:
            samples.append(picture_planes(x, spec.get("side", SIDE), spec.get("colour", False)))
    return (
        np.stack([np.concatenate([plane.patches for plane in sample]) for sample in samples]),
        [plane.ids for plane in samples[0]],
    )


def train(name: str, scale: str) -> dict[str, list[float]]:
    """Test accuracy by labels per class, one per draw; budget and stopping rule as in the protocol.

    Empty for a set whose samples have more tokens than the protocol trains.
    """
    import torch
    import torch.nn.functional as F

    from ..network import SCALES, Sense, pool
    from ..pretrain import fast_bf16

    torch.set_num_threads(1)
    spec, data = protocol()["sets"][name], load(name)
    fixed, bf16 = protocol()["classify"]["scratch"], fast_bf16("cpu")
    patches, ids = _tokens(spec, data)
    if patches.shape[1] > fixed["tokens"]:
        return {}
    patches, y = torch.tensor(patches), torch.tensor(data.y.astype(np.int64))
    where = [torch.tensor(channel) for channel in ids]
    cuts = np.cumsum([len(channel) for channel in ids])[:-1].tolist()
    rows_train, rows_test = np.where(data.test == 0)[0], np.where(data.test == 1)[0]
    shape = SCALES[scale]

    def logits(net: Sense, head: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        out = []
        for part, channel in zip(torch.tensor_split(x, cuts, 1), where, strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                hidden = net(part, channel.expand(len(part), -1))[-1]
            out.append(pool(hidden.float()))
        return head(torch.cat(out, -1))

    found: dict[str, list[float]] = {}
    for per_class in fixed["labels_per_class"]:
        found[per_class] = []
        for seed in range(1 if per_class == "all" else fixed["draws"]):
            rows = torch.tensor(draw(data.y, rows_train, None if per_class == "all" else int(per_class), seed))
            torch.manual_seed(seed)
            net = Sense(shape)
            head = torch.nn.Linear(2 * shape.width * len(ids), len(data.classes))
            parameters = [*net.parameters(), *head.parameters()]
            optimizer = torch.optim.AdamW(parameters, lr=fixed["learning_rate"], weight_decay=fixed["weight_decay"])
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, fixed["steps"])
            losses: list[float] = []
            for _ in range(fixed["steps"]):
                pick = rows[torch.randint(len(rows), (min(fixed["batch"], len(rows)),))]
                loss = F.cross_entropy(logits(net, head, patches[pick]), y[pick])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                if len(losses) >= 10 and np.mean(losses[-10:]) < fixed["enough"]:
                    break
            with torch.no_grad():
                guesses = [logits(net, head, patches[part]).argmax(-1) for part in torch.tensor(rows_test).split(64)]
            found[per_class].append(float((torch.cat(guesses) == y[rows_test]).double().mean()))
    return found
