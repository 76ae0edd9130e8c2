"""Shared objects without debug information: smaller, and as good as before."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.image.slim import main, slim, without_debug_information

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: ELF files")
SITE = Path(sysconfig.get_path("platlib"))
COMPILED = ("uvloop", "httptools", "aiohttp", "msgspec", "multidict")
CHECK = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import aiohttp, httptools, msgspec, multidict, uvloop
for each in (aiohttp, httptools, msgspec, multidict, uvloop):
    assert each.__file__.startswith(sys.argv[1]), each
async def fetch():
    async def answer(reader, writer):
        await reader.readuntil(b"\\r\\n\\r\\n")
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 8\\r\\n\\r\\n[1, 2.5]")
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/") as response:
            found = msgspec.json.decode(await response.read())
    server.close()
    return found
assert uvloop.run(fetch()) == [1, 2.5]
assert httptools.parse_url(b"http://a/b").path == b"/b"
try:
    msgspec.json.decode(b"{")
except msgspec.DecodeError:  # an exception through compiled code
    print("good")
"""


def shared_objects(*packages: str) -> list[Path]:
    return [path for each in packages for path in sorted((SITE / each).rglob("*.so"))]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with compiled packages, and what pip writes about them."""
    folder = tmp_path_factory.mktemp("site")
    for name in (*COMPILED, "yarl", "frozenlist", "propcache", "aiosignal", "attr", "idna"):
        shutil.copytree(SITE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for info in SITE.glob(f"{name}-*.dist-info"):
            shutil.copytree(info, folder / info.name)
    shutil.copytree(SITE / "aiohappyeyeballs", folder / "aiohappyeyeballs")
    return folder


@LINUX
def test_packages_work_without_it(installed: Path) -> None:
    sizes = {path: path.stat().st_size for path in installed.rglob("*.so")}
    modes = {path: path.stat().st_mode for path in sizes}
    saved = slim(installed)
    now = {path: path.stat().st_size for path in installed.rglob("*.so")}
    assert saved == sum(sizes.values()) - sum(now.values())
    assert {path: path.stat().st_mode for path in now} == modes
    done = subprocess.run(
        [sys.executable, "-I", "-c", CHECK, str(installed)], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("good\n", "")
    # What is done is done: nothing changes a second time.
    assert slim(installed) == 0
    assert {path: path.stat().st_size for path in installed.rglob("*.so")} == now


@LINUX
def test_the_records_of_packages_stay_right(installed: Path) -> None:
    slim(installed)
    seen = 0
    for record in installed.glob("*.dist-info/RECORD"):
        for name, digest, size in csv.reader(record.read_text().splitlines()):
            path = installed / name
            if not digest or "__pycache__" in name or not path.exists():
                continue
            content = path.read_bytes()
            expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
            assert digest == f"sha256={expected.rstrip('=')}", name
            assert int(size) == len(content)
            seen += 1
    assert seen > 100


@LINUX
def test_every_module_has_unchecked_bytecode(installed: Path) -> None:
    (installed / "broken.py").write_text("def f(:\n")  # as some packages' templates are
    slim(installed)
    for source in installed.rglob("*.py"):
        cached = Path(importlib.util.cache_from_source(str(source)))
        if source.name == "broken.py":
            assert not cached.exists()
            continue
        # PEP 552: the second word is 1 for a hash that is not checked.
        assert cached.read_bytes()[4:8] == (1).to_bytes(4, "little"), source


@LINUX
def test_a_shared_object_keeps_what_is_loaded() -> None:
    shrunk = 0
    for path in shared_objects(*COMPILED):
        data = path.read_bytes()
        smaller = without_debug_information(data)
        if smaller is None:
            continue
        shrunk += 1
        assert len(smaller) < len(data)
        assert smaller[64:1024] == data[64:1024]
        assert without_debug_information(smaller) is None
        if shutil.which("readelf"):
            for kind in ("--dyn-syms", "--dynamic", "--program-headers", "--relocs"):
                assert readelf(kind, smaller) == readelf(kind, data), path
    assert shrunk or not shared_objects(*COMPILED)


def readelf(kind: str, data: bytes) -> list[str]:
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(data)
        file.flush()
        done = subprocess.run(
            ["readelf", "--wide", kind, file.name], capture_output=True, text=True, check=True
        )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if "File:" not in line]


@given(st.binary())
def test_what_is_no_shared_object_is_left(data: bytes) -> None:
    assert without_debug_information(data) is None
    assert without_debug_information(b"\x7fELF\x02\x01\x01" + data) is None


@LINUX
@given(st.data())
def test_a_damaged_one_is_left_or_well_formed(data: st.DataObject) -> None:
    whole = min(shared_objects("httptools"), key=lambda path: path.stat().st_size).read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    assert cut > len(whole) - 64 or without_debug_information(whole[:cut]) is None
    place = data.draw(st.integers(0, 63))
    changed = whole[:place] + data.draw(st.binary(min_size=1, max_size=4)) + whole[place + 1 :]
    smaller = without_debug_information(changed)
    assert smaller is None or len(smaller) < len(changed)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"fnship: {tmp_path} is 0.0 MB smaller\n"
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"fnship: error: {tmp_path / 'nowhere'} is no folder\n"


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "out" / "x.so").write_bytes(b"\x7fELF")
    (tmp_path / "in" / "x.so").symlink_to(tmp_path / "out" / "x.so")
    (tmp_path / "in" / "y.so").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "z.so").mkdir()
    assert slim(tmp_path / "in") == 0
    assert (tmp_path / "in" / "x.so").is_symlink()
