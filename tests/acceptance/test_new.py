"""`fnship new`, and what it has written: it runs, and its tests pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_process import LIMIT, environment, fnship

from fnship import __version__

WHEEL = f"wheels/fnship-{__version__}-py3-none-any.whl"
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
    WHEEL,
}


def tree(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}


@pytest.mark.parametrize("style", ["async", "sync", "flask"])
@pytest.mark.parametrize("single", [False, True])
def test_its_tests_pass_with_plain_pytest(tmp_path: Path, style: str, single: bool) -> None:
    options = ["--style", style, *(["--single-requirements"] if single else [])]
    made = fnship("new", "hello", *options, cwd=tmp_path)
    assert made.status == 0, made.stderr
    folder = tmp_path / "hello"
    assert tree(folder) == TREE - ({"function/requirements.txt"} if single else set())
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env=environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTEST_ADDOPTS=""),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout
    assert "2 passed" in tested.stdout


@pytest.mark.parametrize("style", ["async", "sync"])
def test_it_runs(tmp_path: Path, style: str) -> None:
    fnship("new", "hello", "--style", style, cwd=tmp_path)
    called = fnship("invoke", "hello", "--data", '{"name": "Ada"}', cwd=tmp_path)
    assert called.status == 0, called.stderr
    assert called.json == {"message": "Hello, Ada!"}


def test_what_it_requires_can_be_installed_from_the_folder(tmp_path: Path) -> None:
    """As the Dockerfile does it; no index is asked for fnship."""
    fnship("new", "hello", cwd=tmp_path)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    site = tmp_path / "site"
    options = ["--no-index", "--no-deps", "--target", str(site), "-r", "requirements.txt"]
    subprocess.run([*pip, *options], cwd=tmp_path / "hello", check=True, timeout=LIMIT)
    asked = [sys.executable, "-c", "import fnship; print(fnship.__file__, fnship.__version__)"]
    shown = subprocess.run(
        asked, env=environment(PYTHONPATH=str(site)), capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == [str(site / "fnship" / "__init__.py"), __version__]


def test_it_says_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    made = fnship("new", "my function", cwd=tmp_path)
    lines = made.stdout.splitlines()
    assert {line.strip() for line in lines} >= TREE
    rest = lines[lines.index("Next:") + 1 :]
    assert rest == [
        "  cd 'my function'",
        "  fnship run --reload",
        """  curl -s http://127.0.0.1:5000/ -d '{"name": "Ada"}'""",
    ]
    assert made.stderr == ""


def test_into_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    made = fnship("new", ".", cwd=tmp_path)
    assert made.status == 0
    assert "  cd " not in made.stdout
    assert tree(tmp_path) == TREE | {"notes.txt"}
    assert (tmp_path / "README.md").read_text().startswith(f"# {tmp_path.name}\n")


def test_what_is_there_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "function").mkdir()
    (tmp_path / "function" / "handler.py").write_text("mine")
    (tmp_path / "main.py").write_text("mine")
    fnship("new", ".", cwd=tmp_path).assert_mistake(
        r"in the way in \.: main\.py, function/handler\.py\. Nothing was written.*--force"
    )
    assert tree(tmp_path) == {"main.py", "function/handler.py"}
    assert (tmp_path / "main.py").read_text() == "mine"


def test_a_link_to_nowhere_is_in_the_way_too(tmp_path: Path) -> None:
    (tmp_path / "main.py").symlink_to(tmp_path / "elsewhere.py")
    fnship("new", ".", cwd=tmp_path).assert_mistake(r"in the way in \.: main\.py\.")
    assert not (tmp_path / "elsewhere.py").exists()


def test_force_overwrites_its_own_files_alone(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    assert fnship("new", ".", "--force", cwd=tmp_path).status == 0
    assert tree(tmp_path) == TREE | {"notes.txt"}
    assert "serve()" in (tmp_path / "main.py").read_text()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_file_where_a_folder_must_be(tmp_path: Path, force: list[str]) -> None:
    (tmp_path / "hello").write_text("mine")
    fnship("new", "hello", *force, cwd=tmp_path).assert_mistake("hello is a file, where a folder")
    (tmp_path / "function").write_text("mine")
    fnship("new", ".", *force, cwd=tmp_path).assert_mistake("function is a file, where a folder")
    assert tree(tmp_path) == {"hello", "function"}


def test_a_folder_where_a_file_must_be(tmp_path: Path) -> None:
    (tmp_path / "main.py").mkdir()
    fnship("new", ".", "--force", cwd=tmp_path).assert_mistake(
        "main.py is a folder, where a file is needed"
    )
    assert tree(tmp_path) == set()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    fnship("new", "x" * 300, cwd=tmp_path).assert_mistake("cannot write .*: File name too long")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'DIR'. Its help says more: fnship new --help"),
        (["hello", "--style", "basic"], "'basic' is not one of 'async', 'sync', 'flask'"),
        (["hello", "--watchdog", "dog"], "'dog' is not one of 'of-watchdog', 'native'"),
        (
            ["hello", "--style", "flask", "--watchdog", "native"],
            "the flask server cannot be its own watchdog",
        ),
        (["hello", "--frob"], "No such option '--frob'"),
        (["hello", "world"], "unexpected extra argument"),
    ],
)
def test_mistakes_in_the_command(tmp_path: Path, arguments: list[str], said: str) -> None:
    fnship("new", *arguments, cwd=tmp_path).assert_mistake(said)
    assert tree(tmp_path) == set()
