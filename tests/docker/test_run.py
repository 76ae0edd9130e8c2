"""Containers that run: stopped under load, short of memory, robbed of a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_process import command
from docker_engine import BASES, Answer, Container, Docker, call, until
from load import steady_load

Functions = Callable[..., Path]
Images = Callable[..., str]

SLOW = """
import asyncio
import os


async def handle(logger, request):
    await asyncio.sleep(request.get("seconds", 0))
    return {"pid": os.getpid()}
"""
WORKERS = """
import os
for name in os.listdir("/proc"):
    if name.isdigit():
        try:
            stat = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()
        except OSError:
            continue
        if stat[1] == "1" and name != str(os.getpid()):
            print(name)
"""


@pytest.fixture(scope="module")
def slow(docker: Docker, standin: list[str], tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Images of a function that takes as long as it is told to."""
    images: dict[str, str] = {}

    def build(watchdog: str) -> str:
        if watchdog not in images:
            folder = tmp_path_factory.mktemp("slow")
            docker.fnship("new", "slow", "--watchdog", watchdog, cwd=folder)
            (folder / "slow" / "function" / "handler.py").write_text(SLOW)
            images[watchdog] = docker.name("slow")
            arguments = standin if watchdog != "native" else []
            docker.build(folder / "slow", images[watchdog], *arguments)
        return images[watchdog]

    return build


def workers(container: Container) -> set[int]:
    return {int(each) for each in container.exec(WORKERS).split()}


@pytest.mark.parametrize(
    ("watchdog", "options"),
    [("native", ()), ("of-watchdog", ("--env", "healthcheck_interval=2"))],
)
def test_stopped_under_load_it_loses_nothing(
    docker: Docker, slow: Images, watchdog: str, options: tuple[str, ...]
) -> None:
    with docker.run(slow(watchdog), *options) as container:
        container.wait_ready()
        with steady_load(container.host, container.port, {"seconds": 0.4}) as load:
            until("some answers", lambda: load.answers[200] >= 20)
            docker("stop", "-t", "30", container.name)
        assert load.lost == []
        assert set(load.answers) == {200}, container.log
        assert (container.state["ExitCode"], container.state["OOMKilled"]) == (0, False)


def test_an_idle_container_stops_with_status_0(docker: Docker, hello: Images) -> None:
    with docker.run(hello("native")) as container:
        container.wait_ready()
        docker("stop", container.name)  # with the engine's own 10 seconds
        assert container.state["ExitCode"] == 0


def test_a_worker_that_is_killed_is_replaced(docker: Docker, slow: Images) -> None:
    options = ("--env", "GUNICORN_WORKERS=2", "--cap-drop", "ALL", "--read-only", "--tmpfs", "/tmp")
    with docker.run(slow("native"), *options) as container:
        container.wait_ready()
        before = until("two workers", lambda: len(now := workers(container)) == 2 and now)
        pid = container.call({}).json["pid"]
        container.exec(f"import os; os.kill({pid}, 9)")
        now = until(
            "a new worker",
            lambda: len(now := workers(container)) == 2 and pid not in now and now,
        )
        assert len(before & now) == 1
        answers = [container.call({}) for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
        assert {answer.json["pid"] for answer in answers} <= now
        assert container.state["Running"]


def test_what_a_killed_worker_held_is_lost_and_nothing_hangs(docker: Docker, slow: Images) -> None:
    with docker.run(slow("native"), "--env", "GUNICORN_WORKERS=2") as container:
        container.wait_ready()
        until("two workers", lambda: len(workers(container)) == 2)
        with steady_load(container.host, container.port, {"seconds": 0.4}) as load:
            until("some answers", lambda: load.answers[200] >= 10)
            pid = container.call({}).json["pid"]
            container.exec(f"import os; os.kill({pid}, 9)")
            served = load.answers[200]
            until("more answers", lambda: load.answers[200] >= served + 30)
        assert set(load.answers) == {200}
        assert load.refused == 0
        # It held what came in 0.4 s, of which the other worker had its share.
        assert len(load.lost) <= 15, load.lost


@pytest.mark.parametrize("watchdog", ["native", "of-watchdog"])
def test_96_mebibytes_are_enough_for_one_worker(
    docker: Docker, hello: Images, watchdog: str
) -> None:
    options = ("--memory", "96m", "--env", "GUNICORN_WORKERS=1")
    with docker.run(hello(watchdog), *options) as container:
        container.wait_ready()
        for _ in range(200):
            assert container.call({"name": "x" * 10_000}).status == 200
        assert container.state["Running"]
        assert not container.state["OOMKilled"]


def test_24_mebibytes_are_not_enough_and_that_is_said(
    docker: Docker, hello: Images, tmp_path: Path
) -> None:
    ended = docker.fnship(
        *("run", "--image", hello("native"), "--memory", "24m", "--port", 0),
        cwd=tmp_path,
        check=False,
    )
    assert ended.status == 1
    assert ended.stderr.splitlines()[-1] == (
        f"fnship: error: {hello('native')} was killed, as it needed more than 24m of memory: "
        "allow it more with --memory, or run fewer workers with --env GUNICORN_WORKERS=1"
    )


START = """def start(config):
    raise RuntimeError("no licence")


def handle(logger, request):
    return {}
"""
BROKEN = {
    "import": ("import nonesuch_zzz\n", "handler.py:1"),
    "start": (START, "handler.py:2"),
}


@pytest.mark.parametrize("count", ["1", "2"])
@pytest.mark.parametrize("what", BROKEN)
def test_what_never_starts_ends_with_its_error(
    docker: Docker, new: Functions, what: str, count: str
) -> None:
    handler, place = BROKEN[what]
    image = docker.name("broken")
    docker.build(new("--watchdog", "native", handler=handler), image)
    with docker.run(image, "--env", f"GUNICORN_WORKERS={count}") as container:
        assert container.wait_ended()["ExitCode"] != 0
        errors = [line for line in container.log.splitlines() if line.startswith("fnship: error: ")]
        assert errors
        assert place in errors[0]


ASYNC = """
import httpx


async def handle(logger, request):
    logger.info("asking %s", request["url"])
    async with httpx.AsyncClient() as client:
        answer = await client.get(request["url"])
    return {"from": answer.json()["name"]}
"""
SYNC = """
import requests


def handle(logger, request):
    logger.info("asking %s", request["url"])
    answer = requests.get(request["url"], timeout=10)
    return {"from": answer.json()["name"]}
"""
SERVICE = """
import http.server, json


class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"name": "the service"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("", 80), Service).serve_forever()
"""


@pytest.mark.parametrize("watchdog", ["native", "of-watchdog"])
@pytest.mark.parametrize(
    ("style", "handler", "package"), [("async", ASYNC, "httpx"), ("sync", SYNC, "requests")]
)
def test_a_function_that_calls_a_service_on_its_network(
    docker: Docker,
    new: Functions,
    standin: list[str],
    style: str,
    handler: str,
    package: str,
    watchdog: str,
) -> None:
    folder = new("--style", style, "--watchdog", watchdog, handler=handler)
    (folder / "function" / "requirements.txt").write_text(f"{package}\n")
    image = docker.name(style)
    docker.build(folder, image, *(standin if watchdog != "native" else []))
    network = docker.name("network")
    docker("network", "create", network)
    base = f"python:{BASES['trixie'][0]}"
    on_it = ("--network", network)
    serve = ("python3", "-c", SERVICE)
    with (
        docker.run(base, *on_it, "--network-alias", "service", command=serve),
        docker.run(image, *on_it) as container,
    ):
        container.wait_ready()
        answer = container.call({"url": "http://service/"})
        assert (answer.status, answer.json) == (200, {"from": "the service"})
        assert "msg=asking http://service/" in container.log


# fnship run --image


class Running:
    """`fnship run --image`, from when it is ready."""

    def __init__(self, docker: Docker, arguments: tuple[str, ...], cwd: Path, env: dict[str, str]):
        self._docker = docker
        self.process = subprocess.Popen(
            command("run", "--port", 0, *arguments),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []  # of its stderr
        self._collector = threading.Thread(target=self._collect)
        self._collector.start()

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def said(self, what: str) -> str:
        """Wait for a line with `what` in it."""

        def look() -> str:
            found = next((line for line in list(self.lines) if what in line), "")
            assert found or self.process.poll() is None, self.lines
            return found

        return str(until(f"the line with {what!r}", look))

    @property
    def port(self) -> int:
        return int(self.said(" is ready on ").rpartition(":")[2])

    def call(self, payload: object) -> Answer:
        return call("127.0.0.1", self.port, "/", payload)

    def containers(self) -> list[str]:
        listed = self._docker("ps", "--all", "--quiet", "--filter", f"publish={self.port}")
        return listed.stdout.split()

    def wait_in_flight(self) -> None:
        """Wait until a call is being answered."""
        (name,) = self.containers()
        host = Container(self._docker, name, 8081).host

        def busy() -> bool:
            lines = call(host, 8081, "/metrics").body.decode().splitlines()
            found = [line for line in lines if line.startswith("http_requests_in_flight")]
            return any(float(line.split()[-1]) >= 1 for line in found)

        until("the call to be in flight", busy)

    def end(self) -> str:
        """Wait for its end, and give its stdout."""
        assert self.process.stdout is not None
        stdout = self.process.stdout.read()
        self._collector.join()
        self.process.wait()
        return stdout


@contextmanager
def running(docker: Docker, image: str, *options: str, cwd: Path, **env: str) -> Iterator[Running]:
    run = Running(docker, ("--image", image, *options), cwd, docker.environ(**env))
    with run.process:
        try:
            assert run.port
            yield run
        finally:
            if run.process.poll() is None:
                run.process.send_signal(signal.SIGINT)
            run.end()


def test_run_image(docker: Docker, hello: Images, tmp_path: Path) -> None:
    options = ("--env", "FUNCTION_NAME=one", "--env", "LOG_LEVEL", "--cpus", "0.5")
    with running(docker, hello("native"), *options, cwd=tmp_path) as run:
        assert run.call({"name": "Ada"}).json == {"message": "Hello, Ada!"}
        (name,) = run.containers()
        about = docker.inspect(name)
        host = about["HostConfig"]
        assert host["Memory"] == 512 * 2**20
        assert host["NanoCpus"] == 5 * 10**8
        assert host["PidsLimit"] == 512
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert host["Tmpfs"] == {"/tmp": ""}
        assert about["Config"]["StopTimeout"] == 10
        assert "FUNCTION_NAME=one" in about["Config"]["Env"]
        (published,) = about["NetworkSettings"]["Ports"]["8080/tcp"]
        assert published["HostIp"] == "127.0.0.1"
        run.process.send_signal(signal.SIGINT)
        stdout = run.end()
        assert run.process.returncode == 0
        assert "msg=greeting Ada" in stdout
        assert run.said("fnship: stopping, which may take 10 s")
        assert run.containers() == []


def test_a_sigterm_stops_it_too(docker: Docker, slow: Images, tmp_path: Path) -> None:
    with running(docker, slow("native"), cwd=tmp_path) as run:
        answers: list[Answer] = []
        caller = threading.Thread(target=lambda: answers.append(run.call({"seconds": 1.5})))
        caller.start()
        run.wait_in_flight()
        run.process.terminate()
        run.end()
        caller.join()
        assert run.process.returncode == 0
        assert [answer.status for answer in answers] == [200]
        assert run.containers() == []


def test_a_second_ctrl_c_ends_it_at_once(docker: Docker, slow: Images, tmp_path: Path) -> None:
    with running(docker, slow("native"), cwd=tmp_path) as run:
        caller = threading.Thread(target=_ignore, args=(run.port, {"seconds": 9}))
        caller.start()
        run.wait_in_flight()
        run.process.send_signal(signal.SIGINT)
        assert run.said("fnship: stopping")
        run.process.send_signal(signal.SIGINT)
        run.end()
        caller.join()
        assert run.process.returncode == 1
        assert "did not finish in time, and was killed" in run.lines[-1]
        assert run.containers() == []


def _ignore(port: int, payload: object) -> None:
    try:
        call("127.0.0.1", port, "/", payload)
    except Exception:
        return


def test_what_cannot_be_run(docker: Docker, hello: Images, tmp_path: Path) -> None:
    image = hello("native")
    with docker.run(image, "--publish", "127.0.0.1::8080") as other:
        port = docker("port", other.name, "8080").stdout.strip().rpartition(":")[2]
        for arguments, said in (
            (("--port", port), f"{image} cannot be run: port {port} is in use"),
            (("--cpus", "9999"), "Range of CPUs is from"),
            (("--memory", "lots"), "--memory 'lots' is no size"),
            (("--cpus", "many"), "--cpus 'many' is no number"),
            (("--env", "=1"), "--env '' is no variable"),
            (("--env", "PORT=http"), "'http' is no port that the container can listen on"),
        ):
            ended = docker.fnship("run", "--image", image, *arguments, cwd=tmp_path, check=False)
            assert ended.status == 2, ended.said
            (line,) = ended.stderr.splitlines()
            assert said in line
            assert ended.stdout == ""
    ended = docker.fnship("run", "--image", "fnship-nonesuch", cwd=tmp_path, check=False)
    assert ended.status == 2
    assert "docker has no image fnship-nonesuch here. Build it with" in ended.stderr


def test_a_container_that_ends_by_itself(docker: Docker, new: Functions, tmp_path: Path) -> None:
    folder = new("--watchdog", "native")
    image = docker.name("ends")
    (folder / "main.py").write_text("import sys\nprint('only this')\nsys.exit(int(sys.argv[-1]))\n")
    path = folder / "Dockerfile"
    text = path.read_text()
    for status, said, ours in (
        ("0", "ended by itself", 0),
        ("7", "ended with status 7; its log", 1),
    ):
        path.write_text(text.replace('"main.py"]', f'"main.py", "{status}"]'))
        docker.build(folder, image)
        ended = docker.fnship("run", "--image", image, "--port", 0, cwd=tmp_path, check=False)
        assert ended.status == ours
        assert ended.stdout == "only this\n"
        assert said in ended.stderr.splitlines()[-1]


def test_with_podman(
    docker: Docker, others: dict[str, str], new: Functions, tmp_path: Path
) -> None:
    folder = new("--watchdog", "native")
    image = docker.name("podman")
    docker.fnship("build", folder, "-t", image, "--builder", "podman", cwd=tmp_path, **others)
    with running(docker, image, "--engine", "podman", cwd=tmp_path, **others) as run:
        assert run.call({"name": "Ada"}).json == {"message": "Hello, Ada!"}
        run.process.send_signal(signal.SIGINT)
        stdout = run.end()
        assert run.process.returncode == 0, run.lines
        assert "msg=greeting Ada" in stdout
    environ = {**os.environ, **others}
    listed = subprocess.run(
        ["podman", "ps", "--all", "--format", "json"], env=environ, capture_output=True, check=True
    )
    assert json.loads(listed.stdout) == []
