"""The data folder: for one engine at a time, and for its owner alone."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fnship.engine.data import DataFolder
from fnship.errors import UsageError

HOLD = """
import sys
from pathlib import Path
from fnship.engine.data import DataFolder
folder = DataFolder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.token()
    folder.close()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.path.iterdir()} == {0o600}


def test_secrets_stay_and_differ_by_their_purpose(tmp_path: Path) -> None:
    first = DataFolder(tmp_path)
    kept = first.secret("a"), first.secret("b"), first.token()
    first.close()
    second = DataFolder(tmp_path)
    assert (second.secret("a"), second.secret("b"), second.token()) == kept
    second.close()
    assert len({*kept[:2]}) == 2
    assert len(kept[0]) == 32


def test_one_that_is_in_use_names_who_uses_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        try:
            with pytest.raises(UsageError, match=rf"process {child.pid},"):
                DataFolder(tmp_path)
        finally:
            child.kill()
    DataFolder(tmp_path).close()  # the lock died with its process


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(UsageError, match="--data"):
        DataFolder(tmp_path / "data")


def test_a_folder_that_nobody_may_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data"):
        DataFolder(Path("/proc/fnship"))  # not even root may
