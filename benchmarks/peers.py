"""The peers' own environment in ``.bench/``: apart from fnship's, whose names one of them takes."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.errors import MissingTool

__all__ = ["PYTHON", "ROOT", "set_up", "version"]

ROOT: Final = Path(__file__).parents[1]
_VENV: Final = ROOT / ".bench" / "venv"
_STAMP: Final = ROOT / ".bench" / "installed"
_LOCK: Final = Path(__file__).with_name("requirements.txt")

PYTHON: Final = _VENV / "bin" / "python"
"""The interpreter that runs the peers."""


def version(package: str) -> str:
    """The version of a peer that the lock asks for."""
    match = re.search(rf"^{re.escape(package)}==(\S+)", _LOCK.read_text(), re.MULTILINE)
    assert match is not None, f"{package} is not in {_LOCK}"
    return match[1]


def set_up() -> None:
    """Install what the lock says, unless that is done.

    Raises:
        MissingTool: It cannot be installed.
    """
    wanted = f"{hashlib.sha256(_LOCK.read_bytes()).hexdigest()} for Python {sys.version}"
    if _STAMP.exists() and _STAMP.read_text() == wanted:
        return
    print("setting up .bench for the peers …", file=sys.stderr)
    _STAMP.unlink(missing_ok=True)
    shutil.rmtree(_VENV, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(_VENV))
    _run(str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", "install",
         "--require-hashes", "--requirement", str(_LOCK))  # fmt: skip
    _STAMP.write_text(wanted)


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        output = "\n".join((ended.stdout + ended.stderr).strip().splitlines()[-5:])
        raise MissingTool(f"the peers cannot be installed in .bench:\n{output}")
