"""The guide, word for word: what `fnship new` writes, built with `docker build` and run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from docker_engine import BASES, Docker, image_environment

GUIDE_ENV = {
    "fprocess": "python main.py",
    "cgi_headers": "true",
    "mode": "http",
    "upstream_url": "http://127.0.0.1:5000",
    "ready_path": "/_/ready",
    "exec_timeout": "0",
    "read_timeout": "3600",
    "write_timeout": "3600",
    "healthcheck_interval": "30",
    "GUNICORN_WORKERS": "4",
    "GUNICORN_THREADS": "2",
}
HARDENED = ("--user", "12345:0", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp")
WATCHDOGS = ("of-watchdog", "native")


@pytest.mark.parametrize("buildkit", [True, False], ids=["buildkit", "classic"])
@pytest.mark.parametrize("watchdog", WATCHDOGS)
def test_a_plain_docker_build(
    docker: Docker,
    standin: list[str],
    new: Callable[..., Path],
    watchdog: str,
    buildkit: bool,
) -> None:
    folder = new("--watchdog", watchdog)
    image = docker.name("guide")
    docker.build(folder, image, *(standin if watchdog != "native" else []), buildkit=buildkit)
    with docker.run(image) as container:
        answer = container.wait_ready().call({"name": "Ada"})
        assert (answer.status, answer.json) == (200, {"message": "Hello, Ada!"})


@pytest.mark.parametrize("options", [(), HARDENED], ids=["as_built", "hardened"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("watchdog", WATCHDOGS)
def test_it_runs(
    docker: Docker, hello: Callable[..., str], watchdog: str, base: str, options: tuple[str, ...]
) -> None:
    with docker.run(hello(watchdog, base), *options) as container:
        container.wait_ready()
        assert container.call({"name": "Ada"}).json == {"message": "Hello, Ada!"}
        assert container.call(path="/_/health").status == 200
        who = container.exec("import os, sys; print(os.getuid(), *sys.version_info[:2])").split()
        assert who == ["12345" if options else "1000", *BASES[base][1].split(".")]
        assert "Traceback" not in container.log
        assert "rror" not in container.log


@pytest.mark.parametrize("watchdog", WATCHDOGS)
def test_its_health_turns_healthy(docker: Docker, hello: Callable[..., str], watchdog: str) -> None:
    from docker_engine import until

    with docker.run(hello(watchdog)) as container:
        health = docker.inspect(container.name)["Config"]["Healthcheck"]
        assert health == {
            "Test": ["CMD-SHELL", "[ -e /tmp/.lock ] || exit 1"],
            "Interval": 5 * 10**9,
        }
        until("its health", lambda: container.state["Health"]["Status"] == "healthy")


def test_the_variables_of_the_guide(docker: Docker, hello: Callable[..., str]) -> None:
    env = image_environment(docker, hello("of-watchdog"))
    assert env.items() >= GUIDE_ENV.items()
    assert "WATCHDOG" not in env


def test_the_variables_of_the_native_image(docker: Docker, hello: Callable[..., str]) -> None:
    env = image_environment(docker, hello("native"))
    assert env["WATCHDOG"] == "native"
    assert not env.keys() & GUIDE_ENV.keys()


HANDLER = """
import shutil

import humanize
import tabulate

from .shapes import areas
from .shapes.areas import square


def handle(logger, request):
    return {
        "root": tabulate.tabulate([[1, 2]], tablefmt="plain"),
        "function": humanize.intcomma(1234567),
        "debian": shutil.which("tree"),
        "own": [square(3), areas.__name__],
    }
"""


@pytest.mark.parametrize("single", [False, True], ids=["two_files", "one_file"])
def test_requirements_debian_packages_and_own_modules(
    docker: Docker, new: Callable[..., Path], single: bool
) -> None:
    options = ["--single-requirements"] if single else []
    folder = new("--watchdog", "native", *options, handler=HANDLER)
    second = "requirements.txt" if single else "function/requirements.txt"
    with (folder / "requirements.txt").open("a") as file:
        file.write("tabulate==0.9.0\n")
    with (folder / second).open("a") as file:
        file.write("humanize==4.12.3\n")
    (folder / "function" / "shapes").mkdir()
    (folder / "function" / "shapes" / "__init__.py").touch()
    (folder / "function" / "shapes" / "areas.py").write_text("def square(side): return side**2\n")
    image = docker.name("requirements")
    docker.build(folder, image, "--build-arg", "ADDITIONAL_PACKAGE=tree")
    with docker.run(image, *HARDENED) as container:
        answer = container.wait_ready().call({})
        assert answer.json == {
            "root": "1  2",
            "function": "1,234,567",
            "debian": "/usr/bin/tree",
            "own": [9, "function.shapes.areas"],
        }


def test_the_function_may_take_another_version_than_the_server(
    docker: Docker, new: Callable[..., Path]
) -> None:
    """As in the guide, where the function's packages come before the server's."""
    handler = "import idna\n\ndef handle(logger, request):\n    return {'v': idna.__version__}\n"
    folder = new("--watchdog", "native", handler=handler)
    with (folder / "requirements.txt").open("a") as file:
        file.write("idna==3.10\n")
    with (folder / "function" / "requirements.txt").open("a") as file:
        file.write("idna==3.7\n")
    image = docker.name("versions")
    docker.build(folder, image)
    with docker.run(image) as container:
        assert container.wait_ready().call({}).json == {"v": "3.7"}


def test_tests_in_the_build(docker: Docker, new: Callable[..., Path]) -> None:
    folder = new("--watchdog", "native")
    built = docker.build(folder, docker.name("tested"), "--build-arg", "TEST_ENABLED=true")
    assert "2 passed" in built.said
    command = "TEST_COMMAND=python -c 'print(6 * 7)' && echo done"
    built = docker.build(
        folder, docker.name("tested"), "--build-arg", "TEST_ENABLED=true", "--build-arg", command
    )
    assert "42" in built.said
    assert "passed" not in built.said


def test_the_flask_era_style(docker: Docker, new: Callable[..., Path], standin: list[str]) -> None:
    image = docker.name("flask")
    docker.build(new("--style", "flask"), image, *standin)
    with docker.run(image, *HARDENED) as container:
        answer = container.wait_ready().call({"name": "Ada"})
        assert (answer.status, answer.json) == (200, {"message": "Hello, Ada!"})
        assert "flask" in container.exec("import flask; print(flask.__name__)")


def test_a_handler_that_is_mounted_over_the_images(
    docker: Docker, hello: Callable[..., str], tmp_path: Path
) -> None:
    """Its bytecode in the image is not taken for it, though the file may be as old as that."""
    handler = tmp_path / "handler.py"
    handler.write_text("def handle(logger, request):\n    return {'mounted': True}\n")
    handler.chmod(0o644)
    mount = f"{handler}:/home/app/function/handler.py:ro"
    with docker.run(hello("native"), "--volume", mount) as container:
        assert container.wait_ready().call({}).json == {"mounted": True}
