"""The folder that an image is made of: whether it is a function, and what its image depends on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fnship.errors import UsageError
from fnship.image.dockerfile import Choices, read_choices
from fnship.image.requirements import FILES, Requirement, find
from fnship.image.wheel import wheel_name

__all__ = ["check_own_wheel", "check_source", "choose", "missing_wheel", "read_dockerfile"]

_OURS: Final = "fnship"


def check_source(folder: Path) -> None:
    """See that `folder` holds what the image runs.

    Raises:
        UsageError: It is no function's folder; says what is missing.
    """
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {problem}. Write a new function with: fnship new DIR")
    for name, there in (
        ("function", (folder / "function").is_dir()),
        ("main.py", (folder / "main.py").is_file()),
    ):
        if not there:
            raise UsageError(
                f"there is no {name} in {folder.resolve()}, so it is no function's folder. "
                "Write a new function with: fnship new DIR"
            )


def read_dockerfile(folder: Path) -> str | None:
    """The text of the folder's Dockerfile; None where it has none.

    Raises:
        UsageError: It cannot be read.
    """
    path = folder / "Dockerfile"
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read {path}: {exc}") from exc


def choose(folder: Path, requirements: Sequence[Requirement], dockerfile: str | None) -> Choices:
    """What the folder's Dockerfile depends on: what is in the folder, and what it says now.

    Args:
        folder: The function's folder.
        requirements: What its requirements files ask for.
        dockerfile: The text of the Dockerfile that it has; None where it has none.
    """
    choices = Choices(
        title=folder.resolve().name,
        single_requirements=not (folder / FILES[1]).is_file(),
        wheels=(folder / "wheels").is_dir() or missing_wheel(folder, requirements) is not None,
        slim=find(requirements, _OURS) is not None,
    )
    return choices if dockerfile is None else read_choices(dockerfile, choices)


def missing_wheel(folder: Path, requirements: Sequence[Requirement]) -> Path | None:
    """The wheel of this very fnship that the requirements name, where it is not there."""
    from fnship import __version__

    found = find(requirements, _OURS)
    if found is None or not found.path or (folder / found.path).is_file():
        return None
    path = folder / found.path
    return path if path.name == wheel_name(__version__) else None


def check_own_wheel(folder: Path, requirements: Sequence[Requirement]) -> None:
    """See that fnship comes from where it can be trusted, and that wheels are there.

    Raises:
        UsageError: An index would be asked for fnship, or a wheel is missing.
    """
    from fnship import __version__

    for each in requirements:
        if each.path and not (folder / each.path).is_file():
            mend = ": write it with `fnship dockerfile`" if each.name == _OURS else ""
            raise UsageError(f"{each.place}: {each.path} is not there{mend}")
        if each.name == _OURS and not each.path and "--hash" not in each.text:
            if "@" in each.text:
                continue
            raise UsageError(
                f"{each.place}: fnship would be taken from a package index, where it is not yet, "
                "and where its name could be anyone's. Write this line in its place, and then "
                f"run `fnship dockerfile`: ./wheels/{wheel_name(__version__)}"
            )
