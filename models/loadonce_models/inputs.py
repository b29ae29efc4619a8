"""What people send, made into what `preprocess` works on: the reference for docs/input.md and for the Rust side.

Windows come as JSON, CSV or packed little-endian f32 and may have gaps or another rate than declared; pictures come
as PNG or JPEG of any size, depth and orientation. A refusal is an `InputError` with the code that the Rust side uses.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .preprocess import resample

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]

PATCH, PATCH_SIDE = 16, 4
MOST_GAPS = 5  # at most one number in so many is bridged
RATE_TOLERANCE, MOST_RATIO = 0.005, 64.0
STD_FLOOR = 1e-4
MOST_LEVEL = 8.0
MAX_PIXEL_BYTES, MAX_SIDE = 64 << 20, 8192
# Of a progressive JPEG, whose decoder holds every coefficient beside the pixels.
MAX_PROGRESSIVE_BYTES = 20 << 20

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE | re.ASCII)
_GAP = {"", "nan", "na", "n/a", "null"}
_CSV_BYTES = set(b'0123456789+-.,;eE \t\r\n"NnAaUuLl/')


class InputError(ValueError):
    """A refused payload, with its code."""

    def __init__(self, code: str, message: str = ""):
        super().__init__(message or code)
        self.code = code


@dataclass
class Sample:
    """Channels of tokens, with what standardizing took away."""

    tokens: list[F32]
    ids: list[NDArray[np.int64]]
    mean: list[float]
    deviation: list[float]
    levels: list[float] = field(default_factory=list)
    filled: int = 0
    clipped: int = 0
    constant: int = 0
    rate_changed: bool = False


def fill_gaps(x: F64) -> tuple[F64, int]:
    """NaN replaced by straight lines between their neighbours, at the ends by the nearest number; and how many."""
    gap = np.isnan(x)
    if gap.sum() * MOST_GAPS > len(x):
        raise InputError("too_many_gaps", f"{gap.sum()} of {len(x)} numbers are missing")
    return np.interp(np.arange(len(x)), np.flatnonzero(~gap), x[~gap]), int(gap.sum())


def stretch(declared: float | None, given: float | None) -> float | None:
    """Factor on the number of points that brings the given rate to the declared one; None where they are the same."""
    if declared is None or given is None:
        return None
    ratio = declared / given if given else math.inf
    if not 1 / MOST_RATIO <= ratio <= MOST_RATIO:
        raise InputError("wrong_rate")
    return ratio if abs(ratio - 1) > RATE_TOLERANCE else None


def level(mean: float, deviation: float, low: float, high: float) -> list[float]:
    """The two level numbers of a channel."""
    m = 4 * (mean - (low / 2 + high / 2)) / (high - low)
    s = (math.log2(deviation / (high - low) + 2**-12) + 4) / 2
    return [min(max(v, -MOST_LEVEL), MOST_LEVEL) for v in (m, s)]


def strided(count: int, positions: int) -> NDArray[np.int64]:
    """Middles of `count` cells on a scale of `positions`."""
    return (2 * np.arange(count, dtype=np.int64) + 1) * positions // (2 * count)


def window_ids(points: int, contract: dict) -> NDArray[np.int64]:
    """Embedding rows of a window; `contract` is [input.window] of backbone.toml."""
    return contract["first_token"] + strided(points // PATCH, contract["positions"])


def picture_ids(side: int, contract: dict) -> NDArray[np.int64]:
    """Embedding rows of a plane of a picture, row-major; `contract` is [input.picture]."""
    at = strided(side // PATCH_SIDE, contract["positions"])
    return (contract["first_token"] + at[:, None] * contract["positions"] + at).reshape(-1)


# Windows


def _cell(cell: str, decimal_comma: bool) -> float | None:
    cell = cell.strip()
    if len(cell) >= 2 and cell[0] == cell[-1] == '"':
        cell = cell[1:-1].strip()
    if cell.lower() in _GAP:
        return math.nan
    if decimal_comma and "." not in cell:
        cell = cell.replace(",", ".", 1)
    return float(cell) if _NUMBER.fullmatch(cell) else None


def read_csv(text: str, channels: int) -> list[list[float]]:
    """One line holds channel after channel; of several, each is a point in time with a cell per channel."""
    separator = next((s for s in ";\t" if s in text), ",")
    lines = [line for line in text.split("\n") if line.strip()]
    rows = [[_cell(cell, separator != ",") for cell in line.split(separator)] for line in lines]
    if rows and all(cell is None for cell in rows[0]):
        rows = rows[1:]
    if not rows or any(cell is None for row in rows for cell in row):
        raise InputError("bad_csv")
    if len(rows) == 1:
        if len(rows[0]) % channels:
            raise InputError("bad_csv", f"{channels} channels do not divide {len(rows[0])} cells")
        return np.reshape(rows[0], (channels, -1)).tolist()
    if any(len(row) != channels for row in rows):
        raise InputError("bad_csv", f"a line has not {channels} cells")
    return np.transpose(rows).tolist()


def _is_text(payload: bytes) -> bool:
    start = payload[:64]
    try:
        known = start.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        known = start[: error.start].decode()
    printable = all(c in "\t\n\f\r" or not (ord(c) < 32 or 127 <= ord(c) < 160) for c in known)
    digits = any(b in b"0123456789" for b in start)
    numeric = digits and all(b in _CSV_BYTES for b in known.encode())
    return printable and (known.lstrip()[:1] in ("[", "{") or numeric or len(payload) >= 64)


def _is_packed(text: bytes, length: int, channels: int) -> bool:
    """What begins like text and is packed after all, for example a run of equal numbers of printable bytes."""
    if text.lstrip()[:1] in (b"[", b"{") or length % (4 * channels):
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return True
    return False


def read_window(payload: bytes, channels: int) -> tuple[list[list[float]], float | None, str | None]:
    """Channels (gaps as NaN), and the rate and units that the sample says it has."""
    text = payload.removeprefix(b"\xef\xbb\xbf")
    if not _is_text(text) or _is_packed(text, len(payload), channels):
        if len(payload) % (4 * channels):
            raise InputError("raw_length")
        return np.frombuffer(payload, "<f4").reshape(channels, -1).astype(np.float64).tolist(), None, None
    if text.lstrip()[:1] not in (b"[", b"{"):
        return read_csv(text.decode(), channels), None, None
    try:
        value = json.loads(text, parse_constant=lambda _: (_ for _ in ()).throw(ValueError("not JSON")))
    except ValueError as error:
        raise InputError("bad_json", str(error)) from error
    rate, units = (value.get("rate"), value.get("units")) if isinstance(value, dict) else (None, None)
    rows = value["channels"] if isinstance(value, dict) else value
    if not rows or not isinstance(rows[0], list):
        rows = [rows]
    return [[math.nan if v is None else float(v) for v in row] for row in rows], rate, units


def window(payload: bytes, spec: dict, contract: dict) -> Sample:
    """A payload under a task's input declaration, on [input.window] of a bundle."""
    channels, rate, units = read_window(payload, spec["channels"])
    if len(channels) != spec["channels"]:
        raise InputError("wrong_channels")
    if units is not None and spec.get("units", units) != units:
        raise InputError("wrong_units")
    ratio = stretch(spec.get("rate"), rate)
    points = spec.get("points", contract["default"])
    pairs = spec.get("range")
    if pairs is not None and not isinstance(pairs[0], list):
        pairs = [pairs] * len(channels)
    out = Sample([], [], [], [], rate_changed=ratio is not None)
    for number, channel in enumerate(channels):
        x = np.array(channel, np.float64)
        if not len(x):
            raise InputError("empty_channel")
        length = len(x) if ratio is None else max(int(len(x) * ratio + 0.5), 1)
        if spec.get("length", length) != length:
            raise InputError("wrong_length")
        if np.isinf(x.astype(np.float32)).any():
            raise InputError("not_finite")
        # As packed f32 would have brought it: a number must not depend on how it was spelled.
        x, filled = fill_gaps(x.astype(np.float32).astype(np.float64))
        out.filled += filled
        if pairs is not None:
            out.clipped += int(((x <= pairs[number][0]) | (x >= pairs[number][1])).sum())
        if length != len(x):
            x = resample(x, length)
        out.constant += int((x == x[0]).all())
        _add(out, resample(x, points).reshape(-1, PATCH), window_ids(points, contract), 0.0)
    if spec.get("levels"):
        for mean, deviation, (low, high) in zip(out.mean, out.deviation, pairs, strict=True):
            out.levels += level(mean, deviation, low, high)
    return out


def _add(out: Sample, tokens: F64, ids: NDArray[np.int64], least: float) -> None:
    mean, deviation = float(tokens.mean()), float(tokens.std())
    out.tokens.append(((tokens - mean) / (max(deviation, least) + STD_FLOOR)).astype(np.float32))
    out.ids.append(ids)
    out.mean.append(mean)
    out.deviation.append(deviation)


# Pictures


def _png16(payload: bytes) -> NDArray[np.uint16] | None:
    """Pixels [H, W, samples] of a 16-bit PNG without interlace, which Pillow would cut to 8 bits; None for others."""
    if not payload.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", payload[16:29])
    if depth != 16 or interlace:
        return None
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    at, packed = 8, b""
    while at < len(payload):
        (size,) = struct.unpack(">I", payload[at : at + 4])
        if payload[at + 4 : at + 8] == b"IDAT":
            packed += payload[at + 8 : at + 8 + size]
        at += 12 + size
    step = 2 * samples
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + width * step)
    above = np.zeros(width * step, np.int64)
    out = np.zeros((height, width * step), np.int64)
    for y, (kind, line) in enumerate(zip(lines[:, 0], lines[:, 1:].astype(np.int64), strict=True)):
        for i, value in enumerate(line):
            a = out[y, i - step] if i >= step else 0
            b, c = above[i], above[i - step] if i >= step else 0
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            out[y, i] = (value + (0, a, b, (a + b) // 2, paeth)[kind]) % 256
        above = out[y]
    return out.astype(np.uint8).view(">u2").astype(np.uint16).reshape(height, width, samples)


def decode(payload: bytes) -> F64:
    """Upright pixels [H, W] (grey) or [H, W, 3] on 0..255; alpha is dropped."""
    picture = Image.open(io.BytesIO(payload), formats=("PNG", "JPEG"))
    samples = len(picture.getbands()) if picture.mode != "P" else 3
    width, height = picture.size
    limit = MAX_PROGRESSIVE_BYTES if picture.info.get("progressive") else MAX_PIXEL_BYTES
    if max(width, height) > MAX_SIDE or width * height * samples > limit:
        raise InputError("picture_too_large")
    orientation = picture.getexif().get(0x0112, 1)
    wide = _png16(payload)
    if wide is not None:
        pixels = wide / 257.0
        pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    else:
        if picture.mode in ("P", "CMYK", "YCbCr", "RGBA"):
            # Through RGBA a palette keeps the colour under its transparent entries.
            picture = picture.convert("RGBA").convert("RGB") if picture.mode == "P" else picture.convert("RGB")
        elif picture.mode in ("1", "LA"):
            picture = picture.convert("L")
        pixels = np.asarray(picture, np.float64)
    # Pillow's own operation on an index picture, so that any number of bits is turned alike.
    if orientation != 1:
        tag = Image.Exif()
        tag[0x0112] = orientation
        index = Image.fromarray(np.arange(pixels.shape[0] * pixels.shape[1], dtype=np.int32).reshape(pixels.shape[:2]))
        buffer = io.BytesIO()
        index.save(buffer, "TIFF", exif=tag)
        order = np.asarray(ImageOps.exif_transpose(Image.open(buffer)))
        pixels = pixels.reshape(-1, *pixels.shape[2:])[order]
    return pixels


def _plane(values: F64, side: int) -> F64:
    square = resample(resample(values, side).T, side).T
    blocks = square.reshape(side // PATCH_SIDE, PATCH_SIDE, side // PATCH_SIDE, PATCH_SIDE)
    return np.swapaxes(blocks, 1, 2).reshape(-1, PATCH)


def picture(payload: bytes, spec: dict, contract: dict) -> Sample:
    """A payload under a task's input declaration, on [input.picture] of a bundle."""
    if not payload.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        foreign = payload[:4] in (b"GIF8", b"II*\0", b"MM\0*") or payload[:2] == b"BM" or payload[8:12] == b"WEBP"
        raise InputError("picture_format" if foreign or payload[4:8] == b"ftyp" else "wrong_modality")
    pixels = decode(payload) / 255
    side = spec.get("side", contract["default"])
    colour = pixels.ndim == 3
    luma = pixels @ np.array([299.0, 587.0, 114.0]) / 1000 if colour else pixels
    out = Sample([], [], [], [])
    _add(out, _plane(luma, side), picture_ids(side, contract), 0.0)
    # What is left below this is rounding.
    out.constant = int(out.deviation[0] < 1e-9)
    if spec.get("colour"):
        for band in (2, 0):
            chroma = pixels[..., band] - luma if colour else np.zeros_like(luma)
            _add(out, _plane(chroma, side // 2), picture_ids(side // 2, contract), out.deviation[0] / 4)
    if spec.get("levels"):
        for mean, deviation in zip(out.mean, out.deviation, strict=True):
            out.levels += level(mean, deviation, 0.0, 1.0)
    return out
