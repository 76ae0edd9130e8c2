"""The Dockerfile's text: that it is what was chosen, and that an edited one is known."""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.errors import UsageError
from fnship.image import dockerfile
from fnship.image.dockerfile import (
    PYTHON_IMAGE,
    WATCHDOG_IMAGE,
    WATCHDOGS,
    Choices,
    fill,
    is_edited,
    read_choices,
    render,
    split_image,
)

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
OF_WATCHDOG_ARGUMENTS = {"WATCHDOG_IMAGE_REPO", "WATCHDOG_IMAGE_TAG"}
ARGUMENTS = {
    "PYTHON_IMAGE_REPO",
    "PYTHON_IMAGE_TAG",
    "ADDITIONAL_PACKAGE",
    "BUILD_PACKAGE",
    "PROXY",
    "TEST_COMMAND",
    "TEST_ENABLED",
}
flags = st.booleans()
choices = st.builds(
    Choices,
    title=st.text(),
    watchdog=st.sampled_from(WATCHDOGS),
    python_image=st.sampled_from([PYTHON_IMAGE, "host:5000/a/python:3.11-slim@sha256:" + "0" * 64]),
    watchdog_image=st.sampled_from([WATCHDOG_IMAGE, "watchdog:1"]),
    single_requirements=flags,
    wheels=flags,
    slim=flags,
    secret=flags,
)


def text(**options: Any) -> str:
    return render(Choices(title="hello", **options), "0.1.0")


def environment(dockerfile: str) -> dict[str, str]:
    return dict(re.findall(r'^ENV ([a-zA-Z_]+)="(.*)"$', dockerfile, re.MULTILINE))


def stages(dockerfile: str) -> list[str]:
    return re.findall(r"^FROM .* AS (\w+)$", dockerfile, re.MULTILINE)


def stage(dockerfile: str, name: str) -> str:
    return re.split(r"^FROM ", dockerfile.partition(f" AS {name}\n")[2], flags=re.MULTILINE)[0]


def test_behind_of_watchdog_it_keeps_to_the_guide() -> None:
    rendered = text()
    assert environment(stage(rendered, "ship")).items() >= GUIDE_ENV.items()
    assert set(re.findall(r"^ARG (\w+)=", rendered, re.MULTILINE)) == (
        ARGUMENTS | OF_WATCHDOG_ARGUMENTS
    )
    assert stages(rendered) == ["watchdog", "base", "build", "test", "ship"]
    assert '\nCMD ["fwatchdog"]\n' in rendered
    assert f"ARG PYTHON_IMAGE_TAG={PYTHON_IMAGE.partition(':')[2]}\n" in rendered
    assert "ARG WATCHDOG_IMAGE_TAG=0.10.6\n" in rendered


def test_natively_it_has_no_watchdog() -> None:
    rendered = text(watchdog="native")
    own = environment(stage(rendered, "ship"))
    assert own["WATCHDOG"] == "native"
    assert not own.keys() & GUIDE_ENV.keys()
    assert set(re.findall(r"^ARG (\w+)=", rendered, re.MULTILINE)) == ARGUMENTS
    assert stages(rendered) == ["base", "build", "test", "ship"]
    assert '\nCMD ["python", "main.py"]\n' in rendered
    assert "fwatchdog" not in rendered


@given(choices)
def test_whatever_was_chosen(chosen: Choices) -> None:
    rendered = render(chosen, "0.1.0")
    assert "%%" not in rendered.replace(dockerfile._quoted(chosen.title), "")
    assert not re.search(r"^%", rendered, re.MULTILINE)
    assert "\n\n\n" not in rendered
    assert rendered.endswith("./\n")
    assert "# syntax" not in rendered  # its image could not be fetched everywhere
    # The classic builder knows no mounts: they are there where they were asked for alone.
    assert ("--mount" in rendered) is chosen.secret
    froms = re.findall(r"^FROM (.*) AS \w+$", rendered, re.MULTILINE)
    outside = [each for each in froms if "$" in each]
    assert all(each.startswith("--platform=${TARGETPLATFORM:-linux/amd64} ") for each in outside)
    final = stage(rendered, "ship")
    assert "pip" not in final
    assert "RUN" not in final
    assert re.search(r"^USER 1000:1000$", final, re.MULTILINE)
    assert "HEALTHCHECK --interval=5s CMD [ -e /tmp/.lock ] || exit 1\n" in final
    # The code is the last to come, and all that comes after settings and requirements.
    copies = re.findall(r"^COPY .*$", final, re.MULTILINE)
    assert copies[-1] == "COPY --from=test /home/app/ ./"
    assert not is_edited(rendered)


@given(choices)
def test_what_was_chosen_can_be_read_back(chosen: Choices) -> None:
    known = dataclasses.replace(chosen, watchdog_image=WATCHDOG_IMAGE, secret=False)
    found = read_choices(render(chosen, "0.1.0"), known)
    if chosen.watchdog == "native":
        chosen = dataclasses.replace(chosen, watchdog_image=WATCHDOG_IMAGE)
    assert found == chosen


def test_the_layers_of_the_requirements() -> None:
    two, one = text(), text(single_requirements=True)
    installs = [re.findall(r"pip install .* -r (\S+)", each) for each in (two, one)]
    assert installs == [["requirements.txt", "function/requirements.txt"], ["requirements.txt"]]
    for rendered in (two, one):
        built = stage(rendered, "build")
        copied = built.rindex("requirements.txt ./")
        assert copied < built.rindex("pip install")
        assert "COPY . " not in built
        assert built.index("COPY wheels/ ./wheels/\n") < built.index("RUN pip install")
    assert "wheels" not in text(wheels=False)
    assert "function/requirements.txt" not in one
    assert "/opt/server" not in one


def test_without_fnship_nothing_of_it_is_asked_for() -> None:
    rendered = text(slim=False, wheels=False)
    assert "fnship" not in rendered.partition("\n")[2]
    assert "--no-compile" not in rendered


def test_secrets_are_mounted_and_never_copied() -> None:
    rendered = text(secret=True)
    runs = re.findall(r"^RUN (.*)$", rendered, re.MULTILINE)
    assert all(
        each.startswith("--mount=type=secret,id=pip ") for each in runs if "pip install" in each
    )
    assert "ENV PIP_CONFIG_FILE=/run/secrets/pip\n" in stage(rendered, "build")
    assert "secret" not in stage(rendered, "ship")


def test_an_edited_one_is_known() -> None:
    rendered = text()
    assert not is_edited(rendered)
    assert not is_edited(rendered.replace("\n", "\r\n"))
    assert is_edited(rendered + "\n")
    assert is_edited(rendered.replace("1000", "1001"))
    assert is_edited(rendered.partition("\n")[2])
    assert is_edited("FROM scratch\n")
    assert is_edited("")


@given(st.text())
def test_any_title_stays_between_its_quotes(title: str) -> None:
    rendered = render(Choices(title=title), "0.1.0")
    (line,) = [each for each in rendered.split("\n") if "image.title=" in each]
    label = re.fullmatch(r'LABEL org\.opencontainers\.image\.title="(.*)"', line, re.DOTALL)
    assert label
    assert not re.search(r'(?<!\\)(\\\\)*["$]', label[1])


@pytest.mark.parametrize(
    ("image", "halves"),
    [
        ("python:3.13", ("python", "3.13")),
        ("host:5000/a/b:1", ("host:5000/a/b", "1")),
        ("a:1@sha256:ff", ("a", "1@sha256:ff")),
    ],
)
def test_split_image(image: str, halves: tuple[str, str]) -> None:
    assert split_image(image) == halves


@pytest.mark.parametrize("image", ["python", "host:5000/python", "a@sha256:ff", ""])
def test_an_image_without_a_tag(image: str) -> None:
    with pytest.raises(UsageError, match="does not say which version"):
        split_image(image)


@pytest.mark.parametrize(
    "native", ["ENV WATCHDOG native", "ENV A=b WATCHDOG=native", "env watchdog=native"]
)
def test_native_however_it_is_written(native: str) -> None:
    assert read_choices(native, Choices(title="x")).watchdog == "native"
    assert read_choices("ENV MODE=native", Choices(title="x")).watchdog == "of-watchdog"


def test_fill() -> None:
    template = "a\n%if x\n%%{one}\n%else\n$two ${three}\n%end\n%if not y\nb\n%end\n"
    values = {"one": "1"}
    for x, y in itertools.product((True, False), repeat=2):
        expected = f"a\n{'1' if x else '$two ${three}'}\n" + ("" if y else "b\n")
        assert fill(template, values, {"x": x, "y": y}) == expected


def test_the_standard_library_that_is_compiled_is_all_that_the_server_needs() -> None:
    """So that with a base without bytecode, too, no start compiles anything."""
    server = (
        "fnship.server.process, fnship.server.single, fnship.server.workers, aiohttp, uvloop, "
        "fnship.function.state_aiohttp, fnship.function.state_urllib3, fnship.function.log_http"
    )
    assert standard_library(server) - standard_library(dockerfile._STDLIB) == set()


def standard_library(modules: str) -> set[str]:
    """The modules of the standard library, written in Python, that importing `modules` loads."""
    code = (
        f"import {modules}\n"
        "import sys, sysconfig\n"
        "top = sysconfig.get_path('stdlib')\n"
        "for name, module in sys.modules.items():\n"
        "    file = getattr(module, '__file__', None) or ''\n"
        "    if file.startswith(top) and file.endswith('.py') and '-packages' not in file:\n"
        "        print(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


# The page that describes it

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "image.md").read_text(encoding="utf-8")


def described(heading: str) -> dict[str, str]:
    """The first two columns of the table below a heading, without code marks."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", section, re.MULTILINE)
    return {name: value.strip().strip("`") for name, value in cells}


def test_each_build_argument_is_described() -> None:
    rendered = text()
    own = dict(re.findall(r'^ARG (\w+)="?([^"\n]*)"?$', rendered, re.MULTILINE))
    page = described("Build arguments")
    assert page.keys() == own.keys() | {"TARGETPLATFORM"}
    for name, value in own.items():
        assert page[name] in (value or "none", "installs pytest and runs it"), name


def test_each_variable_is_described() -> None:
    assert described("Variables") == GUIDE_ENV


def test_each_stage_is_described() -> None:
    assert list(described("Stages")) == stages(text())
