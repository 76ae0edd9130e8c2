"""Makes installed packages small and quick to import: ``python -m fnship.image.slim PREFIX``.

The Dockerfile runs it once after each ``pip install``. Wheels of compiled packages often carry
their debug information, which a container never reads: it is most of their size. And bytecode
is compiled here, because the container's user cannot write it, least of all on a read-only root.
"""

from __future__ import annotations

import base64
import compileall
import csv
import hashlib
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Final

__all__ = ["main", "slim", "without_debug_information"]

# ELF, 64 bit: the file header, a program header, a section header.
_HEADER: Final = "16sHHIQQQIHHHHHH"
_SEGMENT: Final = "IIQQQQQQ"
_SECTION: Final = "IIQQQQIIQQ"
_SHARED_OBJECT: Final = 3  # e_type
_LOADED: Final = 2  # sh_flags: SHF_ALLOC
_NO_BYTES: Final = 8  # sh_type: SHT_NOBITS
_STRINGS: Final = 3  # sh_type: SHT_STRTAB
_WORTH_IT: Final = 4096  # bytes; less is no gain on a disk


@dataclass(frozen=True, slots=True)
class _Section:
    name: bytes
    fields: tuple[int, ...]  # as in the file, but for the name at the front

    @property
    def loaded(self) -> bool:
        return bool(self.fields[1] & _LOADED)

    @property
    def end(self) -> int:
        """Where its bytes end in the file."""
        return 0 if self.fields[0] == _NO_BYTES else self.fields[3] + self.fields[4]


def without_debug_information(data: bytes) -> bytes | None:
    """A shared object without what is not loaded into memory: symbols and debug information.

    What is loaded keeps its place byte by byte, so nothing that it refers to moves.

    Args:
        data: A shared object, or anything else.

    Returns:
        The smaller shared object; None where `data` is none of a kind that this knows, or
        would not become smaller.
    """
    try:
        return _stripped(data)
    except (struct.error, IndexError, OverflowError, ValueError):
        return None  # cut short, or not what its header says


def _stripped(data: bytes) -> bytes | None:
    if data[:5] != b"\x7fELF\x02" or data[5] not in (1, 2):
        return None
    order = "<" if data[5] == 1 else ">"
    header = list(struct.unpack_from(order + _HEADER, data))
    segments_at, sections_at, segments, count, names = (header[i] for i in (5, 6, 10, 12, 13))
    if header[1] != _SHARED_OBJECT or not segments or not 0 < names < count:
        return None
    if (header[9], header[11]) != (struct.calcsize(order + _SEGMENT), _section_size(order)):
        return None
    end = segments_at + segments * header[9]
    for index in range(segments):
        segment = struct.unpack_from(order + _SEGMENT, data, segments_at + index * header[9])
        end = max(end, segment[2] + segment[5])
    sections = _sections(data, order, sections_at, count, names)
    kept = [section for section in sections[1:] if section.loaded]
    # Symbols refer to sections by their number, so what goes must stand behind what stays.
    if kept != sections[1 : len(kept) + 1] or any(section.end > end for section in kept):
        return None
    if end > len(data):
        return None
    table = bytearray(b"\0")
    rows = [bytes(_section_size(order))]
    strings = _Section(b".shstrtab", (_STRINGS, 0, 0, end, 0, 0, 0, 1, 0))
    for section in [*kept, strings]:
        fields = section.fields
        name_at = len(table)
        table += section.name + b"\0"
        if section is strings:
            fields = (*fields[:4], len(table), *fields[5:])
        rows.append(struct.pack(order + _SECTION, name_at, *fields))
    padding = -(end + len(table)) % 8
    header[6], header[12], header[13] = end + len(table) + padding, len(rows), len(rows) - 1
    smaller = b"".join(
        (
            struct.pack(order + _HEADER, *header),
            data[struct.calcsize(order + _HEADER) : end],
            table,
            bytes(padding),
            *rows,
        )
    )
    return smaller if len(smaller) + _WORTH_IT <= len(data) else None


def _section_size(order: str) -> int:
    return struct.calcsize(order + _SECTION)


def _sections(data: bytes, order: str, at: int, count: int, names: int) -> list[_Section]:
    size = _section_size(order)
    rows = [struct.unpack_from(order + _SECTION, data, at + i * size) for i in range(count)]
    strings = data[rows[names][4] : rows[names][4] + rows[names][5]]
    return [_Section(strings[row[0] : strings.index(b"\0", row[0])], row[1:]) for row in rows]


def slim(prefix: Path) -> int:
    """Strip the shared objects below `prefix`, and compile its modules to bytecode.

    The bytecode is not checked against its source when it is imported, so that it stays good
    whatever a builder does to the times of files. A module that does not compile is left: some
    packages carry such files on purpose.

    Args:
        prefix: Where packages have been installed.

    Returns:
        How many bytes the shared objects lost.
    """
    saved = 0
    changed: dict[Path, bytes] = {}
    for path in sorted(prefix.rglob("*.so*")):
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        smaller = without_debug_information(data)
        if smaller is not None:
            _replace(path, smaller)
            changed[path] = smaller
            saved += len(data) - len(smaller)
    _correct_records(prefix, changed)
    compileall.compile_dir(
        prefix,
        quiet=2,
        maxlevels=100,
        force=True,  # also where pip has compiled it, and the time in it still fits
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )
    return saved


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.chmod(path.stat().st_mode)
    part.replace(path)


def _correct_records(prefix: Path, changed: dict[Path, bytes]) -> None:
    """Write the new digests and sizes into each package's list of files."""
    if not changed:
        return
    for record in prefix.rglob("*.dist-info/RECORD"):
        with record.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
        for row in rows:
            data = changed.get(Path(os.path.normpath(record.parents[1] / row[0])))
            if data is not None:
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
                row[1:] = [f"sha256={digest.decode().rstrip('=')}", str(len(data))]
        with record.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Slim what is installed in each of `arguments`, and say what it saved.

    Returns:
        0; or 2, where one of them is no folder.
    """
    for name in sys.argv[1:] if arguments is None else arguments:
        prefix = Path(name)
        if not prefix.is_dir():
            sys.stderr.write(f"fnship: error: {prefix} is no folder\n")
            return 2
        saved = slim(prefix.resolve())
        sys.stdout.write(f"fnship: {prefix} is {saved / 1e6:.1f} MB smaller\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
