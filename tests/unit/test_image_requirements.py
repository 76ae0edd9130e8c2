"""Requirements files, read far enough to say on which line something stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.errors import UsageError
from fnship.image.requirements import canonical, find, read_requirements

ROOT = """\
# what serves
./wheels/fnship-0.1.0-py3-none-any.whl[flask]  # by path
--extra-index-url https://example.com/simple
Requests[security]==2.32.5 ; python_version > "3"   # why

long-one==1.0 \\
    --hash=sha256:00 \\
    --hash=sha256:11
-r more.txt
Typing.Extensions
part @ https://example.com/part-1.0.tar.gz
~~~
"""


def write(folder: Path, root: str, function: str | None = None) -> Path:
    (folder / "requirements.txt").write_text(root, encoding="utf-8")
    if function is not None:
        (folder / "function").mkdir()
        (folder / "function" / "requirements.txt").write_text(function, encoding="utf-8")
    return folder


def test_what_stands_where(tmp_path: Path) -> None:
    found = read_requirements(write(tmp_path, ROOT, "\ufeffidna>=3\r\nrequests\r\n"))
    assert [(each.place, each.name, each.path) for each in found] == [
        ("requirements.txt:2", "fnship", "./wheels/fnship-0.1.0-py3-none-any.whl"),
        ("requirements.txt:4", "requests", ""),
        ("requirements.txt:6", "long-one", ""),
        ("requirements.txt:10", "typing-extensions", ""),
        ("requirements.txt:11", "part", ""),
        ("function/requirements.txt:1", "idna", ""),
        ("function/requirements.txt:2", "requests", ""),
    ]
    assert "--hash=sha256:11" in found[2].text
    requests = find(found, "REQUESTS")
    assert requests is not None
    assert requests.place == "requirements.txt:4"
    assert find(found, "nonesuch") is None


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no requirements\.txt in .*what serves"):
        read_requirements(tmp_path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"idna\n\xff\n")
    with pytest.raises(UsageError, match=r"requirements\.txt is not UTF-8: byte 6"):
        read_requirements(tmp_path)
    (tmp_path / "requirements.txt").unlink()
    (tmp_path / "requirements.txt").mkdir()
    with pytest.raises(UsageError, match=r"cannot read .*requirements\.txt: Is a directory"):
        read_requirements(tmp_path)


@given(st.text())
def test_whatever_stands_there(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "requirements.txt").write_text(text, encoding="utf-8", errors="replace")
    for each in read_requirements(folder):
        assert each.name == canonical(each.name)
        assert each.line >= 1
