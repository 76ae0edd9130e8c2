"""The Dockerfile of a function, rendered from what was chosen; reads and writes no file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Final

from fnship.errors import UsageError

__all__ = [
    "PYTHON_IMAGE",
    "WATCHDOGS",
    "WATCHDOG_IMAGE",
    "Choices",
    "fill",
    "is_edited",
    "read_choices",
    "render",
    "split_image",
]

WATCHDOGS: Final = ("of-watchdog", "native")
PYTHON_IMAGE: Final = "python:3.13-slim-trixie"
WATCHDOG_IMAGE: Final = "ghcr.io/openfaas/of-watchdog:0.10.6"

_HEADER: Final = re.compile(r"# fnship \S+ wrote this \(([0-9a-f]{16})\)[^\n]*\n")

_NATIVE: Final = re.compile(r'^\s*ENV\s.*\bWATCHDOG[= ]"?native\b', re.MULTILINE | re.IGNORECASE)

# Modules of the standard library that bring in all those that the server needs.
_STDLIB: Final = (
    "__future__, argparse, asyncio, calendar, concurrent.futures.thread, configparser, csv, "
    "dataclasses, decimal, email.parser, email.policy, encodings.utf_8_sig, glob, html.entities, "
    "http.client, http.cookies, importlib.metadata, importlib.resources, importlib.util, json, "
    "logging.config, mimetypes, multiprocessing.connection, netrc, platform, secrets, shlex, ssl, "
    "urllib.request, uuid, zipfile"
)


class _Template(Template):
    delimiter = "%%"  # a dollar belongs to the Dockerfile's own variables


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a Dockerfile depends on.

    Attributes:
        title: What the function is called, for the image's label.
        watchdog: One of `WATCHDOGS`: a process of its own, or the server itself.
        python_image: The image to start from, as ``repository:tag``; a digest may follow.
        watchdog_image: The image that ``/fwatchdog`` is taken from; unused by ``native``.
        single_requirements: Whether there is no ``function/requirements.txt``.
        wheels: Whether there is a folder ``wheels`` that requirements refer to.
        slim: Whether fnship is among the requirements, and can make what is installed smaller.
        secret: Whether pip reads its configuration from the build secret ``pip``, which only
            BuildKit, podman and buildah can give.
    """

    title: str
    watchdog: str = "of-watchdog"
    python_image: str = PYTHON_IMAGE
    watchdog_image: str = WATCHDOG_IMAGE
    single_requirements: bool = False
    wheels: bool = True
    slim: bool = True
    secret: bool = False


def render(choices: Choices, version: str) -> str:
    """The text of a Dockerfile.

    Args:
        choices: What it depends on.
        version: fnship's own, for its first line.

    Raises:
        UsageError: An image has no tag.
    """
    python_repo, python_tag = split_image(choices.python_image)
    watchdog_repo, watchdog_tag = split_image(choices.watchdog_image)
    flags = {
        "native": choices.watchdog == "native",
        "secret": choices.secret,
        "two": not choices.single_requirements,
        "wheels": choices.wheels,
    }
    slim = " \\\n    && python -m fnship.image.slim {}" if choices.slim else ""
    values = {
        "python_repo": python_repo,
        "python_tag": python_tag,
        "watchdog_repo": watchdog_repo,
        "watchdog_tag": watchdog_tag,
        "title": _quoted(choices.title),
        "stdlib": _STDLIB,
        "mount": "--mount=type=secret,id=pip " if choices.secret else "",
        "no_compile": " --no-compile" if choices.slim else "",  # slim does it
        "slim_server": slim.format("/opt/server"),
        "slim_venv": slim.format("/opt/venv"),
    }
    text = files("fnship").joinpath("templates", "Dockerfile.tmpl").read_text(encoding="utf-8")
    body = fill(text, values, flags)
    return (
        f"# fnship {version} wrote this ({_checksum(body)}). "
        f"Edit it as you like: fnship keeps what you edited.\n{body}"
    )


def fill(template: str, values: Mapping[str, str], flags: Mapping[str, bool]) -> str:
    """Put `values` where the template says ``%%{name}``.

    Lines between ``%if flag`` or ``%if not flag``, ``%else`` and ``%end`` stay where the flag
    says so; they do not nest.
    """
    kept = "\n".join(_kept_lines(template, flags))
    # Two empty lines are the most that stand anywhere, between Python's functions.
    return _Template(re.sub(r"\n{4,}", "\n\n\n", kept).strip("\n") + "\n").substitute(values)


def _kept_lines(template: str, flags: Mapping[str, bool]) -> Iterator[str]:
    keep = True
    for line in template.splitlines():
        if condition := re.fullmatch(r"%if (not )?(\w+)", line):
            keep = flags[condition[2]] is not bool(condition[1])
        elif line == "%else":
            keep = not keep
        elif line == "%end":
            keep = True
        elif keep:
            yield line


def is_edited(text: str) -> bool:
    """Whether `text` differs from what `render` made of it, or was never made by it."""
    text = text.replace("\r\n", "\n")
    header = _HEADER.match(text)
    return header is None or header[1] != _checksum(text[header.end() :])


def read_choices(text: str, choices: Choices) -> Choices:
    """`choices`, with the watchdog, images and secret that the Dockerfile `text` has."""
    found = dict(re.findall(r"^ARG (\w+_IMAGE_(?:REPO|TAG))=(\S+)$", text, re.MULTILINE))

    def image(kind: str, default: str) -> str:
        repo, tag = found.get(f"{kind}_IMAGE_REPO"), found.get(f"{kind}_IMAGE_TAG")
        return f"{repo}:{tag}" if repo and tag else default

    return Choices(
        title=choices.title,
        watchdog="native" if _NATIVE.search(text) else "of-watchdog",
        python_image=image("PYTHON", choices.python_image),
        watchdog_image=image("WATCHDOG", choices.watchdog_image),
        single_requirements=choices.single_requirements,
        wheels=choices.wheels,
        slim=choices.slim,
        secret="--mount=type=secret,id=pip" in text,
    )


def split_image(image: str) -> tuple[str, str]:
    """``repository:tag`` in its two halves; a digest stays with the tag.

    Raises:
        UsageError: It has no tag, or is no image at all.
    """
    name, at, digest = image.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        raise UsageError(
            f"{image!r} does not say which version: write it as repository:tag, "
            f"such as {PYTHON_IMAGE}"
        )
    return repository, f"{tag}{at}{digest}"


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _quoted(text: str) -> str:
    """`text` for between the double quotes of a Dockerfile, on one line."""
    return re.sub(r'(["$\\])', r"\\\1", " ".join(text.split()))
