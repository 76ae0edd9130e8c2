"""Functions that the engine runs as images: their calls, their logs and state, and their ends."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from docker_engine import BASES, Docker, bind_program, until
from engine_command import EngineCommand, engine_command

Images = Callable[..., str]

HANDLER = """
import asyncio
import os

from fnship import StateClientBuilder

eaten = []


async def handle(logger, request):
    logger.info("called with %s", request.get("text"))
    if request.get("eat"):
        eaten.append(bytearray(512 * 2**20))
    await asyncio.sleep(request.get("seconds", 0))
    client = StateClientBuilder(request).with_env_scope()
    await client.set_async("calls", lambda old: (old or 0) + 1)
    if (await client.get_async("calls"))[0] == request.get("die_at"):
        os._exit(1)
    return {"calls": (await client.get_async("calls"))[0], "uid": os.getuid()}
"""


@pytest.fixture(scope="module")
def folder(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("counting")
    docker.fnship("new", "counting", "--watchdog", "native", cwd=parent)
    (parent / "counting" / "function" / "handler.py").write_text(HANDLER)
    return parent / "counting"


@pytest.fixture(scope="module")
def image(docker: Docker, folder: Path) -> str:
    image = docker.name("counting") + ":1"
    docker.build(folder, image)
    return image


@contextmanager
def an_engine(data: Path, docker: Docker, *arguments: object) -> Iterator[EngineCommand]:
    with engine_command(data, *arguments, env=docker.environ()) as engine:
        yield engine


@pytest.fixture
def engine(docker: Docker, tmp_path: Path) -> Iterator[EngineCommand]:
    with an_engine(tmp_path / "data", docker) as engine:
        yield engine


def put(engine: EngineCommand, image: str, **more: Any) -> None:
    more.setdefault("retry", {"max_attempts": 3, "first_delay": 0.1})
    answer = engine.call("PUT", "/v1/functions/counting", {"image": image, **more})
    assert answer.status in (200, 201), answer.body


def invoke(engine: EngineCommand, payload: Mapping[str, Any], wait: int = 60) -> dict[str, Any]:
    answer = engine.call(
        "POST", "/v1/functions/counting/invocations", payload, {"Prefer": f"wait={wait}"}
    )
    assert answer.status in (200, 202), answer.body
    return dict(answer.json)


def in_flight(engine: EngineCommand) -> str:
    """Begin a call that takes a second. Gives the path of its activity."""
    accepted = engine.call("POST", "/v1/functions/counting/invocations", {"seconds": 1}).json
    path = f"/v1/activities/{accepted['id']}"
    until("the attempt", lambda: engine.call("GET", path).json["status"] == "running")
    return path


def containers(docker: Docker, data: Path) -> list[str]:
    return docker(
        "ps", "--all", "--quiet", "--filter", f"label=fnship.engine={data}"
    ).stdout.split()


def the_container(docker: Docker, engine: EngineCommand) -> str:
    (found,) = until("a container", lambda: containers(docker, engine.data))
    return str(found)


def test_an_image_is_called_and_reaches_its_logs_and_state(
    docker: Docker, image: str, engine: EngineCommand
) -> None:
    put(engine, image, memory="200m", cpus="1.5")
    shown = engine.call("GET", "/v1/functions/counting").json
    assert (shown["image"], shown["memory"], shown["cpus"]) == (image, "200m", "1.5")
    assert containers(docker, engine.data) == []  # it is started when it is first called
    assert invoke(engine, {"text": "one"})["result"] == {"calls": 1, "uid": 1000}
    second = invoke(engine, {"text": "two"})
    assert second["result"]["calls"] == 2
    log = engine.call("GET", f"/v1/activities/{second['id']}/logs").body.decode()
    assert re.fullmatch(r"time=\S+ level=INFO path=\S+ line=\d+ msg=called with two\n", log)
    host = docker.inspect(the_container(docker, engine))["HostConfig"]
    assert (host["Memory"], host["NanoCpus"]) == (200 * 2**20, 1_500_000_000)
    assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m"}}


def test_what_containers_reach_is_for_functions_alone(
    docker: Docker, image: str, engine: EngineCommand
) -> None:
    put(engine, image)
    invoke(engine, {})
    (network,) = docker.inspect("bridge")["IPAM"]["Config"]
    port = engine.url.rpartition(":")[2]
    gateway = network.get("Gateway") or re.sub(r"\.0/.*", ".1", network["Subnet"])
    asking = (
        "import urllib.request, urllib.error\n"
        "for path in ('/v1/functions', '/healthz', '/functions/state'):\n"
        f"    request = urllib.request.Request('http://{gateway}:{port}' + path)\n"
        f"    request.add_header('Authorization', 'Bearer {engine.token}')\n"
        "    try:\n"
        "        print(urllib.request.urlopen(request).status)\n"
        "    except urllib.error.HTTPError as exc:\n"
        "        print(exc.code)\n"
    )
    container = the_container(docker, engine)
    assert docker("exec", container, "python", "-c", asking).stdout.split() == ["404", "404", "401"]
    # And no function may be there.
    answer = engine.call("PUT", "/v1/functions/own", {"url": f"http://{gateway}:{port}"})
    answer.assert_problem(400, "is this engine itself")


def test_a_container_that_is_killed_is_started_again(
    docker: Docker, image: str, engine: EngineCommand
) -> None:
    put(engine, image, retry={"max_attempts": 2, "first_delay": 0.001})
    invoke(engine, {})
    first = the_container(docker, engine)
    done: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: done.append(invoke(engine, {"seconds": 1})))
    waiting.start()
    until("the call", lambda: engine.call("GET", "/v1/activities?status=running").json["items"])
    docker("kill", first)
    waiting.join(60)
    assert (done[0]["status"], done[0]["attempts"]) == ("succeeded", 2)
    assert the_container(docker, engine) != first


def test_a_worker_that_dies_leaves_the_container_to_the_others(
    docker: Docker, image: str, engine: EngineCommand
) -> None:
    put(engine, image, retry={"max_attempts": 2, "first_delay": 0.001})
    invoke(engine, {})
    first = the_container(docker, engine)
    ended = invoke(engine, {"die_at": 2})
    assert (ended["status"], ended["attempts"], ended["result"]["calls"]) == ("succeeded", 2, 3)
    assert the_container(docker, engine) == first


def test_one_that_needs_more_memory_than_it_may_have(image: str, engine: EngineCommand) -> None:
    put(engine, image, memory="128m", retry={"max_attempts": 2, "first_delay": 0.1})
    ended = invoke(engine, {"eat": True})
    assert (ended["status"], ended["attempts"], ended["error"]["error_code"]) == ("failed", 2, 3)
    assert invoke(engine, {})["status"] == "succeeded"


def test_containers_end_with_the_engine(docker: Docker, image: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with an_engine(data, docker) as engine:
        put(engine, image)
        invoke(engine, {})
        path = in_flight(engine)
        assert engine.end() == 0, "".join(engine.said)
        assert containers(docker, data) == []
    with an_engine(data, docker) as engine:  # what was in flight was finished before
        ended = engine.call("GET", path).json
        assert (ended["status"], ended["attempts"]) == ("succeeded", 1)


def test_what_a_killed_engine_leaves_is_removed_by_the_next(
    docker: Docker, image: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with an_engine(data, docker) as engine:
        put(engine, image)
        invoke(engine, {})
        path = in_flight(engine)
        left = the_container(docker, engine)
        engine.end(signal.SIGKILL)
    assert containers(docker, data) == [left]
    with an_engine(data, docker) as engine:
        until("the end", lambda: engine.call("GET", path).json["status"] == "succeeded")
        assert the_container(docker, engine) != left


def test_a_function_that_changes_or_goes(docker: Docker, image: str, engine: EngineCommand) -> None:
    put(engine, image)
    invoke(engine, {})
    first = the_container(docker, engine)
    put(engine, image, memory="300m")
    until("its end", lambda: not containers(docker, engine.data))
    invoke(engine, {})
    assert the_container(docker, engine) != first
    assert engine.call("DELETE", "/v1/functions/counting").status == 204
    until("its end", lambda: not containers(docker, engine.data))


def test_an_address_for_functions_of_ones_own(docker: Docker, image: str, tmp_path: Path) -> None:
    (network,) = docker.inspect("bridge")["IPAM"]["Config"]
    gateway = network.get("Gateway") or re.sub(r"\.0/.*", ".1", network["Subnet"])
    with an_engine(tmp_path / "data", docker, "--functions-address", f"{gateway}:0") as engine:
        put(engine, image)
        assert invoke(engine, {})["status"] == "succeeded"


def test_podman(docker: Docker, others: dict[str, str], folder: Path, tmp_path: Path) -> None:
    image = docker.name("podman") + ":1"
    docker.fnship("build", folder, "-t", image, "--builder", "podman", cwd=tmp_path, **others)
    environ = {**docker.environ(), **others}
    with engine_command(tmp_path / "data", "--containers", "podman", env=environ) as engine:
        put(engine, image)
        ended = invoke(engine, {"text": "one"})
        assert ended["result"]["calls"] == 1
        log = engine.call("GET", f"/v1/activities/{ended['id']}/logs").body.decode()
        assert "msg=called with one" in log
    left = subprocess.run(["podman", "ps", "--all", "--quiet"], env=environ, capture_output=True)
    assert (left.returncode, left.stdout) == (0, b"")


def test_an_image_that_ends_at_once(docker: Docker, engine: EngineCommand) -> None:
    image = f"python:{BASES['trixie'][0]}"
    put(engine, image, retry={"max_attempts": 1})
    ended = invoke(engine, {})
    assert ended["status"] == "failed"
    assert re.search(
        f"{image} does not start: it said nothing .status 0.", ended["error"]["message"]
    )
    assert containers(docker, engine.data) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"image": "no-such-image:1"}, "has no image no-such-image:1 here.*pull.*fnship build"),
        ({"image": "--privileged"}, "is no name for an image"),
        ({"image": "Big:1"}, "must be in lower case"),
        ({"image": "a@sha256:12"}, "has no digest"),
        ({"image": "a", "memory": "lots"}, "memory 'lots' is no size"),
        ({"image": "a", "cpus": "0"}, "cpus '0' is no number"),
        ({"image": "a", "url": "http://127.0.0.1:1"}, "one of url, folder and image"),
        ({"folder": "/", "cpus": "1"}, "cpus can be said of an image alone"),
    ],
)
def test_mistakes(engine: EngineCommand, body: dict[str, Any], said: str) -> None:
    engine.call("PUT", "/v1/functions/counting", body).assert_problem(400, said)


def test_without_docker_and_podman(docker: Docker, tmp_path: Path) -> None:
    broken = bind_program(tmp_path, "docker", "#!/bin/sh\necho no daemon >&2\nexit 1\n").parent
    with engine_command(tmp_path / "data", env={"PATH": str(broken)}) as engine:
        answer = engine.call("PUT", "/v1/functions/counting", {"image": "hello:1"})
        answer.assert_problem(
            400, "no container engine works here: docker does not work: no daemon"
        )
