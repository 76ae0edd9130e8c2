"""These tests need a container engine: without one they are skipped, or fail in CI."""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from docker_engine import BASES, STANDIN_SOURCE, Docker, bind_program, why_no_docker
from services import container_store, index_with_password, registry_process

FOLDER = Path(__file__).parent
Functions = Callable[..., Path]
Images = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each of these tests time enough for an image to be built."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.timeout(600))


def missing(what: str) -> NoReturn:
    """Skip by name; or fail, where nothing may be skipped."""
    if os.environ.get("FNSHIP_REQUIRE_ALL") == "1":
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """The engine. Where there is none: a skip, or a failure with FNSHIP_REQUIRE_ALL=1."""
    why = why_no_docker()
    if why is not None:
        missing(f"a container engine: {why}")
    docker = Docker(tmp_path_factory.mktemp("client"), f"fnship-test-{secrets.token_hex(4)}")
    yield docker
    docker.clean()


@pytest.fixture(scope="session")
def standin(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build arguments that put our stand-in in the place of of-watchdog's image.

    That image cannot be had on machines without a registry. The stand-in is a program of ours
    that behaves like it; it is not the real one.
    """
    folder = tmp_path_factory.mktemp("standin")
    bind_program(folder, "fwatchdog", f"#!/usr/bin/env python3\n{STANDIN_SOURCE.read_text()}")
    tag, _ = BASES["trixie"]
    (folder / "Dockerfile").write_text(f"FROM python:{tag}\nCOPY fwatchdog /fwatchdog\n")
    repository = f"{docker.prefix}-standin-watchdog"
    docker.build(folder, f"{repository}:1")
    return [
        *("--build-arg", f"WATCHDOG_IMAGE_REPO={repository}"),
        *("--build-arg", "WATCHDOG_IMAGE_TAG=1"),
    ]


@pytest.fixture
def new(docker: Docker, tmp_path: Path) -> Functions:
    """Writes a function with `fnship new`."""

    def write(*options: str, name: str = "hello", handler: str = "") -> Path:
        docker.fnship("new", name, *options, cwd=tmp_path)
        if handler:
            (tmp_path / name / "function" / "handler.py").write_text(handler)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def hello(docker: Docker, standin: list[str], tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Images of what `fnship new` writes, each built once and shared by the tests."""
    images: dict[tuple[str, str], str] = {}

    def build(watchdog: str = "native", base: str = "trixie") -> str:
        if (watchdog, base) not in images:
            folder = tmp_path_factory.mktemp("hello")
            docker.fnship("new", "hello", "--watchdog", watchdog, cwd=folder)
            image = f"{docker.prefix}-hello-{watchdog}-{base}:1"
            arguments = standin if watchdog != "native" else []
            tag = f"PYTHON_IMAGE_TAG={BASES[base][0]}"
            docker.build(folder / "hello", image, *arguments, "--build-arg", tag)
            images[watchdog, base] = image
        return images[watchdog, base]

    return build


@pytest.fixture
def private_index(docker: Docker) -> Iterator[tuple[str, list[str]]]:
    """A package index with a password, reachable from a build; and what it was asked for."""
    from test_image import CANARY

    (network,) = docker.inspect("bridge")["IPAM"]["Config"]
    gateway = str(ipaddress.ip_network(network["Subnet"])[1])
    with index_with_password(gateway, CANARY) as index:
        yield index


@pytest.fixture(scope="session")
def registry(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry on the loopback address."""
    if shutil.which("docker-registry") is None:
        missing("the program docker-registry (Debian's package of that name)")
    with registry_process(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="session")
def others(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment for podman and buildah: a store of their own, with the base image in it."""
    for program in ("podman", "buildah"):
        if shutil.which(program) is None:
            missing(f"the program {program} (Debian's package of that name)")
    folder = tmp_path_factory.mktemp("containers")
    with container_store(folder, docker, f"python:{BASES['trixie'][0]}") as environ:
        yield environ
