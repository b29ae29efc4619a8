"""Labelled texts."""

from __future__ import annotations

import io
import lzma
import re
import tarfile
from functools import lru_cache

import numpy as np

from .archives import fetch, read, text
from .store import Data, limit, split_half

MOST = 2000


def _data(rows: list[tuple[str, str]], name: str) -> Data:
    """Texts with labels, a fixed half as test set, thinned; the same text twice would leak into it."""
    once = dict(reversed(rows))
    classes = sorted(set(once.values()))
    y = np.array([classes.index(label) for label in once.values()], np.uint8)
    return limit(Data(list(once), y, split_half(len(once), name), classes), MOST, MOST, name)


@lru_cache
def _packages() -> list[dict[str, str]]:
    """Fields of every package of the pinned Debian index; source packages' further binaries are left out."""
    out, seen = [], set()
    for block in lzma.decompress(fetch("packages").read_bytes()).decode().split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*(?:\n .*)*)", block, re.M))
        if not fields:
            continue
        source = fields.get("Source", fields["Package"]).split()[0]
        if source not in seen:
            seen.add(source)
            out.append(fields)
    return out


SECTIONS = ("admin", "fonts", "games", "gnu-r", "golang", "graphics", "java", "mail", "net", "science", "sound", "web")


def sections() -> Data:
    """One-line descriptions of Debian packages, by the archive section they are in."""
    rows = [(p["Description"].split("\n")[0], p.get("Section", "")) for p in _packages()]
    return _data([row for row in rows if row[1] in SECTIONS], "sections")


FIELDS = ("biology", "electronics", "finance", "geography", "mathematics", "physics", "statistics")


def fields() -> Data:
    """One-line descriptions of Debian packages with exactly one of seven `field::` tags."""
    rows = []
    for package in _packages():
        found = {tag for tag in re.findall(r"field::([a-z]+)", package.get("Tag", "")) if tag in FIELDS}
        if len(found) == 1:
            rows.append((package["Description"].split("\n")[0], found.pop()))
    return _data(rows, "fields")


@lru_cache
def _rated(name: str) -> list[tuple[float, str]]:
    outer = io.BytesIO(read("vader", "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"))
    with tarfile.open(fileobj=outer) as inner:
        member = inner.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
        lines = (member.read() if member else b"").decode("utf-8", "replace").splitlines()
    rows = [line.split("\t", 2) for line in lines if line.count("\t") >= 2]
    return [(float(rating), sentence.strip()) for _, rating, sentence in rows]


def _polarity(name: str, salt: str) -> Data:
    """Sentences rated by ten people from -4 to 4: the clearly positive against the clearly negative."""
    rated = [(sentence, rating) for rating, sentence in _rated(name) if abs(rating) >= 1 and sentence]
    return _data([(sentence, "positive" if rating > 0 else "negative") for sentence, rating in rated], salt)


def movies() -> Data:
    """Sentences of film reviews by polarity."""
    return _polarity("movieReviewSnippets", "movies")


def products() -> Data:
    """Sentences of product reviews by polarity."""
    return _polarity("amazonReviewSnippets", "products")


EPIGRAMS = ("computers", "definitions", "law", "men-women", "politics", "science", "songs-poems", "work")


def epigrams() -> Data:
    """Fortune cookies by the file they stand in."""
    rows = []
    for name in EPIGRAMS:
        for cookie in text("fortunes", f"./usr/share/games/fortunes/{name}").split("\n%\n"):
            flat = " ".join(cookie.split())
            if len(flat) >= 20:
                rows.append((flat, name))
    return _data(rows, "epigrams")
