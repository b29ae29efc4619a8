"""Small files as people send them, with what both implementations must make of them.

python -m loadonce_models.inputs_golden    writes tests/golden/inputs/ and tests/golden/inputs.safetensors
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from . import inputs

GOLDEN = Path(__file__).resolve().parents[2] / "tests/golden"
# The contract that the cases are prepared for, as in runtime/backbone/tests/support.
CONTRACT = {
    "window": {"lengths": [64, 128, 256, 512, 1024], "default": 256, "first_token": 0, "positions": 64},
    "picture": {"sides": [16, 32, 48, 64], "default": 32, "first_token": 64, "positions": 16},
}


def _waves(channels: int, length: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, length)
    return np.round(3 + np.sin(rng.uniform(6, 60, (channels, 1)) * t) + 0.1 * rng.normal(size=(channels, length)), 3)


def _listed(x: NDArray) -> list:
    return [[None if np.isnan(v) else float(v) for v in row] for row in x]


def windows() -> dict[str, tuple[str, bytes, dict]]:
    """Name: suffix of the file, payload, declaration."""
    out: dict[str, tuple[str, bytes, dict]] = {}
    dump = lambda value: json.dumps(value, separators=(",", ":")).encode()  # noqa: E731
    gaps = _waves(2, 60, 1)
    gaps[0, [0, 1, 17, 30, 31, 32, 59]] = np.nan
    out["gaps"] = ("json", dump({"time": 12.5, "channels": _listed(gaps)}), {"channels": 2, "length": 60})
    many = _waves(1, 60, 2)
    many[0, :13] = np.nan
    out["gaps-too-many"] = ("json", dump(_listed(many)), {"channels": 1})
    just = many.copy()
    just[0, 12] = 3.25
    out["gaps-a-fifth"] = ("json", dump(_listed(just)), {"channels": 1, "points": 64})
    twice = _waves(2, 200, 3)
    rated = {"channels": 2, "length": 100, "rate": 10.0, "units": "m/s2"}
    out["rate-double"] = ("json", dump({"rate": 20, "units": "m/s2", "channels": _listed(twice)}), rated)
    out["rate-lower"] = ("json", dump({"rate": 4.0, "channels": _listed(twice[:, :40])}), rated)
    out["rate-near"] = ("json", dump({"rate": 10.04, "channels": _listed(twice[:, :100])}), rated)
    out["rate-absurd"] = ("json", dump({"rate": 0.1, "channels": _listed(twice[:, :100])}), rated)
    out["rate-length"] = ("json", dump({"rate": 20, "channels": _listed(twice[:, :150])}), rated)
    out["units-wrong"] = ("json", dump({"units": "g", "channels": _listed(twice[:, :100])}), rated)
    leveled = _waves(3, 90, 4)
    leveled[1] = 2.5
    leveled[2] = np.clip(5 * leveled[2] - 10, -5, 5)
    spec = {"channels": 3, "points": 128, "levels": True}
    out["levels"] = ("json", dump(_listed(leveled)), {**spec, "range": [-20.0, 20.0]})
    out["levels-each"] = (
        "json",
        dump(_listed(leveled)),
        {**spec, "range": [[2.0, 4.0], [1000.0, 1001.0], [-5.0, 5.0]]},
    )
    table = _waves(3, 50, 5)
    rows = "\n".join(",".join(str(v) for v in row) for row in table.T)
    out["table"] = ("csv", f"time x,y [mm],z\n{rows}\n".encode(), {"channels": 3})
    german = [";".join(str(v).replace(".", ",") for v in row) for row in table.T]
    german[7] = german[7].split(";")[0] + ";;NaN"
    out["table-decimal-comma"] = ("csv", ("\r\n".join(german) + "\r\n").encode("utf-8-sig"), {"channels": 3})
    out["line"] = ("csv", ",".join(str(v) for v in table.reshape(-1)).encode(), {"channels": 3, "points": 1024})
    out["line-short"] = ("csv", b"1.5,,2,3.25,4,5e0", {"channels": 1})
    out["table-ragged"] = ("csv", b"1,2\n3,4,5\n6,7\n", {"channels": 2})
    words = b"speed,load\n" + b"1200,35.5\n" * 8 + b"1210,high\n"
    out["table-words"] = ("csv", words, {"channels": 2})
    raw = _waves(2, 40, 6).astype("<f4")
    raw[1, 5] = np.nan
    out["packed"] = ("f32", raw.tobytes(), {"channels": 2, "length": 40, "points": 512})
    raw[0, 5] = np.inf
    out["packed-infinite"] = ("f32", raw.tobytes(), {"channels": 2})
    out["packed-cut"] = ("f32", raw.tobytes()[:-2], {"channels": 2})
    return {name: (suffix, payload, {"modality": "window", **spec}) for name, (suffix, payload, spec) in out.items()}


def _colours(height: int, width: int) -> NDArray[np.float64]:
    """[H, W, 3] on 0..1 with a direction to it, so that a wrong turn is seen."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    red = 0.5 + 0.4 * np.sin(7 * x + 2 * y)
    green = x * y
    blue = np.where((x > 0.6) & (y < 0.3), 0.9, 0.2 + 0.2 * y)
    return np.stack([red, green, blue], -1)


def _saved(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _png16(samples: NDArray[np.uint16], colour: int) -> bytes:
    """A 16-bit PNG [H, W, samples]; Pillow writes no 16-bit colour."""
    height, width = samples.shape[:2]
    lines = np.ascontiguousarray(samples.astype(">u2")).view(np.uint8).reshape(height, -1)
    # The filter "up": differences to the line above.
    above = np.vstack([np.zeros_like(lines[:1]), lines[:-1]])
    raw = b"".join(b"\x02" + row.tobytes() for row in (lines - above))
    out = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")):
        out += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return out


def pictures() -> dict[str, tuple[str, bytes, dict]]:
    """As `windows`."""
    out: dict[str, tuple[str, bytes, dict]] = {}
    colours = _colours(36, 50)
    byte = np.round(255 * colours).astype(np.uint8)
    rgb = Image.fromarray(byte)
    grey = rgb.convert("L")
    out["colour"] = ("png", _saved(rgb, "PNG"), {"colour": True})
    out["colour-in-grey-task"] = ("png", _saved(rgb, "PNG"), {"side": 64})
    out["colour-levels"] = ("png", _saved(rgb, "PNG"), {"side": 48, "colour": True, "levels": True})
    out["grey"] = ("png", _saved(grey, "PNG"), {"side": 48})
    out["grey-in-colour-task"] = ("png", _saved(grey, "PNG"), {"colour": True, "levels": True})
    out["grey-1-bit"] = ("png", _saved(grey.point(lambda v: 255 * (v > 110)).convert("1"), "PNG"), {})
    wide = np.round(65535 * colours).astype(np.uint16)
    out["grey-16-bit"] = ("png", _png16(wide[..., 1:2], 0), {"levels": True})
    out["colour-16-bit"] = ("png", _png16(wide, 2), {"colour": True})
    alpha = np.tile(np.arange(50, dtype=np.uint8)[None, :, None] * 5, (36, 1, 1))
    out["alpha"] = ("png", _saved(Image.fromarray(np.concatenate([byte, alpha], -1)), "PNG"), {"colour": True})
    out["palette"] = ("png", _saved(rgb.quantize(16), "PNG"), {"colour": True, "side": 16})
    out["palette-transparent"] = ("png", _saved(rgb.quantize(16), "PNG", transparency=3), {"colour": True})
    frames = [rgb, rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    out["animated"] = ("png", _saved(frames[0], "PNG", save_all=True, append_images=frames[1:]), {})
    out["animated-gif"] = ("gif", _saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), {})
    for orientation in range(1, 9):
        tag = Image.Exif()
        tag[0x0112] = orientation
        out[f"turned-{orientation}"] = ("png", _saved(rgb, "PNG", exif=tag), {"colour": True, "side": 16})
        if orientation in (3, 6):
            out[f"turned-{orientation}-jpeg"] = ("jpg", _saved(rgb, "JPEG", quality=92, exif=tag), {"colour": True})
    out["progressive"] = ("jpg", _saved(rgb, "JPEG", quality=92, progressive=True), {"colour": True})
    out["grey-jpeg"] = ("jpg", _saved(grey, "JPEG", quality=92), {})
    out["cmyk"] = ("jpg", _saved(rgb.convert("CMYK"), "JPEG", quality=92), {"colour": True})
    out["flat"] = ("png", _saved(Image.new("RGB", (5, 4), (200, 40, 90)), "PNG"), {"colour": True, "levels": True})
    return {name: (suffix, payload, {"modality": "picture", **spec}) for name, (suffix, payload, spec) in out.items()}


def prepare(payload: bytes, spec: dict) -> inputs.Sample:
    """What the reference makes of a payload."""
    made = inputs.window if spec["modality"] == "window" else inputs.picture
    return made(payload, spec, CONTRACT[spec["modality"]])


def main() -> None:
    folder = GOLDEN / "inputs"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    cases, tensors, files = {}, {}, {}
    for name, (suffix, payload, spec) in (windows() | pictures()).items():
        # One file for one payload, however many declarations it is read under.
        file = files.setdefault(payload, f"{name}.{suffix}")
        (folder / file).write_bytes(payload)
        cases[name] = {"file": file, "spec": spec}
        try:
            sample = prepare(payload, spec)
        except inputs.InputError as error:
            cases[name]["error"] = error.code
            continue
        # Decoders of JPEG differ by a few of 255 levels; everything else is exact.
        cases[name]["tolerance"] = 0.05 if suffix == "jpg" else 1e-6
        done = ("filled", "clipped", "constant", "rate_changed")
        cases[name]["treatment"] = {key: getattr(sample, key) for key in done}
        tensors[f"{name}.tokens"] = np.concatenate([t.reshape(-1) for t in sample.tokens])
        tensors[f"{name}.ids"] = np.concatenate(sample.ids).astype(np.int32)
        tensors[f"{name}.mean"] = np.array(sample.mean)
        tensors[f"{name}.deviation"] = np.array(sample.deviation)
        tensors[f"{name}.levels"] = np.array(sample.levels, np.float32)
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    save_file(tensors, GOLDEN / "inputs.safetensors")
    (GOLDEN / "inputs.safetensors").chmod(0o644)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{len(cases)} cases, {len(files)} files of {size} bytes together")


if __name__ == "__main__":
    main()
