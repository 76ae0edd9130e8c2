"""The wheel of the running fnship: pip takes it, and it is the same every time."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import fnship
from fnship.errors import UsageError
from fnship.image import wheel
from fnship.image.wheel import own_wheel, wheel_name

INFO = f"fnship-{fnship.__version__}.dist-info"


@pytest.fixture(scope="module")
def archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(own_wheel()[1]))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in, with pip as users have it."""
    folder = tmp_path_factory.mktemp("installed")
    name, content = own_wheel()
    (folder / name).write_bytes(content)
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run(
        [*pip, "--no-deps", "--no-index", "--target", str(target), f"./{name}"],
        cwd=folder,
        check=True,
    )
    return target


def test_its_name() -> None:
    assert own_wheel()[0] == wheel_name(fnship.__version__)
    assert wheel_name("1.2.3") == "fnship-1.2.3-py3-none-any.whl"
    assert wheel_name("1.0-rc1") == "fnship-1.0_rc1-py3-none-any.whl"


def test_it_holds_the_packages_and_nothing_else(archive: zipfile.ZipFile) -> None:
    root = Path(fnship.__file__).parents[1]
    names = [name for name in archive.namelist() if not name.startswith(INFO)]
    assert {name.partition("/")[0] for name in names} == {"fnship", "python_sdk_rafay_workflow"}
    for name in names:
        assert archive.read(name) == (root / name).read_bytes(), name
    assert {"fnship/py.typed", "fnship/templates/Dockerfile.tmpl"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    own = {name.removeprefix(f"{INFO}/") for name in archive.namelist() if name.startswith(INFO)}
    assert own == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_its_record_is_right(archive: zipfile.ZipFile) -> None:
    rows = list(csv.reader(io.StringIO(archive.read(f"{INFO}/RECORD").decode())))
    assert [row[0] for row in rows] == archive.namelist()
    assert rows[-1] == [f"{INFO}/RECORD", "", ""]
    for name, digest, size in rows[:-1]:
        content = archive.read(name)
        expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
        assert (digest, int(size)) == (f"sha256={expected.rstrip('=')}", len(content))


def test_the_same_files_give_the_same_bytes() -> None:
    assert own_wheel() == own_wheel()


def test_litter_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "fnship"
    (package / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "a.py", "a.py~", ".a.swp", "a.pyc", "__pycache__/a.pyc"):
        (package / name).touch()
    monkeypatch.setattr(wheel, "_PACKAGES", ("fnship",))
    monkeypatch.setattr(
        wheel.importlib.util,
        "find_spec",
        lambda _: wheel.importlib.machinery.ModuleSpec("fnship", None, is_package=True),
    )
    spec = wheel.importlib.util.find_spec("fnship")
    spec.submodule_search_locations.append(str(package))
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda _: spec)
    archive = zipfile.ZipFile(io.BytesIO(own_wheel()[1]))
    assert [name for name in archive.namelist() if not name.startswith(INFO)] == [
        "fnship/__init__.py",
        "fnship/a.py",
    ]


def test_pip_installs_it_and_it_writes_itself_again(installed: Path, tmp_path: Path) -> None:
    name, content = own_wheel()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import fnship.image.wheel as w\n"
        "assert w.__file__.startswith(sys.argv[1])\n"
        "name, content = w.own_wheel()\n"
        "open(name, 'wb').write(content)\n"
    )

    def write() -> bytes:
        subprocess.run([sys.executable, "-I", "-c", code, str(installed)], cwd=tmp_path, check=True)
        return (tmp_path / name).read_bytes()

    assert write() == content
    # The file that it was installed from is used where it is still there, and still the same.
    origin = installed.parent / name
    assert json.loads((installed / INFO / "direct_url.json").read_text())["url"] == origin.as_uri()
    (installed / "fnship" / "changed.py").touch()
    assert write() == content
    origin.write_bytes(b"another")
    assert write() != content
    origin.unlink()
    changed = zipfile.ZipFile(io.BytesIO(write()))
    assert "fnship/changed.py" in changed.namelist()
    (installed / "fnship" / "changed.py").unlink()
    assert write() == content


def test_not_installed(tmp_path: Path) -> None:
    """Run from its source alone, by a Python that has no fnship."""
    venv.create(tmp_path / "bare", with_pip=False)
    source = Path(fnship.__file__).parents[1]
    code = "from fnship.image.wheel import own_wheel\nown_wheel()"
    done = subprocess.run(
        [tmp_path / "bare" / "bin" / "python", "-c", code],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
    )
    assert "UsageError: fnship runs from a folder that it is not installed from" in done.stderr


def test_half_of_one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fnship, "__version__", "99.0")
    with pytest.raises(UsageError, match=r"fnship 99\.0 runs, but .* is what is installed"):
        own_wheel()
