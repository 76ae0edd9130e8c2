"""The files of a new function, rendered from ``fnship/templates``; writes nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Final

from fnship.errors import UsageError
from fnship.image.dockerfile import Choices, fill, render
from fnship.image.reference import image_name
from fnship.image.wheel import wheel_name

__all__ = ["STYLES", "render_file", "render_function"]

STYLES: Final = ("async", "sync", "flask")

# File of the function → its template; "{style}" stands for how the handler is defined.
_FILES: Final = {
    "main.py": "main.py",
    "requirements.txt": "requirements.txt",
    "Dockerfile": "",  # rendered by fnship.image
    ".dockerignore": "dockerignore",
    ".gitignore": "gitignore",
    "README.md": "README.md",
    "function/__init__.py": "function-init.py",
    "function/handler.py": "{style}/handler.py",
    "function/requirements.txt": "function-requirements.txt",
    "function/utils.py": "utils.py",
    "tests/conftest.py": "conftest.py",
    "tests/test_handler.py": "{style}/test_handler.py",
}


def render_function(
    name: str,
    *,
    version: str,
    style: str = "async",
    single_requirements: bool = False,
    watchdog: str = "of-watchdog",
) -> dict[PurePosixPath, str]:
    """Render the files of a new function. Its wheel of fnship is not among them.

    Args:
        name: What to call it, for its README and its image.
        version: fnship's own, whose wheel its requirements will name.
        style: One of `STYLES`: how the handler is defined, or ``flask`` for a plain one behind
            the Flask-era server.
        single_requirements: One requirements.txt in place of two.
        watchdog: What stands between the port and the function, as in `Choices`.

    Returns:
        Path below the function's folder → text.

    Raises:
        UsageError: The style and the watchdog do not go together.
    """
    if style == "flask" and watchdog == "native":
        raise UsageError(
            "the flask server cannot be its own watchdog: its probes would go unanswered while "
            "its threads are busy. Take --watchdog of-watchdog, or another --style"
        )
    templates = dict(_FILES)
    if single_requirements:
        templates["requirements.txt"] = "requirements-single.txt"
        del templates["function/requirements.txt"]
    flask = style == "flask"
    flags = {"flask": flask, "native": watchdog == "native", "two": not single_requirements}
    values = {
        "name": " ".join(name.split()),
        "image": image_name(name),
        "wheel": f"./wheels/{wheel_name(version)}",
        "extra": "[flask]" if flask else "",
    }
    rendered = {
        PurePosixPath(path): _render(
            template.format(style="sync" if flask else style), values, flags
        )
        for path, template in templates.items()
        if template
    }
    rendered[PurePosixPath("Dockerfile")] = render(
        Choices(title=name, watchdog=watchdog, single_requirements=single_requirements), version
    )
    return {path: rendered[path] for path in map(PurePosixPath, templates)}


def render_file(path: str) -> str:
    """One file of a new function that depends on no choice, such as ``.dockerignore``."""
    return _render(_FILES[path], {}, {})


def _render(template: str, values: Mapping[str, str], flags: Mapping[str, bool]) -> str:
    text = files("fnship").joinpath("templates", f"{template}.tmpl").read_text(encoding="utf-8")
    return fill(text, values, flags)
