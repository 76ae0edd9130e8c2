"""`fnship build` on a real engine: what it says when it works, and when it does not."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from docker_engine import BASES, Docker, Ended, bind_program

Functions = Callable[..., Path]


def failed(ended: Ended, said: str, status: int = 1) -> None:
    """One line of error, the last one, with what is to be done."""
    assert ended.status == status, ended.said
    assert "Traceback (most recent call last)" not in ended.said
    errors = [line for line in ended.stderr.splitlines() if line.startswith("fnship: error: ")]
    assert errors == [ended.stderr.splitlines()[-1]]
    assert re.search(said, errors[0]), errors[0]
    assert ended.stdout == ""


def test_it_says_what_it_built(docker: Docker, new: Functions, tmp_path: Path) -> None:
    folder = new("--watchdog", "native")
    image = docker.name("built")
    built = docker.fnship("build", folder, "-t", image, cwd=tmp_path)
    lines = built.stdout.splitlines()
    assert re.fullmatch(rf"Built {image}:latest with docker in \d+\.\d s:", lines[0])
    assert re.fullmatch(
        rf"  size    \d+\.\d MB, \d+\.\d MB more than python:{BASES['trixie'][0]}", lines[1]
    )
    assert lines[2] == f"  digest  {docker.inspect(image)['Id']}"
    assert lines[-1] == f"  fnship run --image {image}:latest"
    assert "load build definition" in built.stderr


@pytest.mark.parametrize("buildkit", ["1", "0"])
def test_as_json(docker: Docker, new: Functions, tmp_path: Path, buildkit: str) -> None:
    image = f"{docker.name('json')}:2"
    folder = new("--watchdog", "native")
    built = docker.fnship("build", "-t", image, "--json", cwd=folder, DOCKER_BUILDKIT=buildkit)
    known = json.loads(built.stdout)
    about = docker.inspect(image)
    base = docker.inspect(f"python:{BASES['trixie'][0]}")
    assert known.pop("seconds") >= 0
    assert known == {
        "image": image,
        "id": about["Id"],
        "digest": None,
        "size": about["Size"],
        "size_over_base": about["Size"] - base["Size"],
        "builder": "docker",
    }


def test_a_folder_without_a_dockerfile(docker: Docker, new: Functions, tmp_path: Path) -> None:
    folder = new()
    (folder / "Dockerfile").unlink()
    image = docker.name("rendered")
    built = docker.fnship("build", folder, "-t", image, "--watchdog", "native", cwd=tmp_path)
    assert "there is no Dockerfile: building with what `fnship dockerfile` writes" in built.stderr
    assert not (folder / "Dockerfile").exists()
    with docker.run(image) as container:
        assert container.wait_ready().call({}).json == {"message": "Hello, World!"}


def test_a_dockerfile_that_was_edited(docker: Docker, new: Functions, tmp_path: Path) -> None:
    folder = new("--watchdog", "native")
    path = folder / "Dockerfile"
    edited = path.read_text().replace("USER 1000", "ENV MINE=yes\nUSER 1000")
    path.write_text(edited)
    image = docker.name("edited")
    built = docker.fnship("build", folder, "-t", image, cwd=tmp_path)
    assert "building with your Dockerfile, which is not as fnship wrote it" in built.stderr
    assert "MINE=yes" in docker.inspect(image)["Config"]["Env"]
    other = docker.fnship(
        "build", folder, "-t", image, "--watchdog", "of-watchdog", cwd=tmp_path, check=False
    )
    failed(other, r"is edited, and is kept: .*--watchdog of-watchdog.*fnship dockerfile --force", 2)
    assert path.read_text() == edited


def test_a_dockerfile_of_ones_own(docker: Docker, new: Functions, tmp_path: Path) -> None:
    folder = new()
    tag, _ = BASES["trixie"]
    (folder / "Dockerfile").write_text(f"FROM python:{tag}\nENV MINE=yes\n")
    image = docker.name("own")
    built = docker.fnship("build", folder, "-t", image, cwd=tmp_path)
    assert "MINE=yes" in docker.inspect(image)["Config"]["Env"]
    assert "MB more than" not in built.stdout


def test_a_package_that_contradicts_the_server(
    docker: Docker, new: Functions, tmp_path: Path
) -> None:
    folder = new("--watchdog", "native")
    (folder / "function" / "requirements.txt").write_text("urllib3==1.26.20\n")
    built = docker.fnship("build", folder, "-t", docker.name("old"), cwd=tmp_path)
    assert re.search(
        r"fnship: note: fnship \S+ requires urllib3\S+, but you have urllib3 1\.26\.20",
        built.stderr,
    )


def test_a_folder_written_by_hand_without_fnship(
    docker: Docker, standin: list[str], tmp_path: Path
) -> None:
    """The guide's own tree, whatever serves it: the Dockerfile does not need fnship in it."""
    folder = tmp_path / "by-hand"
    (folder / "function").mkdir(parents=True)
    (folder / "function" / "__init__.py").touch()
    (folder / "function" / "handler.py").write_text("def handle(logger, request):\n    return {}\n")
    (folder / "requirements.txt").write_text("idna==3.10\n")
    (folder / "main.py").write_text(
        "import http.server, idna\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n"
        "        self.end_headers()\n"
        "        self.wfile.write(idna.__version__.encode())\n"
        "http.server.HTTPServer(('', 5000), H).serve_forever()\n"
    )
    image = docker.name("by-hand")
    built = docker.fnship("build", folder, "-t", image, *standin, cwd=tmp_path)
    assert "there is no Dockerfile" in built.stderr
    with docker.run(image) as container:
        assert container.wait_ready().call(path="/x").body == b"3.10"
    native = docker.fnship("build", folder, "--watchdog", "native", cwd=tmp_path, check=False)
    failed(native, "the native watchdog is fnship's own server, which the requirements do not", 2)


# What goes wrong


def break_base(folder: Path) -> list[str]:
    return ["--build-arg", "PYTHON_IMAGE_TAG=3.13-nonesuch"]


def break_requirement(folder: Path) -> list[str]:
    (folder / "function" / "requirements.txt").write_text("# ours\n\nfnship-nonesuch-zzz==1.0\n")
    return []


def break_version(folder: Path) -> list[str]:
    (folder / "function" / "requirements.txt").write_text("idna == 999\n")
    return []


C_PART = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fnship_c_part"};
PyMODINIT_FUNC PyInit_fnship_c_part(void) { return PyModule_Create(&module); }
"""
C_SETUP = """
from setuptools import Extension, setup
setup(name="fnship-c-part", version="1.0", ext_modules=[Extension("fnship_c_part", ["part.c"])])
"""


def break_wheel(folder: Path) -> list[str]:
    """Require a package in C that comes as its source alone."""
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: fnship-c-part\nVersion: 1.0\n",
        "setup.py": C_SETUP,
        "part.c": C_PART,
    }
    with tarfile.open(folder / "wheels" / "fnship-c-part-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"fnship-c-part-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    (folder / "function" / "requirements.txt").write_text(
        "# in C\nfnship-c-part @ file:///src/wheels/fnship-c-part-1.0.tar.gz\n"
    )
    return []


def break_syntax(folder: Path) -> list[str]:
    (folder / "function" / "more").mkdir()
    (folder / "function" / "more" / "deep.py").write_text("def f(:\n    pass\n")
    return []


def break_disk(folder: Path) -> list[str]:
    path = folder / "Dockerfile"
    fill = "RUN head -c 100M /dev/zero > /dev/shm/fill\n"  # where a build has 64 MB
    path.write_text(path.read_text().replace("COPY . ./\n", f"COPY . ./\n{fill}"))
    return []


def break_tests(folder: Path) -> list[str]:
    with (folder / "tests" / "test_handler.py").open("a") as file:
        file.write("\n\ndef test_what_is_not_so():\n    assert 1 == 2\n")
    return ["--build-arg", "TEST_ENABLED=true"]


def break_debian(folder: Path) -> list[str]:
    return ["--build-arg", "ADDITIONAL_PACKAGE=nonesuch-zzz"]


def break_ignored(folder: Path) -> list[str]:
    (folder / ".dockerignore").write_text("main.py\n")
    return []


def break_dockerfile(folder: Path) -> list[str]:
    path = folder / "Dockerfile"
    path.write_text(path.read_text().replace("EXPOSE 8080", "EXPOES 8080"))
    return []


BROKEN = {
    "base": (break_base, r"python:3\.13-nonesuch is not here, and its registry .*PYTHON_IMAGE_TAG"),
    "requirement": (
        break_requirement,
        r"function/requirements\.txt:3: fnship-nonesuch-zzz==1\.0 does not exist",
    ),
    "version": (break_version, r"function/requirements\.txt:1: idna==999 .*There is 3\."),
    "wheel": (
        break_wheel,
        r"function/requirements\.txt:2: fnship-c-part has no wheel .*gcc.*BUILD_PACKAGE=",
    ),
    "syntax": (break_syntax, r"function/more/deep\.py:1: SyntaxError: invalid syntax"),
    "disk": (break_disk, r"the disk is full.*docker system df.*docker system prune"),
    "tests": (break_tests, r"the function's tests fail: FAILED tests/test_handler\.py::test_what"),
    "debian": (break_debian, r"Debian has no package nonesuch-zzz, which ADDITIONAL_PACKAGE"),
    "ignored": (break_ignored, r"main\.py, which is not there or which \.dockerignore leaves out"),
    "dockerfile": (break_dockerfile, r"Dockerfile:\d+: unknown instruction: EXPOES"),
}


@pytest.mark.parametrize("buildkit", ["1", "0"], ids=["buildkit", "classic"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_build_that_fails_is_explained(
    docker: Docker, new: Functions, tmp_path: Path, what: str, buildkit: str
) -> None:
    break_it, said = BROKEN[what]
    folder = new("--watchdog", "native")
    image = docker.name("broken")
    arguments = break_it(folder)
    ended = docker.fnship(
        "build",
        folder,
        "-t",
        image,
        *arguments,
        cwd=tmp_path,
        check=False,
        DOCKER_BUILDKIT=buildkit,
    )
    failed(ended, f"the build failed: .*{said}")
    assert docker("image", "inspect", image, check=False).status != 0


COMPILED = """
import shutil

import fnship_c_part


def handle(logger, request):
    return {"gcc": shutil.which("gcc"), "part": fnship_c_part.__name__}
"""


def test_what_a_source_needs_can_be_given_to_the_build_alone(
    docker: Docker, new: Functions, tmp_path: Path
) -> None:
    folder = new("--watchdog", "native", handler=COMPILED)
    break_wheel(folder)
    image = docker.name("compiled")
    packages = "BUILD_PACKAGE=gcc libc6-dev python3-dev"
    docker.fnship("build", folder, "-t", image, "--build-arg", packages, cwd=tmp_path)
    with docker.run(image) as container:
        answer = container.wait_ready().call({})
        assert answer.json == {"gcc": None, "part": "fnship_c_part"}


# Before anything is built


def test_no_engine_is_running(docker: Docker, new: Functions, tmp_path: Path) -> None:
    folder = new()
    nowhere = f"unix://{tmp_path}/nowhere.sock"
    path = str(Path(docker.path.partition(":")[0]))  # docker alone
    ended = docker.fnship(
        "build", folder, cwd=tmp_path, check=False, DOCKER_HOST=nowhere, PATH=path
    )
    failed(
        ended,
        r"no container engine works here: docker does not work: .*; podman is not installed; "
        r"buildah is not installed\. Start one",
        2,
    )


def test_another_builder_in_place_of_one_that_does_not_work(
    docker: Docker, new: Functions, tmp_path: Path
) -> None:
    folder = new()
    path = docker.path.partition(":")[0]
    programs = tmp_path / "programs"
    programs.mkdir()
    bind_program(programs, "podman", "#!/bin/sh\necho podman is here; exit 3\n")
    bind_program(programs, "buildah", "#!/bin/sh\n[ $1 = info ] && exit; echo built $*; exit 4\n")
    ended = docker.fnship(
        *("build", folder),
        cwd=tmp_path,
        check=False,
        DOCKER_HOST=f"unix://{tmp_path}/nowhere.sock",
        PATH=f"{path}:{programs}:/bin",
    )
    assert re.search(r"fnship: docker does not work: .*: building with buildah", ended.stderr)
    assert "fnship: podman does not work: status 3: building with buildah" in ended.stderr
    assert "built build --tag hello:latest" in ended.stderr
    assert ended.status == 1


def test_the_classic_builder_has_no_platforms(
    docker: Docker, new: Functions, tmp_path: Path
) -> None:
    ended = docker.fnship(
        *("build", new(), "--platform", "linux/arm64"),
        cwd=tmp_path,
        check=False,
        DOCKER_BUILDKIT="0",
    )
    failed(ended, "--platform needs BuildKit", 2)


def test_another_platform_that_is_not_there(docker: Docker, new: Functions, tmp_path: Path) -> None:
    ended = docker.fnship(
        *("build", new("--watchdog", "native"), "--platform", "linux/arm64"),
        cwd=tmp_path,
        check=False,
    )
    failed(ended, "the build failed: .*is not here", 1)


@pytest.mark.parametrize("builder", ["podman", "buildah"])
def test_the_other_builders(
    docker: Docker, others: dict[str, str], new: Functions, tmp_path: Path, builder: str
) -> None:
    folder = new("--watchdog", "native")
    image = docker.name(builder)
    built = docker.fnship(
        "build", folder, "-t", image, "--builder", builder, cwd=tmp_path, **others
    )
    assert f"Built {image}:latest with {builder}" in built.stdout
    assert re.search(r"digest  sha256:[0-9a-f]{64}", built.stdout)
    again = docker.fnship(
        "build", folder, "-t", image, "--builder", builder, "--json", cwd=tmp_path, **others
    )
    known = json.loads(again.stdout)
    assert known["builder"] == builder
    assert known["size_over_base"] / 10**6 <= 40
    steps = again.stderr.splitlines()
    installs = [i for i, line in enumerate(steps) if "pip install" in line and " -r " in line]
    assert len(installs) == 2
    assert all(steps[i + 1].startswith("--> Using cache") for i in installs)
    (folder / "function" / "requirements.txt").write_text("fnship-nonesuch-zzz\n")
    ended = docker.fnship(
        "build", folder, "-t", image, "--builder", builder, cwd=tmp_path, check=False, **others
    )
    failed(ended, r"function/requirements\.txt:1: fnship-nonesuch-zzz does not exist")
