"""What is sent to a builder, and the secrets among it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.cli.scaffold import render_file
from fnship.errors import UsageError
from fnship.image.context import Ignored, check_secrets, sent_files

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("rule", "left_out", "sent"),
    [
        ("a", ["a", "a/b", "a/b/c"], ["b", "b/a", "aa"]),
        ("/a/", ["a", "a/b"], ["b/a"]),
        ("./a", ["a"], ["b"]),
        ("*.py", ["x.py"], ["d/x.py", "x.pyc"]),
        ("**/*.py", ["x.py", "d/x.py", "d/e/x.py"], ["x.pyc"]),
        ("**/.env", [".env", "function/.env"], [".environment", "a.env"]),
        ("a/**", ["a/b", "a/b/c"], ["b"]),
        ("**", ["a", "a/b"], []),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("a\\*b", ["a*b"], ["axb"]),
        ("a.b", ["a.b"], ["axb"]),
        ("# a", [], ["# a", "a"]),
        ("", [], ["a"]),
        (".", [], ["a"]),
        ("a\n!a/b", ["a", "a/c"], ["a/b", "a/b/c"]),
        ("!a\na", ["a"], []),
        ("*\n!a*\nab", ["b", "ab"], ["a", "ac"]),
    ],
)
def test_rules(rule: str, left_out: list[str], sent: list[str]) -> None:
    ignored = Ignored(rule)
    assert [path for path in left_out if not ignored(path)] == []
    assert [path for path in sent if ignored(path)] == []


rules = st.text("ab*?[]^-!/\\.#&|~ \n") | st.text()


@given(rules, st.text(min_size=1))
def test_any_rule_can_be_asked(text: str, path: str) -> None:
    with suppress(re.error):  # such as the range [b-a]
        assert Ignored(text)(path) in (True, False)


def test_what_is_sent(tmp_path: Path) -> None:
    write(tmp_path, a="1", d__b="2", d__e__c="3", skipped__x="4", skipped__keep="5")
    write(tmp_path, **{".dockerignore": "skipped\n!skipped/keep\n"})
    assert list(sent_files(tmp_path)) == [".dockerignore", "a", "d/b", "d/e/c", "skipped/keep"]


def test_what_fnship_new_leaves_out(tmp_path: Path) -> None:
    write(tmp_path, **{".dockerignore": render_file(".dockerignore")})
    write(
        tmp_path,
        **{".git/config": "", ".venv/x": "", "function/__pycache__/x.pyc": "", ".env": "A=1"},
        **{"function/.env.local": "A=1", "tests/test_x.py": "", "function/x.py": "", "main.py": ""},
    )
    (tmp_path / "function" / "__pycache__").mkdir()
    (tmp_path / "function" / "__pycache__" / "y.cpython-313.pyc").touch()
    (tmp_path / "tests" / "__init__.py").touch()
    assert list(sent_files(tmp_path)) == [
        "main.py",
        "function/x.py",
        "tests/__init__.py",
        "tests/test_x.py",
    ]
    check_secrets(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *(".env", "function/.env", "function/.env.production", ".netrc", "pip.conf", ".pypirc"),
        *("function/id_rsa", "function/.aws/credentials", ".docker/config.json"),
    ],
)
def test_secrets_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("TOKEN=very-secret\n")
    with pytest.raises(UsageError) as caught:
        check_secrets(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{name} would be copied into the image")
    assert ".dockerignore" in said
    assert "--env-file" in said
    assert "very-secret" not in said
    rule = said.partition("with a line ")[2].partition(" in .dockerignore")[0]
    (tmp_path / ".dockerignore").write_text(f"{rule}\n")
    check_secrets(tmp_path)


def test_private_keys_by_their_content(tmp_path: Path) -> None:
    write(
        tmp_path, **{"function/server.pem": KEY, "function/ca.pem": "-----BEGIN CERTIFICATE-----"}
    )
    write(tmp_path, **{"tests/server.pem": KEY, "function/data.bin": KEY})
    with pytest.raises(UsageError, match=r"^function/server\.pem would be copied"):
        check_secrets(tmp_path)


def test_what_only_looks_like_a_secret(tmp_path: Path) -> None:
    write(
        tmp_path, **{".env.example": "TOKEN=", "function/environment.py": "", "function/.env": ""}
    )
    (tmp_path / "id_rsa").mkdir()
    (tmp_path / ".netrc").symlink_to(tmp_path / "nowhere")
    check_secrets(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[b-a]x\n"])
def test_rules_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".dockerignore").write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot read .*\.dockerignore"):
        check_secrets(tmp_path)
