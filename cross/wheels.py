"""What the fetching scripts share: pins, pip, and files with the right sha256 out of PyPI wheels."""

import hashlib
import os
import re
import subprocess
import sys


class Stop(Exception):
    """Told to the person; ends the program."""


def read_pins(path):
    """The pins, without tomllib: Debian 11 and Ubuntu 22.04 ship a Python older than 3.11."""
    tables, current = {}, {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if table := re.fullmatch(r"\[([\w.-]+)\]", line):
            current = tables.setdefault(table[1], {})
        elif pair := re.fullmatch(r'(\w+) = "([^"\\]*)"', line):
            current[pair[1]] = pair[2]
        else:
            raise Stop(f'{path}:{number}: only [table] and key = "text" are understood here')
    return tables


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find_pip(scratch):
    """Command line of a pip: the installed one, else one from ensurepip in a throw-away environment."""
    installed = [sys.executable, "-m", "pip"]
    if subprocess.run(installed + ["--version"], capture_output=True).returncode == 0:
        return installed
    home = os.path.join(scratch, "pip")
    made = subprocess.run([sys.executable, "-m", "venv", home], capture_output=True)
    if made.returncode == 0:
        return [os.path.join(home, "bin", "python"), "-m", "pip"]
    raise Stop("this Python has neither pip nor venv; install one: apt-get install python3-pip")


def download(pip, name, version, pin, scratch):
    """Path of the wheel that `pin` names, with the sha256 it names."""
    command = pip + [
        "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
        "--platform", pin["platform"], "--python-version", "3.11",
        "--implementation", "cp", "--abi", "cp311", "--dest", scratch, f"{name}=={version}",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    wheel = os.path.join(scratch, pin["wheel"])
    if result.returncode != 0 or not os.path.isfile(wheel):
        said = (result.stderr or result.stdout).strip() or f"no file named {pin['wheel']}"
        raise Stop(
            f"pip could not download {name} {version} ({pin['platform']}).\n{said}\n"
            "Is this machine online, and does pip reach its package index? Behind a mirror set PIP_INDEX_URL."
        )
    demand("the downloaded wheel", wheel, pin["wheel_sha256"])
    return wheel


def demand(what, path, wanted):
    got = sha256(path)
    if got != wanted:
        raise Stop(f"{what} has sha256 {got}, expected {wanted}; nothing was installed")
