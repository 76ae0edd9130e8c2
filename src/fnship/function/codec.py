"""JSON in and out: every JSON type survives, and what is no JSON is refused, never bent.

Encoding first looks whether a value is made of plain JSON types only, which nearly every
answer is; msgspec then writes it in one go. Anything else is turned into plain types one
value at a time, so that a refusal can name the type and its place.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import json
import math
import pathlib
import sys
import types
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NoReturn

import msgspec

from fnship.errors import MalformedJSON, NotJSON

__all__ = ["decode", "encode"]

_DEPTH_LIMIT: Final = 200  # levels; each takes three frames of Python's 1000
_BOM: Final = b"\xef\xbb\xbf"
_ATOMS: Final = frozenset({str, int, bool, type(None)})
_BYTES: Final = (bytes, bytearray, memoryview)
_WRITTEN_BY_MSGSPEC: Final = (
    dt.datetime,
    dt.date,
    dt.time,
    dt.timedelta,
    uuid.UUID,
    decimal.Decimal,
)
_WRITTEN_AS_TEXT: Final = (
    pathlib.PurePath,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
)

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def decode(data: bytes | bytearray) -> Any:
    """Read JSON. Integers of any size stay exact; of duplicate keys the last one wins.

    Args:
        data: UTF-8 text, with or without a byte order mark.

    Raises:
        MalformedJSON: It is no JSON; says where it broke.
    """
    data = data.removeprefix(_BOM)
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as exc:
        raise MalformedJSON(_what_broke(bytes(data), exc)) from None


def _what_broke(data: bytes, cause: Exception) -> str:
    """Say what is wrong and where; msgspec's own words often have no place in them."""
    if isinstance(cause, RecursionError):
        return "nested too deeply"
    if not data.strip():
        return "empty"
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        return f"invalid UTF-8 at byte {exc.start}"
    try:
        json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as exc:
        problem = (exc.msg[:1].lower() + exc.msg[1:]).removesuffix(" at")
        return f"{problem} at line {exc.lineno} column {exc.colno} (character {exc.pos})"
    except RecursionError:
        return "nested too deeply"
    except ValueError as exc:
        if str(exc).startswith("Exceeds the limit"):
            return f"an integer has more than {sys.get_int_max_str_digits()} digits"
        return str(exc)
    # What only msgspec refuses: a lone surrogate, or a number that no float can hold.
    if isinstance(cause, msgspec.ValidationError):
        return "a number is out of range"
    return "a \\u escape is half of a surrogate pair"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def encode(value: Any, root: str = "result") -> bytes:
    """Write `value` as JSON.

    Beside JSON's own types: tuples, sets and other collections become arrays; mappings and
    dataclasses, msgspec, pydantic and attrs objects become objects; an Enum its value; dates,
    times, UUIDs, Decimals (exactly), paths and IP addresses become text.

    Args:
        value: What to write.
        root: What a refusal calls `value`.

    Raises:
        NotJSON: NaN or an infinity, bytes, a lone surrogate, a circular or too deep structure,
            or an object of another type; names it and its place.
    """
    try:
        if _is_plain(value):
            return _encode(value)
    except (RecursionError, UnicodeEncodeError, ValueError):
        pass  # something is wrong in it, and the walk below will say what and where
    walk = _Walk(root)
    try:
        return _encode(walk.plain(value))
    except NotJSON:
        raise
    except RecursionError:
        raise NotJSON("is nested too deeply", type_name=_name(value), key_path=root) from None
    except Exception as exc:
        # A generator, a property or a serializer of the user's own raised.
        raise walk.broken(exc) from exc


def _is_plain(value: Any) -> bool:
    """Whether `value` is of exact JSON types throughout, so that msgspec writes it faithfully."""
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                return False
            if type(item) not in _ATOMS and not _is_plain(item):
                return False
        return True
    if kind is list or kind is tuple:
        if _ATOMS.issuperset(map(type, value)):
            return True
        return all(map(_is_plain, value))
    if kind is float:
        return math.isfinite(value)
    return kind in _ATOMS


class _Walk:
    """Turns one value into plain JSON types, and knows where in it it stands."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._path: list[str | int] = []
        self._open: set[int] = set()  # ids of the containers around the current value

    def broken(self, exc: Exception) -> NotJSON:
        """What to raise where a value's own code failed while it was read."""
        name = _name(exc)
        return NotJSON(
            f"cannot be turned into JSON: {name}: {exc}", type_name=name, key_path=self._where()
        )

    def plain(self, value: Any) -> Any:
        kind = type(value)
        if kind is bool or value is None:
            return value
        if isinstance(value, enum.Enum):
            return self.plain(value.value)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return self._integer(int(value))
        if isinstance(value, float):
            return self._number(float(value))
        if isinstance(value, _BYTES):
            self._refuse(value, "decode it to text, or encode it with base64")
        if isinstance(value, _WRITTEN_BY_MSGSPEC):
            return self._written(value)
        if isinstance(value, _WRITTEN_AS_TEXT):
            return str(value)
        if isinstance(value, msgspec.Raw):
            return self.plain(decode(bytes(value)))
        return self._container(value)

    def _container(self, value: Any) -> Any:
        if id(value) in self._open:
            self._fail("contains itself", value)
        if len(self._open) >= _DEPTH_LIMIT:
            self._fail(f"is nested deeper than {_DEPTH_LIMIT} levels", value)
        self._open.add(id(value))
        try:
            if isinstance(value, Mapping):
                return self._object(value.items())
            if isinstance(value, Sequence | AbstractSet | deque | types.GeneratorType):
                return self._array(value)
            if isinstance(value, msgspec.Struct):
                return self._struct(value)
            if not isinstance(value, type):
                if dataclasses.is_dataclass(value):
                    names = (each.name for each in dataclasses.fields(value))
                    return self._object((name, getattr(value, name)) for name in names)
                if hasattr(value, "__pydantic_serializer__") and hasattr(value, "model_dump"):
                    return self.plain(value.model_dump(mode="json", by_alias=True))
                if hasattr(value, "__attrs_attrs__"):
                    names = (each.name for each in value.__attrs_attrs__)
                    return self._object((name, getattr(value, name)) for name in names)
            self._refuse(value, "return its plain values instead")
        finally:
            self._open.discard(id(value))

    def _object(self, items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        result = {}
        for key, item in items:
            name = self._key(key)
            self._path.append(name)
            result[name] = self.plain(item)
            self._path.pop()
        return result

    def _array(self, items: Iterable[Any]) -> list[Any]:
        result = []
        for index, item in enumerate(items):
            self._path.append(index)
            result.append(self.plain(item))
            self._path.pop()
        return result

    def _struct(self, value: msgspec.Struct) -> Any:
        """A msgspec object, by its own configuration: names, tag, array, omitted defaults."""
        config = value.__struct_config__
        pairs = []
        if config.tag is not None:
            pairs.append((config.tag_field, config.tag))
        for each in msgspec.structs.fields(value):
            item = getattr(value, each.name)
            if item is msgspec.UNSET:
                continue
            default = (
                each.default_factory()
                if each.default_factory is not msgspec.NODEFAULT
                else each.default
            )
            if config.omit_defaults and not config.array_like and item == default:
                continue
            pairs.append((each.encode_name, item))
        if config.array_like:
            return self._array(item for _, item in pairs)
        return self._object(pairs)

    def _key(self, key: Any) -> str:
        if isinstance(key, enum.Enum):
            key = key.value
        if isinstance(key, str):
            return self._text(key)
        if key is None:
            return "null"
        if isinstance(key, bool):
            return "true" if key else "false"
        if isinstance(key, int):
            return str(self._integer(int(key)))
        if isinstance(key, float):
            return repr(self._number(float(key)))
        if isinstance(key, _WRITTEN_BY_MSGSPEC):
            return str(self._written(key))
        if isinstance(key, _WRITTEN_AS_TEXT):
            return str(key)
        raise NotJSON(
            f"has a key of type {_name(key)}, which JSON cannot carry; use text",
            type_name=_name(key),
            key_path=self._where(),
        )

    def _text(self, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            self._fail(f"has a lone surrogate at character {exc.start}", value)
        return str.__str__(value)

    def _integer(self, value: int) -> int:
        # Python itself refuses to write or read an integer of more digits than this.
        limit = sys.get_int_max_str_digits()
        if limit and value.bit_length() > limit * 3:
            try:
                str(value)
            except ValueError:
                self._fail(f"is an integer of more than {limit} digits", value)
        return value

    def _number(self, value: float) -> float:
        if not math.isfinite(value):
            self._fail(f"is {value}, which JSON cannot carry", value)
        return value

    def _written(self, value: Any) -> Any:
        if isinstance(value, decimal.Decimal) and not value.is_finite():
            self._fail(f"is {value}, which JSON cannot carry", value)
        return msgspec.to_builtins(value)

    def _refuse(self, value: Any, mend: str) -> NoReturn:
        self._fail(f"is of type {_name(value)}, which JSON cannot carry; {mend}", value)

    def _fail(self, problem: str, value: Any) -> NoReturn:
        raise NotJSON(problem, type_name=_name(value), key_path=self._where())

    def _where(self) -> str:
        parts = [
            f"[{part}]" if isinstance(part, int) else f"[{json.dumps(part)}]" for part in self._path
        ]
        return self._root + "".join(parts)


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
