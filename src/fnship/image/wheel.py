"""The running fnship as a wheel, so that an image gets this version and no index is asked.

fnship is on no index yet, and its name there could be anyone's.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from fnship.errors import UsageError

__all__ = ["own_wheel", "wheel_name"]

_NAME: Final = "fnship"
_PACKAGES: Final = (_NAME, "python_sdk_rafay_workflow")
_TAGS: Final = "py3-none-any"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip archive knows
_WHEEL: Final = f"Wheel-Version: 1.0\nGenerator: fnship\nRoot-Is-Purelib: true\nTag: {_TAGS}\n"


def wheel_name(version: str) -> str:
    """The file name of fnship's wheel."""
    return f"{_NAME}-{version.replace('-', '_')}-{_TAGS}.whl"


def own_wheel() -> tuple[str, bytes]:
    """The wheel of the fnship that runs: the file it was installed from, or one made anew.

    What is made anew has the same bytes for the same files, whenever and wherever.

    Returns:
        Its file name and its content.

    Raises:
        UsageError: fnship is not installed, or is half of one version and half of another.
    """
    from fnship import __version__

    try:
        distribution = metadata.distribution(_NAME)
    except metadata.PackageNotFoundError as exc:
        raise UsageError(
            "fnship runs from a folder that it is not installed from, so no wheel of it can be "
            "made. Install it first: pip install FOLDER"
        ) from exc
    if distribution.version != __version__:
        raise UsageError(
            f"fnship {__version__} runs, but {distribution.version} is what is installed. "
            "Install it again: pip install FOLDER"
        )
    kept = _installed_from(distribution)
    return wheel_name(__version__), kept or _pack(dict(_members(distribution)), __version__)


def _installed_from(distribution: metadata.Distribution) -> bytes | None:
    """The wheel file that pip was given, where it is still there as it was."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        expected = origin["archive_info"]["hashes"]["sha256"]
        url = urllib.parse.urlsplit(origin["url"])
        if url.scheme != "file" or not url.path.endswith(wheel_name(distribution.version)):
            return None
        data = Path(urllib.request.url2pathname(url.path)).read_bytes()
    except (KeyError, TypeError, ValueError, OSError):
        return None
    return data if hashlib.sha256(data).hexdigest() == expected else None


def _members(distribution: metadata.Distribution) -> Iterator[tuple[str, bytes]]:
    """Path in the wheel → content, without the list of them all."""
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UsageError(f"the package {package} is missing. Install fnship again")
        root = Path(next(iter(spec.submodule_search_locations)))
        for path in root.rglob("*"):
            below = path.relative_to(root.parent)
            if path.is_file() and not any(map(_is_litter, below.parts)):
                yield below.as_posix(), path.read_bytes()
    info = f"{_NAME}-{distribution.version}.dist-info"
    yield f"{info}/WHEEL", _WHEEL.encode()
    for file in distribution.files or ():
        if file.parts[0] != info:
            continue
        if file.name in ("METADATA", "entry_points.txt") or file.parts[1] == "licenses":
            yield file.as_posix(), Path(str(file.locate())).read_bytes()


def _is_litter(part: str) -> bool:
    return part == "__pycache__" or part.startswith(".") or part.endswith((".pyc", "~"))


def _pack(members: dict[str, bytes], version: str) -> bytes:
    """The wheel with `members`. Its own metadata stands at its end, as wheels have it."""
    info = f"{_NAME}-{version}.dist-info/"
    names = sorted(members, key=lambda name: (name.startswith(info), name))
    rows = [f"{name},{_digest(members[name])},{len(members[name])}\n" for name in names]
    record = f"{info}RECORD"
    members = {**members, record: "".join([*rows, f"{record},,\n"]).encode()}
    buffer = io.BytesIO()
    # Stored, as compressors differ from one machine to the next.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in [*names, record]:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # Unix, wherever this runs
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, members[name])
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return f"sha256={digest.decode().rstrip('=')}"
