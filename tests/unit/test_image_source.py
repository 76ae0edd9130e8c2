"""The folder that an image is made of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fnship import __version__
from fnship.errors import UsageError
from fnship.image.dockerfile import Choices, render
from fnship.image.requirements import read_requirements
from fnship.image.source import (
    check_own_wheel,
    check_source,
    choose,
    missing_wheel,
    read_dockerfile,
)
from fnship.image.wheel import wheel_name

WHEEL = f"./wheels/{wheel_name(__version__)}"


def function(folder: Path, root: str = WHEEL, second: str | None = "") -> Path:
    (folder / "function").mkdir()
    (folder / "main.py").touch()
    (folder / "requirements.txt").write_text(f"{root}\n")
    if second is not None:
        (folder / "function" / "requirements.txt").write_text(second)
    return folder


def test_a_function(tmp_path: Path) -> None:
    check_source(function(tmp_path))


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("all", "nowhere does not exist. Write a new function with: fnship new DIR"),
        ("function", "there is no function in .*, so it is no function's folder"),
        ("main.py", r"there is no main\.py in"),
    ],
)
def test_no_function(tmp_path: Path, missing: str, said: str) -> None:
    folder = tmp_path / "nowhere"
    if missing != "all":
        folder.mkdir()
    if missing == "main.py":
        (folder / "function").mkdir()
    with pytest.raises(UsageError, match=said):
        check_source(folder)


def test_a_file_is_no_function(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(UsageError, match="x is a file, not a folder"):
        check_source(tmp_path / "x")


def test_its_dockerfile(tmp_path: Path) -> None:
    assert read_dockerfile(tmp_path) is None
    (tmp_path / "Dockerfile").write_text("\ufeffFROM x\n", encoding="utf-8")
    assert read_dockerfile(tmp_path) == "FROM x\n"
    (tmp_path / "Dockerfile").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"cannot read .*Dockerfile"):
        read_dockerfile(tmp_path)
    (tmp_path / "Dockerfile").unlink()
    (tmp_path / "Dockerfile").mkdir()
    with pytest.raises(UsageError, match=r"cannot read .*Dockerfile"):
        read_dockerfile(tmp_path)


def test_what_the_image_depends_on(tmp_path: Path) -> None:
    folder = function(tmp_path)
    requirements = read_requirements(folder)
    expected = Choices(title=tmp_path.name)
    # The wheel is not there yet, but `fnship dockerfile` writes it.
    assert choose(folder, requirements, None) == expected
    assert missing_wheel(folder, requirements) == folder / WHEEL
    (folder / "wheels").mkdir()
    (folder / WHEEL).touch()
    assert choose(folder, requirements, None) == expected
    assert missing_wheel(folder, requirements) is None
    (folder / "function" / "requirements.txt").unlink()
    single = dataclasses.replace(expected, single_requirements=True)
    assert choose(folder, requirements, None) == single
    native = dataclasses.replace(expected, watchdog="native", python_image="x:1", secret=True)
    found = choose(folder, requirements, render(native, __version__))
    assert found == dataclasses.replace(native, single_requirements=True)


def test_a_folder_without_fnship(tmp_path: Path) -> None:
    folder = function(tmp_path, "another-sdk==1.0")
    requirements = read_requirements(folder)
    found = choose(folder, requirements, None)
    assert (found.slim, found.wheels) == (False, False)
    check_own_wheel(folder, requirements)


@pytest.mark.parametrize(
    "root", ["fnship", "fnship>=0.1,<0.2", "fnship[flask]", "FnShip ; x > '1'"]
)
def test_no_index_is_asked_for_fnship(tmp_path: Path, root: str) -> None:
    folder = function(tmp_path, f"# what serves\n{root}")
    with pytest.raises(UsageError) as caught:
        check_own_wheel(folder, read_requirements(folder))
    assert str(caught.value).startswith("requirements.txt:2: fnship would be taken from a package")
    assert WHEEL in str(caught.value)


@pytest.mark.parametrize(
    "root", [f"fnship==0.1.0 --hash=sha256:{'0' * 64}", "fnship @ https://example.com/fnship.whl"]
)
def test_what_says_exactly_which_fnship_is_meant(tmp_path: Path, root: str) -> None:
    folder = function(tmp_path, root)
    check_own_wheel(folder, read_requirements(folder))


def test_wheels_that_are_missing(tmp_path: Path) -> None:
    folder = function(tmp_path, f"{WHEEL}[flask]", "./wheels/other-1.0-py3-none-any.whl\n")
    requirements = read_requirements(folder)
    with pytest.raises(UsageError, match=r"^requirements\.txt:1: .* write it with `fnship dock"):
        check_own_wheel(folder, requirements)
    (folder / "wheels").mkdir()
    (folder / WHEEL).touch()
    with pytest.raises(UsageError, match=r"^function/requirements\.txt:1: .* is not there$"):
        check_own_wheel(folder, requirements)


def test_the_wheel_of_another_version_is_not_ours_to_write(tmp_path: Path) -> None:
    folder = function(tmp_path, "./wheels/fnship-99.0-py3-none-any.whl")
    assert missing_wheel(folder, read_requirements(folder)) is None
