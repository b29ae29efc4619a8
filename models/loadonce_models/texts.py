"""Public texts for the statistics of a text backbone: docstrings of packages that the lock pins by hash.

None of them is an evaluation set, and a rebuild reads the same bytes.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import numpy as np

PACKAGES = ("docutils", "networkx", "numpy", "onnx", "pygments")
LEAST_WORDS = 4


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed; run models/build-text.sh")
    return Path(next(iter(spec.submodule_search_locations)))


def _paragraphs(source: str) -> list[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    parts = [re.sub(r"\s+", " ", part).strip() for doc in docs for part in re.split(r"\n\s*\n", doc)]
    # Examples and tables of parameters are code; what is wanted is prose.
    return [p for p in parts if len(p.split()) >= LEAST_WORDS and ">>>" not in p and p[0].isalpha()]


def docstrings(count: int, seed: int, packages: tuple[str, ...] = PACKAGES) -> list[str]:
    """`count` different paragraphs and, for every third, its first sentence alone: logs and titles are short."""
    found: dict[str, None] = {}
    for package in packages:
        folder = _folder(package)
        for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
            for paragraph in _paragraphs(path.read_text(encoding="utf-8", errors="ignore")):
                found[paragraph] = None
    texts = list(found)
    for text in texts[::3]:
        sentence = re.split(r"(?<=[.!?]) ", text)[0]
        if len(sentence.split()) >= LEAST_WORDS:
            found[sentence] = None
    texts = list(found)
    if len(texts) < count:
        raise SystemExit(f"only {len(texts)} texts were found, {count} are needed")
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))[:count]]
