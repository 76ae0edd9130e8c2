"""What builders and pip write when a build fails, as they wrote it here, and what it means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.image.failures import Failure, contradictions, explain
from fnship.image.requirements import Requirement, read_requirements

REQUIREMENTS = [
    Requirement("requirements.txt", 2, "./wheels/fnship-0.1.0-py3-none-any.whl", "fnship", "x.whl"),
    Requirement("function/requirements.txt", 1, "idna==999", "idna", ""),
    Requirement("function/requirements.txt", 3, "psycopg2", "psycopg2", ""),
]
ARGUMENTS = {"PYTHON_IMAGE_REPO": "python", "PYTHON_IMAGE_TAG": "3.13-nonesuch"}
OUTPUT = (Path(__file__).parent / "builder_failures.txt").read_text(encoding="utf-8")
CASES = {
    name: (output.replace("ESC", "\x1b"), meaning)
    for name, output, meaning in re.findall(r"^== (.*)\n((?:.*\n)*?)=> (.*)$", OUTPUT, re.MULTILINE)
}


def test_every_case_is_read() -> None:
    assert len(CASES) == OUTPUT.count("\n== ") == OUTPUT.count("\n=> ")


@pytest.mark.parametrize("case", CASES)
def test_explained(case: str) -> None:
    output, meaning = CASES[case]
    failure = Failure(
        lines=output.splitlines(),
        requirements=REQUIREMENTS,
        arguments=ARGUMENTS,
        folder="/here/hello",
    )
    said = explain(failure)
    assert said.startswith(meaning)
    assert "\n" not in said
    assert "\x1b" not in said


@given(st.lists(st.text()))
def test_anything_a_builder_may_write(lines: list[str]) -> None:
    assert explain(Failure(lines=lines))


def test_the_right_line_where_one_package_is_asked_for_twice(tmp_path: Path) -> None:
    (tmp_path / "function").mkdir()
    (tmp_path / "requirements.txt").write_text("idna>=3\n")
    (tmp_path / "function" / "requirements.txt").write_text("# ours\nidna==999\n")
    failure = Failure(
        lines=["ERROR: No matching distribution found for idna==999"],
        requirements=read_requirements(tmp_path),
    )
    assert explain(failure).startswith("function/requirements.txt:2: idna==999 does not exist")


def test_contradictions() -> None:
    said = (
        "fnship 0.1.0 requires urllib3<3,>=2.5, but you have urllib3 1.26.20 which is incompatible"
    )
    resolver = "#9 0.8 ERROR: pip's dependency resolver does not currently take into account all"
    assert contradictions([resolver, f"#9 0.8 {said}."]) == [said]
    assert contradictions(["all is well"]) == []
