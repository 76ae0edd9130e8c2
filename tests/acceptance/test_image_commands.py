"""`fnship dockerfile` and `fnship build` as far as they go without a container engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_process import fnship

from fnship import __version__

WHEEL = f"wheels/fnship-{__version__}-py3-none-any.whl"
NOBODY = {"PATH": "/nonexistent"}  # no engine is found there


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    made = fnship("new", "hello", cwd=tmp_path)
    assert made.status == 0, made.stderr
    return tmp_path / "hello"


def test_the_dockerfile_again_is_the_same(hello: Path) -> None:
    before = (hello / "Dockerfile").read_text()
    done = fnship("dockerfile", cwd=hello)
    assert (done.status, done.stdout, done.stderr) == (0, "Wrote Dockerfile\n", "")
    assert (hello / "Dockerfile").read_text() == before
    shown = fnship("dockerfile", "hello", "--stdout", cwd=hello.parent)
    assert (shown.stdout, shown.stderr) == (before, "")


def test_it_keeps_what_was_chosen_before(hello: Path) -> None:
    fnship("dockerfile", "--watchdog", "native", "--python-image", "python:3.12-slim", cwd=hello)
    native = (hello / "Dockerfile").read_text()
    assert 'ENV WATCHDOG="native"' in native
    assert "ARG PYTHON_IMAGE_TAG=3.12-slim\n" in native
    fnship("dockerfile", "--secret", cwd=hello)
    text = (hello / "Dockerfile").read_text()
    assert "--mount=type=secret,id=pip" in text
    assert 'ENV WATCHDOG="native"' in text
    fnship("dockerfile", "--no-secret", cwd=hello)
    assert (hello / "Dockerfile").read_text() == native
    fnship("dockerfile", "--watchdog", "of-watchdog", "--watchdog-image", "mine:1", cwd=hello)
    text = (hello / "Dockerfile").read_text()
    assert "ARG WATCHDOG_IMAGE_REPO=mine\n" in text
    assert "ARG PYTHON_IMAGE_TAG=3.12-slim\n" in text


def test_one_that_was_edited_is_kept(hello: Path) -> None:
    path = hello / "Dockerfile"
    path.write_text(path.read_text().replace("EXPOSE 8080", "EXPOSE 8080 8081"))
    edited = path.read_text()
    fnship("dockerfile", cwd=hello).assert_mistake("Dockerfile is edited, and is kept.*--force")
    assert path.read_text() == edited
    shown = fnship("dockerfile", "--stdout", cwd=hello)
    assert "EXPOSE 8080\n" in shown.stdout
    assert path.read_text() == edited
    assert fnship("dockerfile", "--force", cwd=hello).status == 0
    assert "EXPOSE 8080\n" in path.read_text()


def test_it_follows_the_folder(hello: Path) -> None:
    (hello / "function" / "requirements.txt").unlink()
    (hello / ".dockerignore").unlink()
    (hello / WHEEL).unlink()
    (hello / "wheels").rmdir()
    done = fnship("dockerfile", cwd=hello)
    assert done.stdout == f"Wrote Dockerfile\nWrote .dockerignore\nWrote {WHEEL}\n"
    assert "/opt/server" not in (hello / "Dockerfile").read_text()
    assert "COPY wheels/" in (hello / "Dockerfile").read_text()


def test_a_folder_that_takes_fnship_from_an_index(hello: Path) -> None:
    (hello / "requirements.txt").write_text("# serves\nfnship>=0.1\n")
    done = fnship("dockerfile", cwd=hello)
    assert done.status == 0
    assert "note: requirements.txt:2: fnship would be taken from a package index" in done.stderr
    fnship("build", cwd=hello, env=NOBODY).assert_mistake(
        r"requirements\.txt:2: fnship would be taken from a package index.*wheels/fnship-"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--python-image", "python"], "'python' does not say which version"),
        (["--watchdog", "dog"], "'dog' is not one of"),
        (["--pin"], "no container engine works here: docker is not installed"),
    ],
)
def test_mistakes_with_dockerfiles(hello: Path, arguments: list[str], said: str) -> None:
    before = (hello / "Dockerfile").read_text()
    fnship("dockerfile", *arguments, cwd=hello, env=NOBODY).assert_mistake(said)
    assert (hello / "Dockerfile").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no container engine works here: docker is not installed; podman is not installed; b"),
        (["--builder", "podman"], "works here: podman is not installed. Start"),
        (["-t", "Hello:1"], "--tag 'Hello:1' is no name for an image: it must be in lower case"),
        (["-t", ""], "--tag '' is no name|no container engine"),
        (["--build-arg", "1=2"], "--build-arg '1' is no name: write it as NAME=VALUE"),
        (["--build-arg", "=x"], "--build-arg '' is no name"),
        (["--secret", "pip.conf"], "--secret 'pip.conf' is incomplete: write it as id=pip,src=FI"),
        (["--secret", "id=pip,src=nowhere"], "there is no file nowhere"),
        (["--builder", "kaniko"], "'kaniko' is not one of 'docker', 'podman', 'buildah'"),
        (["nowhere"], "nowhere does not exist. Write a new function with: fnship new DIR"),
        (["function"], r"there is no function in .*, so it is no function's folder"),
        (["main.py"], "main.py is a file, not a folder"),
    ],
)
def test_mistakes_with_builds(hello: Path, arguments: list[str], said: str) -> None:
    fnship("build", *arguments, cwd=hello, env=NOBODY).assert_mistake(said)


def test_a_secret_in_the_folder(hello: Path) -> None:
    (hello / ".env").write_text("TOKEN=x\n")  # left out by what `fnship new` wrote
    fnship("build", cwd=hello, env=NOBODY).assert_mistake("no container engine works here")
    (hello / ".dockerignore").write_text("tests\n")
    fnship("build", cwd=hello, env=NOBODY).assert_mistake(
        r"\.env would be copied into the image.*\*\*/\.env in \.dockerignore.*--env-file"
    )


def test_a_wheel_that_is_missing(hello: Path) -> None:
    (hello / WHEEL).unlink()
    fnship("build", cwd=hello, env=NOBODY).assert_mistake(
        rf"requirements\.txt:2: \./{WHEEL} is not there: write it with `fnship dockerfile`"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image", "x"], "works here: docker is not installed; podman is not installed. Start"),
        (["--image", "x", "--reload"], "--reload is for a folder, not for --image"),
        (["--image", "x", "--host", "::"], "--host is for a folder, not for --image"),
        ([".", "--image", "x"], "DIR is for a folder, not for --image"),
        (["--memory", "1g"], "--memory is for --image alone"),
        (["--env", "A=1"], "--env is for --image alone"),
        (["--image", "x", "--engine", "buildah"], "'buildah' is not one of 'docker', 'podman'"),
    ],
)
def test_mistakes_with_running_an_image(hello: Path, arguments: list[str], said: str) -> None:
    fnship("run", *arguments, cwd=hello, env=NOBODY).assert_mistake(said)


def test_a_folder_that_cannot_be_written(hello: Path) -> None:
    (hello / WHEEL).unlink()
    (hello / "wheels").rmdir()
    (hello / "wheels").write_text("in the way")
    done = fnship("dockerfile", cwd=hello)
    assert done.status == 2
    assert done.stderr == "fnship: error: cannot write wheels: File exists\n"
