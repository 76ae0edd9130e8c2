"""A function folder's own environment: ``.venv`` in it, with what its requirements name."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

from fnship.cli.output import note
from fnship.errors import UsageError

__all__ = ["ensure_environment"]

_ROOT: Final = "requirements.txt"
_FILES: Final = (_ROOT, "function/requirements.txt")
_FNSHIP_ITSELF: Final = re.compile(r"\s*(fnship\b|(\./)?wheels/fnship-)")
_STAMP: Final = "fnship-installed"


def ensure_environment(folder: Path) -> Path:
    """Make ``.venv`` in `folder`, or bring it up to date with the folder's requirements.

    fnship itself is not installed into it: it is lent by the environment that runs this, so
    that the version on the command line is the one that serves. What the requirements name
    comes first in it.

    Args:
        folder: The function's folder.

    Returns:
        The environment's interpreter.

    Raises:
        UsageError: It cannot be made, or a requirement cannot be installed; pip has said why.
    """
    folder = folder.resolve()
    venv = folder / ".venv"
    python = venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wanted = _fingerprint(folder)
    stamp = venv / _STAMP
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return python
    if not python.exists():
        note(f"fnship: making {venv}")
        _run([sys.executable, "-m", "venv", str(venv)], folder, f"{venv} cannot be made")
    _lend(python, folder)
    for name in _FILES:
        if (folder / name).is_file():
            note(f"fnship: installing {name}")
            _install(python, folder, name)
    stamp.write_text(wanted)
    return python


def _fingerprint(folder: Path) -> str:
    """What the environment depends on: the interpreter, where fnship is, the requirements."""
    digest = hashlib.sha256(f"{sys.version}\n{_own_paths()}\n".encode())
    for name in _FILES:
        path = folder / name
        digest.update(path.read_bytes() if path.is_file() else b"none")
    return digest.hexdigest()


def _own_paths() -> list[str]:
    """Where fnship and what it runs on are installed."""
    package = Path(__file__).parents[2]
    return list(dict.fromkeys([str(package), sysconfig.get_path("purelib")]))


def _lend(python: Path, folder: Path) -> None:
    """Let the new environment find fnship, after everything of its own."""
    shown = _run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        folder,
        f"{python} does not run",
    )
    Path(shown.strip(), "fnship-lent.pth").write_text("\n".join(_own_paths()) + "\n")


def _install(python: Path, folder: Path, name: str) -> None:
    path = folder / name
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not _FNSHIP_ITSELF.match(line)]
    # Beside the original, because what it refers to is relative to its place.
    part = path.with_name(f".fnship-{path.name}")
    part.write_text("".join(kept))
    try:
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        _run([*pip, "--requirement", str(part)], folder, f"{name} cannot be installed")
    finally:
        part.unlink()


def _run(command: list[str], folder: Path, problem: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own commands, with no shell
        command, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
        raise UsageError(f"{problem}: {' '.join(errors) or f'status {done.returncode}'}")
    return done.stdout
