"""Finding a builder and driving it; programs of our own play docker, podman and buildah."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from fnship.errors import UsageError
from fnship.image.container import Build, Builder, find_builder
from fnship.image.running import Limits, container_port, start, stop_grace

NEW = '{"Client": {"Version": "28.2.2"}, "Server": {"Version": "28.2.2"}}'
OLD = '{"Client": {"Version": "20.10.24+dfsg1"}, "Server": {"Version": "20.10.24+dfsg1"}}'
IMAGE = [
    {
        "Id": "sha256:" + "1" * 64,
        "RepoDigests": [
            "python@sha256:" + "2" * 64,
            "localhost/hello@sha256:" + "3" * 64,
            "registry.example.com:5000/python@sha256:" + "4" * 64,
        ],
        "Size": 123,
        "Config": {"Env": ["A=1", "B=x=y", "C"], "Labels": None},
    }
]


class Programs:
    """A folder of programs that is all there is on the PATH, but for a shell's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("cat", "echo", "env", "sleep", "printf"):
            program = shutil.which(name)
            assert program
            (folder / name).symlink_to(program)

    def add(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def docker(self, version: str, rest: str = "exit 1") -> None:
        self.add("docker", f"[ $1 = version ] && echo '{version}' && exit\n{rest}")

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": str(self.folder)}


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path / "bin")


def test_nothing_is_there(programs: Programs) -> None:
    with pytest.raises(UsageError) as caught:
        find_builder(None, programs.environ)
    assert str(caught.value) == (
        "no container engine works here: docker is not installed; podman is not installed; "
        "buildah is not installed. Start one, or install Docker, Podman or Buildah"
    )
    with pytest.raises(UsageError, match=r"works here: podman is not installed\. Start"):
        find_builder("podman", programs.environ)


def test_the_first_that_works_is_taken(programs: Programs) -> None:
    programs.add("buildah", "exit 0")
    assert find_builder(None, programs.environ).kind == "buildah"
    programs.add("podman", "exit 0")
    assert find_builder(None, programs.environ).kind == "podman"
    programs.docker(OLD)
    assert find_builder(None, programs.environ).kind == "docker"
    assert find_builder("buildah", programs.environ).kind == "buildah"
    with pytest.raises(UsageError, match="docker is not installed; podman is not installed"):
        find_builder(None, {"PATH": ""}, of=("docker", "podman"))


def test_one_that_does_not_work_is_passed_over_and_named(programs: Programs) -> None:
    programs.add("docker", "echo Cannot connect to it. >&2; exit 1")
    programs.add("podman", "exit 0")
    found = find_builder(None, programs.environ)
    assert (found.kind, found.passed_over) == (
        "podman",
        ("docker does not work: Cannot connect to it",),
    )
    with pytest.raises(UsageError, match=r"docker does not work: Cannot connect to it\. Start one"):
        find_builder("docker", programs.environ)


def test_a_program_that_cannot_start(programs: Programs) -> None:
    programs.add("docker", "")
    (programs.folder / "docker").write_text("#!/nowhere\n")
    with pytest.raises(UsageError, match="docker does not start: No such file or directory"):
        find_builder("docker", programs.environ)


def test_one_that_does_not_answer(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fnship.image.container._PROBE_WITHIN", 0.1)
    programs.add("docker", "exec sleep 60")
    with pytest.raises(UsageError, match="docker does not answer within 0 s"):
        find_builder("docker", programs.environ)


@pytest.mark.parametrize(
    ("version", "plugin", "asked", "buildkit", "loads"),
    [
        (OLD, False, None, True, False),
        (OLD, True, "1", True, False),
        (OLD, False, "0", False, False),
        (NEW, False, None, False, False),
        (NEW, False, "1", False, False),
        (NEW, True, None, True, True),
        (NEW, True, "0", False, False),
    ],
)
def test_whether_docker_has_buildkit(
    programs: Programs, version: str, plugin: bool, asked: str | None, buildkit: bool, loads: bool
) -> None:
    programs.docker(version, f"[ $1 = buildx ] && exit {0 if plugin else 1}")
    environ = programs.environ | ({} if asked is None else {"DOCKER_BUILDKIT": asked})
    found = find_builder("docker", environ)
    assert (found.buildkit, found.loads) == (buildkit, loads)
    assert found.environ["DOCKER_BUILDKIT"] == ("1" if buildkit else "0")


@pytest.mark.parametrize("said", ["Client: Podman Engine", "{}", "[]", '{"Client": null}'])
def test_podman_under_dockers_name(programs: Programs, said: str) -> None:
    programs.docker(said)
    assert find_builder("docker", programs.environ).kind == "podman"


BUILD = Build(
    folder=Path("/f"),
    dockerfile=Path("/d/Dockerfile"),
    image="hello:1",
    arguments=["A=1 2", "B"],
    secrets=["id=pip,src=x"],
    platform="linux/arm64",
    cache=False,
)
GIVEN = (
    *("--build-arg", "A=1 2", "--build-arg", "B", "--secret", "id=pip,src=x"),
    *("--platform", "linux/arm64", "--no-cache", "/f"),
)


@pytest.mark.parametrize(
    ("kind", "buildkit", "loads", "own"),
    [
        ("docker", True, False, ("--progress", "plain")),
        ("docker", True, True, ("--progress", "plain", "--load")),
        ("docker", False, False, ("--force-rm",)),
        ("podman", True, False, ("--format", "docker")),
        ("buildah", True, False, ("--format", "docker", "--layers")),
    ],
)
def test_how_each_is_asked(
    programs: Programs, kind: str, buildkit: bool, loads: bool, own: tuple[str, ...]
) -> None:
    programs.add(kind, "printf '%s\\n' \"$@\"; echo wrong >&2; exit 7")
    builder = Builder(kind, str(programs.folder / kind), programs.environ, buildkit, loads)
    told: list[str] = []
    status, lines = builder.build(BUILD, told.append)
    assert status == 7
    assert lines == told
    assert lines == [
        *("build", "--tag", "hello:1", "--file", "/d/Dockerfile"),
        *own,
        *GIVEN,
        "wrong",
    ]


def test_a_build_that_is_interrupted_is_ended(programs: Programs) -> None:
    programs.add("docker", "echo begun; exec sleep 60")
    builder = Builder("docker", str(programs.folder / "docker"), programs.environ)

    def interrupt(line: str) -> None:
        assert line == "begun"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        builder.build(BUILD, interrupt)  # returns only when the builder is gone


def test_the_environment_stays_out_of_its_text() -> None:
    assert "token" not in repr(Builder("docker", "docker", {"SECRET": "token"}))


def test_what_is_known_of_an_image(programs: Programs) -> None:
    programs.docker(OLD, f"echo '{json.dumps(IMAGE)}'")
    found = find_builder("docker", programs.environ).inspect("python:3")
    assert found is not None
    assert (found.id, found.size) == ("sha256:" + "1" * 64, 123)
    assert found.env == {"A": "1", "B": "x=y", "C": ""}
    assert found.labels == {}
    assert found.digests == {
        "docker.io/library/python": "sha256:" + "2" * 64,
        "registry.example.com:5000/python": "sha256:" + "4" * 64,
    }


def test_what_buildah_knows_of_an_image(programs: Programs) -> None:
    known = {
        "FromImageID": "1" * 64,
        "Docker": {"config": {"Env": ["A=1"], "Labels": {"x": "y"}}},
    }
    programs.add(
        "buildah",
        f"[ $1 = inspect ] && echo '{json.dumps(known)}'\n"
        'if [ $1 = images ]; then echo \'[{"size": "1.5 GB"}]\'; fi',
    )
    found = find_builder("buildah", programs.environ).inspect("hello:1")
    assert found is not None
    assert (found.id, found.size) == ("sha256:" + "1" * 64, 1_500_000_000)
    assert (found.env, found.labels, found.digests) == ({"A": "1"}, {"x": "y"}, {})


def test_an_image_that_is_not_there(programs: Programs) -> None:
    for kind in ("docker", "buildah"):
        programs.add(kind, "exit 1")
        builder = Builder(kind, str(programs.folder / kind), programs.environ)
        assert builder.inspect("nonesuch") is None
        with pytest.raises(UsageError, match=f"Get it first: {kind} pull nonesuch:1"):
            builder.pinned("nonesuch:1")


def test_pinned_by_its_own_registrys_digest(programs: Programs) -> None:
    programs.docker(OLD, f"echo '{json.dumps(IMAGE)}'")
    builder = find_builder("docker", programs.environ)
    two, four = "sha256:" + "2" * 64, "sha256:" + "4" * 64
    for name, digest in (
        ("python:3", two),
        ("docker.io/library/python:3", two),
        ("registry.example.com:5000/python:3", four),
        (f"python:3@{four}", two),
    ):
        assert builder.pinned(name) == f"{name.partition('@')[0]}@{digest}"
    for name in ("other/python:3", "localhost/hello:1", "registry.example.com/python:3"):
        with pytest.raises(UsageError, match="it came from no registry"):
            builder.pinned(name)
    with pytest.raises(UsageError, match="does not say which version"):
        builder.pinned("python")


# Running


@pytest.mark.parametrize(
    ("env", "port"),
    [
        ({}, 8080),
        ({"port": "9000"}, 9000),
        ({"PORT": "9000"}, 8080),  # the function's own, behind the watchdog
        ({"WATCHDOG": "native", "PORT": "9000", "port": "9001"}, 9000),
        ({"WATCHDOG": "Native", "port": "9001"}, 9001),
        ({"WATCHDOG": "native", "PORT": "", "port": " "}, 8080),
    ],
)
def test_the_port_in_the_container(env: dict[str, str], port: int) -> None:
    assert container_port(env) == port


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "8.5"])
def test_no_port(port: str) -> None:
    with pytest.raises(UsageError, match="is no port that the container can listen on"):
        container_port({"port": port})


@pytest.mark.parametrize(
    ("env", "seconds"),
    [
        ({}, 10),
        ({"healthcheck_interval": "0"}, 10),
        ({"healthcheck_interval": "30"}, 45),
        ({"healthcheck_interval": "1m"}, 75),
        ({"healthcheck_interval": "nonsense"}, 10),
        ({"healthcheck_interval": "-3s"}, 10),
    ],
)
def test_how_long_it_takes_to_stop(env: dict[str, str], seconds: float) -> None:
    assert stop_grace(env) == seconds


def test_how_a_container_is_started(programs: Programs, tmp_path: Path) -> None:
    programs.add(
        "docker",
        f"printf '%s\\n' \"$@\" >> {tmp_path}/asked\n"
        "[ $1 = create ] && echo WARNING: no swap >&2 && echo abc\n"
        "if [ $1 = port ]; then echo 127.0.0.1:4321; fi",
    )
    builder = Builder("docker", str(programs.folder / "docker"), programs.environ)
    limits = Limits(memory="96m", cpus="0.5")
    container = start(
        builder, "hello:1", port=0, inner_port=9000, env=["A=1", "B"], limits=limits, grace=45.0
    )
    assert container.url == "http://127.0.0.1:4321"
    asked = (tmp_path / "asked").read_text().split("\n")
    name = asked.pop(2)
    assert re.fullmatch("fnship-[0-9a-f]{8}", name)
    assert asked == [
        *("create", "--name", "--memory", "96m", "--pids-limit", "512", "--cpus", "0.5"),
        *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--stop-timeout", "45"),
        *("--publish", "127.0.0.1::9000", "--env", "A=1", "--env", "B", "hello:1"),
        *("start", name),
        *("port", name, "9000"),
        "",
    ]


IN_USE = """\
Error response from daemon: driver failed: listen tcp4 127.0.0.1:8080: bind: address already in use
Error: failed to start containers: abc
"""


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        (
            IN_USE,
            "hello:1 cannot be run: port 8080 is in use. Take another one with --port",
        ),
        (
            "Error response from daemon: OCI runtime create failed.\nError: failed to start: abc",
            "hello:1 cannot be run: OCI runtime create failed$",
        ),
        ("Error: no such thing", "hello:1 cannot be run: no such thing$"),
        ("", "hello:1 cannot be run: it does not say why"),
    ],
)
@pytest.mark.parametrize("step", ["create", "start"])
def test_a_container_that_does_not_start(
    programs: Programs, tmp_path: Path, said: str, meaning: str, step: str
) -> None:
    (tmp_path / "said").write_text(said)
    programs.add(
        "docker",
        f"echo $1 >> {tmp_path}/asked\n"
        f"[ $1 = {step} ] && cat {tmp_path}/said >&2 && exit 1\n"
        "if [ $1 = create ]; then echo abc; fi",
    )
    builder = Builder("docker", str(programs.folder / "docker"), programs.environ)
    with pytest.raises(UsageError, match=meaning):
        start(builder, "hello:1", port=8080, inner_port=8080)
    asked = (tmp_path / "asked").read_text().split()
    assert asked == (["create", "rm"] if step == "create" else ["create", "start", "rm"])
