"""The files of a new function, before they are written."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fnship
from fnship.cli import scaffold
from fnship.cli.scaffold import STYLES, render_file, render_function
from fnship.errors import UsageError
from fnship.image.dockerfile import WATCHDOGS, is_edited

TREE = {
    "main.py",
    "requirements.txt",
    "Dockerfile",
    ".dockerignore",
    ".gitignore",
    "README.md",
    "function/__init__.py",
    "function/handler.py",
    "function/requirements.txt",
    "function/utils.py",
    "tests/conftest.py",
    "tests/test_handler.py",
}


def files_of(**options: Any) -> dict[str, str]:
    rendered = render_function("hello", version="0.1.0", **options)
    return {str(path): text for path, text in rendered.items()}


@pytest.mark.parametrize("style", STYLES)
def test_the_guides_tree(style: str) -> None:
    assert files_of(style=style).keys() == TREE


@pytest.mark.parametrize("style", STYLES)
def test_one_requirements_file(style: str) -> None:
    files = files_of(style=style, single_requirements=True)
    assert files.keys() == TREE - {"function/requirements.txt"}
    assert files["requirements.txt"].splitlines()[1].startswith("./wheels/fnship-0.1.0-py3-")
    assert "function/requirements.txt" not in files["Dockerfile"] + files["README.md"]


def test_the_styles_differ_in_the_handler_and_its_test() -> None:
    one, other = files_of(style="async"), files_of(style="sync")
    differing = {path for path in TREE if one[path] != other[path]}
    assert differing == {"function/handler.py", "tests/test_handler.py"}
    assert "async def handle(" in one["function/handler.py"]
    assert "\ndef handle(" in other["function/handler.py"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("single", [False, True])
def test_every_file_is_whole(style: str, single: bool) -> None:
    for path, text in files_of(style=style, single_requirements=single).items():
        assert "%%" not in text, path
        assert text.endswith("\n"), path
        assert not text.endswith("\n\n"), path
        assert "\n\n\n\n" not in text, path
        assert text.isascii(), path
        if path.endswith(".py"):
            ast.parse(text)


@pytest.mark.parametrize("watchdog", WATCHDOGS)
@pytest.mark.parametrize("single", [False, True])
def test_the_dockerfile_is_the_one_that_was_chosen(single: bool, watchdog: str) -> None:
    dockerfile = files_of(single_requirements=single, watchdog=watchdog)["Dockerfile"]
    assert not is_edited(dockerfile)
    assert ('ENV WATCHDOG="native"' in dockerfile) is (watchdog == "native")
    assert dockerfile.count("RUN pip install") == (1 if single else 2)
    assert 'image.title="hello"' in dockerfile


def test_how_the_container_is_run_matches_how_it_stops() -> None:
    """of-watchdog takes requests for 30 s after it is told to stop; the native one does not."""
    assert "docker run --rm -p 8080:8080 --stop-timeout 45 hello" in files_of()["README.md"]
    assert "docker run --rm -p 8080:8080 hello\n" in files_of(watchdog="native")["README.md"]


def test_no_index_is_asked_for_fnship() -> None:
    files = render_function("hello", version="1.2.3")
    text = files[PurePosixPath("requirements.txt")]
    wanted = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert wanted == ["./wheels/fnship-1.2.3-py3-none-any.whl"]
    for text in files.values():
        assert not re.search(r"pip install [^.\n]*\bfnship\b", text)


def test_the_flask_style() -> None:
    files = files_of(style="flask")
    assert "./wheels/fnship-0.1.0-py3-none-any.whl[flask]" in files["requirements.txt"].splitlines()
    assert 'serve(server="flask")' in files["main.py"]
    assert "\ndef handle(" in files["function/handler.py"]
    assert "fnship run --reload --server flask" in files["README.md"]
    assert "flask" not in files_of(style="sync")["main.py"]


def test_the_flask_server_is_not_its_own_watchdog() -> None:
    with pytest.raises(UsageError, match="the flask server cannot be its own watchdog"):
        files_of(style="flask", watchdog="native")


@given(st.text(min_size=1))
def test_any_name_makes_an_image_name(name: str) -> None:
    readme = render_function(name, version="0.1.0")[PurePosixPath("README.md")]
    image = re.search(r"docker build -t (\S+) \.", readme)
    assert image
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", image[1])


def test_no_two_files_differ_in_case_alone() -> None:
    assert all(a.lower() != b.lower() for a, b in itertools.combinations(TREE, 2))


def test_a_file_that_depends_on_no_choice() -> None:
    assert render_file(".dockerignore") == files_of()[".dockerignore"]


def test_every_template_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    used = {"Dockerfile.tmpl"}  # rendered by fnship.image
    render = scaffold._render

    def remember(template: str, *rest: Any) -> str:
        used.add(f"{template}.tmpl")
        return render(template, *rest)

    monkeypatch.setattr(scaffold, "_render", remember)
    for style, single in itertools.product(STYLES, (False, True)):
        files_of(style=style, single_requirements=single)
    folder = Path(fnship.__file__).parent / "templates"
    assert used == {str(each.relative_to(folder)) for each in folder.rglob("*.*")}
