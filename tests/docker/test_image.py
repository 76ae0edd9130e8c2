"""What is in the image, and what must not be: looked at through the engine."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker_engine import BASES, Docker

from fnship.image.wheel import own_wheel

MEGABYTE = 10**6
WATCHDOGS = ("of-watchdog", "native")

UNCOMPILED = """
import os, sys, fnship.server.process, fnship.server.single, fnship.server.workers
import aiohttp, uvloop, fnship.function.state_aiohttp, fnship.function.state_urllib3
for module in list(sys.modules.values()):
    cached = getattr(getattr(module, "__spec__", None), "cached", None)
    if cached and not os.path.exists(cached):
        print(module.__name__)
"""

LOOK = """
import json, os, stat, sys
found = {"others": [], "closed": [], "writable": [], "odd": []}
for top in ("/opt", "/home", "/usr/bin/fwatchdog", "/src", "/root/.cache"):
    for base, folders, files in os.walk(top):
        for name in [".", *files]:
            path = os.path.normpath(os.path.join(base, name))
            about = os.lstat(path)
            if about.st_uid or about.st_gid:
                found["others"].append(path)
            if stat.S_ISLNK(about.st_mode):
                continue
            if not about.st_mode & stat.S_IROTH:
                found["closed"].append(path)
            if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                found["writable"].append(path)
found["there"] = [path for path in (
    "/src", "/root/.cache", "/usr/bin/gcc", "/usr/bin/make", "/home/app/requirements.txt",
    "/home/app/wheels", "/home/app/tests", "/home/app/Dockerfile", "/home/app/README.md",
    "/opt/venv/bin/pip", "/opt/server/bin/pip", "/var/lib/apt/lists/lock",
) if os.path.exists(path)]
found["lists"] = len(os.listdir("/var/lib/apt/lists"))
found["app"] = sorted(os.listdir("/home/app"))
found["home"] = os.environ["HOME"]
import getpass
found["user"] = getpass.getuser()
print(json.dumps(found))
"""


@pytest.mark.parametrize("watchdog", WATCHDOGS)
def test_the_code_is_roots_and_everyone_may_read_it(
    docker: Docker, new: Callable[..., Path], standin: list[str], watchdog: str
) -> None:
    folder = new("--watchdog", watchdog)
    (folder / "function" / "utils.py").chmod(0o600)
    (folder / "function").chmod(0o700)
    image = docker.name("look")
    arguments = [*(standin if watchdog != "native" else []), "--build-arg", "BUILD_PACKAGE=make"]
    docker.build(folder, image, *arguments)
    shown = docker("run", "--rm", image, "python", "-c", LOOK)
    found = json.loads(shown.stdout)
    assert found["others"] == []
    assert found["closed"] == []
    assert found["writable"] == []
    assert found["there"] == []
    assert found["lists"] == 0
    assert found["app"] == ["__pycache__", "function", "main.py"]
    assert (found["home"], found["user"]) == ("/tmp", "app")


def test_it_is_small(docker: Docker, hello: Callable[..., str]) -> None:
    image = hello("native")
    size, base = (
        docker.inspect(image)["Size"],
        docker.inspect(f"python:{BASES['trixie'][0]}")["Size"],
    )
    assert (size - base) / MEGABYTE <= 40
    history = json.loads(
        "[" + ",".join(docker("history", "--format", "{{json .}}", image).stdout.splitlines()) + "]"
    )
    made = [each["CreatedBy"] for each in history if each["Size"] != "0B"]
    assert sum("/opt/server" in each for each in made) == 1
    assert sum("fwatchdog" in each for each in made) == 0


def test_the_watchdog_is_stored_once(docker: Docker, hello: Callable[..., str]) -> None:
    found = [name for name, _ in stored_files(docker, hello("of-watchdog")) if "fwatchdog" in name]
    assert found == ["usr/bin/fwatchdog"]


def test_everything_is_compiled(docker: Docker, hello: Callable[..., str]) -> None:
    """No start compiles anything: what it imports has its bytecode, also on a read-only root."""
    with docker.run(hello("native"), "--read-only", "--tmpfs", "/tmp") as container:
        assert container.exec(f"import function.handler\n{UNCOMPILED}").split() == []


def test_a_base_without_the_bytecode_of_the_standard_library(
    docker: Docker, new: Callable[..., Path], tmp_path: Path
) -> None:
    """As the official Python images are: what the server needs of it is compiled once."""
    tag, _ = BASES["trixie"]
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "Dockerfile").write_text(
        f"FROM python:{tag}\nRUN find /usr/lib/python3* -name '*.pyc' -delete\n"
    )
    base = docker.name("bare")
    docker.build(bare, f"{base}:1")
    image = docker.name("on-bare")
    arguments = ("--build-arg", f"PYTHON_IMAGE_REPO={base}", "--build-arg", "PYTHON_IMAGE_TAG=1")
    docker.build(new("--watchdog", "native"), image, *arguments)
    with docker.run(image, "--read-only", "--tmpfs", "/tmp") as container:
        container.wait_ready()
        assert container.exec(UNCOMPILED).split() == []


def test_labels(docker: Docker, hello: Callable[..., str]) -> None:
    tag, _ = BASES["bookworm"]
    labels = docker.inspect(hello("native", "bookworm"))["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "hello"
    assert labels["org.opencontainers.image.base.name"] == f"python:{tag}"


def test_a_name_that_needs_quoting(docker: Docker, new: Callable[..., Path]) -> None:
    name = """a "b" $HOME \\ 'c' ü"""
    folder = new("--watchdog", "native", name=name)
    image = docker.name("quoted")
    docker.build(folder, image)
    assert docker.inspect(image)["Config"]["Labels"]["org.opencontainers.image.title"] == name


def test_a_change_of_the_code_installs_nothing_anew(
    docker: Docker, new: Callable[..., Path]
) -> None:
    folder = new("--watchdog", "native")
    (folder / "function" / "requirements.txt").write_text("humanize==4.12.3\n")
    for buildkit in (True, False):
        image = docker.name("rebuilt")
        docker.build(folder, image, buildkit=buildkit)
        handler = folder / "function" / "handler.py"
        handler.write_text(handler.read_text().replace("greeting", "hailing"))
        again = docker.build(folder, image, buildkit=buildkit)
        steps = cached_steps(again.said, buildkit=buildkit)
        installs = {step: kept for step, kept in steps.items() if "pip install" in step}
        assert len([step for step in installs if "-r " in step]) == 2
        assert all(kept for step, kept in installs.items() if "-r " in step), installs
        copies = {step: kept for step, kept in steps.items() if step.startswith("COPY --from=")}
        assert [kept for step, kept in copies.items() if "/opt/" in step] == [True, True]
        assert [kept for step, kept in copies.items() if "/home/app/" in step] == [False]
        handler.write_text(handler.read_text().replace("hailing", "greeting"))


def cached_steps(said: str, *, buildkit: bool) -> dict[str, bool]:
    """Step → whether its layer was there already, from the builder's own output."""
    steps: dict[str, bool] = {}
    numbers: dict[str, str] = {}
    step = ""
    for line in said.splitlines():
        if buildkit and line.startswith("#"):
            number, _, rest = line.partition(" ")
            if rest.startswith("["):
                numbers[number] = rest.partition("] ")[2]
                steps.setdefault(numbers[number], False)
            elif rest == "CACHED":
                steps[numbers[number]] = True
        elif not buildkit and line.startswith("Step "):
            step = line.partition(" : ")[2]
            steps[step] = False
        elif not buildkit and line.strip() == "---> Using cache":
            steps[step] = True
    return steps


CANARY = "canary-4f1a-do-not-keep-me"


def test_a_secret_for_pip_is_nowhere_in_the_image(
    docker: Docker, new: Callable[..., Path], tmp_path: Path, private_index: tuple[str, list[str]]
) -> None:
    url, asked = private_index
    folder = new(
        "--watchdog", "native", handler="import fnship_private\nhandle = fnship_private.handle\n"
    )
    with (folder / "function" / "requirements.txt").open("a") as file:
        file.write("fnship-private==9.9.9+here\n")
    host = url.partition("//")[2].partition(":")[0]
    secret = tmp_path / "pip.conf"
    secret.write_text(
        f"[global]\nextra-index-url = {url.replace('//', f'//user:{CANARY}@')}\n"
        f"trusted-host = {host}\n"
    )
    image = docker.name("private")
    built = docker.fnship(
        "build", folder, "-t", image, "--secret", f"id=pip,src={secret}", cwd=tmp_path
    )
    assert asked, "the private index was not asked"
    assert "rendering the Dockerfile anew for this build: --secret id=pip" in built.stderr
    assert CANARY not in built.said
    assert CANARY not in docker("history", "--no-trunc", image).stdout
    assert CANARY not in docker("inspect", image).stdout
    for name, content in stored_files(docker, image):
        assert CANARY.encode() not in content, name
    with docker.run(image) as container:
        assert container.wait_ready().call({}).json == {"private": True}
    # The Dockerfile of the folder is as it was; one for good has the secret by itself.
    assert "type=secret" not in (folder / "Dockerfile").read_text()
    docker.fnship("dockerfile", folder, "--secret", cwd=tmp_path)
    docker.build(folder, image, "--secret", f"id=pip,src={secret}")
    failed = docker.fnship("build", folder, cwd=tmp_path, check=False, DOCKER_BUILDKIT="0")
    assert failed.status == 1
    assert "classic builder does not know" in failed.stderr.splitlines()[-1]


def stored_files(docker: Docker, image: str) -> Iterator[tuple[str, bytes]]:
    """Every file in every layer of an image, and what is said about it, with its content."""
    import subprocess

    with subprocess.Popen(
        [docker.program, "save", image], env=docker.environ(), stdout=subprocess.PIPE
    ) as saving:
        assert saving.stdout is not None
        with tarfile.open(fileobj=saving.stdout, mode="r|") as archive:
            for member in archive:
                file = archive.extractfile(member)
                content = file.read() if file else b""
                if not member.name.endswith("layer.tar"):
                    yield member.name, content
                    continue
                with tarfile.open(fileobj=io.BytesIO(content)) as layer:
                    for each in layer:
                        inner = layer.extractfile(each) if each.isfile() else None
                        yield each.name, inner.read() if inner else b""


def test_pinned(docker: Docker, new: Callable[..., Path], tmp_path: Path, registry: str) -> None:
    tag, _ = BASES["trixie"]
    base = f"{registry}/{docker.prefix}-python"
    docker("tag", f"python:{tag}", f"{base}:{tag}")
    docker("push", f"{base}:{tag}")
    folder = new("--watchdog", "native")
    docker.fnship("dockerfile", folder, "--python-image", f"{base}:{tag}", "--pin", cwd=tmp_path)
    text = (folder / "Dockerfile").read_text()
    assert f"ARG PYTHON_IMAGE_REPO={base}\n" in text
    assert f"ARG PYTHON_IMAGE_TAG={tag}@sha256:" in text
    for buildkit in (True, False):
        image = docker.name("pinned")
        docker.build(folder, image, buildkit=buildkit)
        name = docker.inspect(image)["Config"]["Labels"]["org.opencontainers.image.base.name"]
        assert name.startswith(f"{base}:{tag}@sha256:")
        with docker.run(image) as container:
            assert container.wait_ready().call({}).status == 200
    # Once more: the pin is renewed, not stacked.
    docker.fnship("dockerfile", folder, "--pin", cwd=tmp_path)
    assert (folder / "Dockerfile").read_text() == text


def test_what_came_from_no_registry_cannot_be_pinned(
    docker: Docker, new: Callable[..., Path], tmp_path: Path
) -> None:
    folder = new("--watchdog", "native")
    before = (folder / "Dockerfile").read_text()
    failed = docker.fnship("dockerfile", folder, "--pin", cwd=tmp_path, check=False)
    assert failed.status == 2
    assert "cannot be pinned: it came from no registry" in failed.stderr
    missing = docker.fnship(
        "dockerfile", folder, "--pin", "--python-image", "nonesuch:1", cwd=tmp_path, check=False
    )
    assert missing.status == 2
    assert "nonesuch:1 cannot be pinned: docker does not have it. Get it first" in missing.stderr
    assert (folder / "Dockerfile").read_text() == before


def test_the_wheel_in_the_image_is_the_one_that_wrote_it(
    docker: Docker, hello: Callable[..., str]
) -> None:
    code = (
        "from fnship.image.wheel import own_wheel; import hashlib; n, d = own_wheel();"
        "import zipfile, io; a = zipfile.ZipFile(io.BytesIO(d));"
        "print({i: hashlib.sha256(a.read(i)).hexdigest() for i in a.namelist() if '.py' in i})"
    )
    shown = docker("run", "--rm", hello("native"), "python", "-c", code).stdout
    import hashlib
    import zipfile

    archive = zipfile.ZipFile(io.BytesIO(own_wheel()[1]))
    expected = {
        name: hashlib.sha256(archive.read(name)).hexdigest()
        for name in archive.namelist()
        if ".py" in name
    }
    assert shown.strip() == str(expected)
