"""JSON in and out, held against the standard library's."""

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
from collections import OrderedDict, UserDict, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fnship.errors import MalformedJSON, NotJSON
from fnship.function import codec

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30
)
BOM = b"\xef\xbb\xbf"


# Writing


@given(VALUES)
def test_what_is_written_the_standard_library_reads(value: Any) -> None:
    assert json.loads(codec.encode(value)) == value


@given(VALUES)
def test_types_survive(value: Any) -> None:
    assert repr(codec.decode(codec.encode(value))) == repr(value)


@given(VALUES, st.sampled_from([(), (",", ":"), (" ,\n", "\t: ")]), st.booleans())
def test_what_the_standard_library_writes_is_read(
    value: Any, separators: tuple[str, ...], ascii_only: bool
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, separators=separators or None)
    assert repr(codec.decode(text.encode())) == repr(value)


@given(st.integers(min_value=2**63) | st.integers(max_value=-(2**63)))
@example(10**4299)
@example(-(2**64))
def test_big_integers_are_exact(number: int) -> None:
    assert codec.encode({"n": number}) == b'{"n":%d}' % number
    assert codec.decode(b'{"n":%d}' % number) == {"n": number}


@given(VALUES, VALUES)
def test_other_containers_are_written_as_the_nearest_of_json(one: Any, two: Any) -> None:
    class Pair(NamedTuple):
        a: Any
        b: Any

    value = {
        "tuple": (one, two),
        "named": Pair(one, two),
        "deque": deque([one, two]),
        "generator": (each for each in (one, two)),
        "ordered": OrderedDict(a=one, b=two),
        "mapping": UserDict(a=one, b=two),
        "proxy": types.MappingProxyType({"a": one, "b": two}),
    }
    both, named = [one, two], {"a": one, "b": two}
    assert json.loads(codec.encode(value)) == {
        "tuple": both,
        "named": both,
        "deque": both,
        "generator": both,
        "ordered": named,
        "mapping": named,
        "proxy": named,
    }


@given(st.sets(st.integers() | st.text()))
def test_sets_become_lists(value: set[Any]) -> None:
    for each in (value, frozenset(value), dict.fromkeys(value).keys()):
        written = json.loads(codec.encode({"set": each}))["set"]
        assert isinstance(written, list)
        assert len(written) == len(value)
        assert set(written) == value


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


class Word(enum.StrEnum):
    YES = "yes"


@dataclasses.dataclass
class Point:
    x: int
    tags: set[str]


@attrs.define
class Attrs:
    x: int


class Struct(msgspec.Struct, tag="kind", rename="camel"):
    first_name: str
    left: Any = 0


class Array(msgspec.Struct, array_like=True):
    a: int
    b: int = 2


class Sparse(msgspec.Struct, omit_defaults=True):
    a: int = 1
    b: list[int] = []


class Optional(msgspec.Struct):
    a: int | msgspec.UnsetType = msgspec.UNSET


class Model(pydantic.BaseModel):
    when: dt.date
    name: str = pydantic.Field(serialization_alias="Name")


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Real(float):
    pass


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Colour.RED, "red"),
        (Size.SMALL, 1),
        (Word.YES, "yes"),
        (Point(1, {"a"}), {"x": 1, "tags": ["a"]}),
        (Attrs(1), {"x": 1}),
        (Struct("Ada"), {"type": "kind", "firstName": "Ada", "left": 0}),
        (Array(1), [1, 2]),
        (Sparse(), {}),
        (Sparse(2, [3]), {"a": 2, "b": [3]}),
        (Optional(), {}),
        (Model(when=dt.date(2024, 2, 29), name="x"), {"when": "2024-02-29", "Name": "x"}),
        (dt.datetime.fromisoformat("2024-01-02T03:04:05.000006"), "2024-01-02T03:04:05.000006"),
        (dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2024-01-02T03:04:05Z"),
        (dt.date(2024, 1, 2), "2024-01-02"),
        (dt.time(3, 4), "03:04:00"),
        (dt.timedelta(seconds=90), "PT90S"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.10"), "1.10"),
        (decimal.Decimal("1e400"), "1E+400"),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (ipaddress.ip_address("::1"), "::1"),
        (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
        (Text("t"), "t"),
        (Number(3), 3),
        (Real(1.5), 1.5),
        (range(3), [0, 1, 2]),
        (msgspec.Raw(b'{"a": [1]}'), {"a": [1]}),
        ({1: "a", 2.5: "b", None: "d"}, {"1": "a", "2.5": "b", "null": "d"}),
        ({Colour.RED: 1, uuid.UUID(int=0): 2}, {"red": 1, str(uuid.UUID(int=0)): 2}),
        ({dt.date(2024, 1, 2): 1}, {"2024-01-02": 1}),
        ({pathlib.PurePosixPath("p"): 1, Text("t"): 2}, {"p": 1, "t": 2}),
        ({False: 0}, {"false": 0}),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_else_can_be_returned(value: Any, written: Any) -> None:
    assert json.loads(codec.encode(value)) == written
    assert json.loads(codec.encode({"deep": [value]})) == {"deep": [written]}


# Refusing to write


class Unknown:
    def __repr__(self) -> str:
        return "<unknown>"


def circle() -> Any:
    value: dict[str, Any] = {"a": []}
    value["a"].append(value)
    return value


def nested(levels: int, inner: Any = None) -> Any:
    for _ in range(levels):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    ("value", "type_name", "problem"),
    [
        (math.nan, "float", "is nan, which JSON cannot carry"),
        (math.inf, "float", "is inf, which JSON cannot carry"),
        (-math.inf, "float", "is -inf, which JSON cannot carry"),
        (decimal.Decimal("NaN"), "decimal.Decimal", "is NaN, which JSON cannot carry"),
        (b"x", "bytes", "is of type bytes, which JSON cannot carry; decode it"),
        (bytearray(b"x"), "bytearray", "is of type bytearray"),
        (memoryview(b"x"), "memoryview", "is of type memoryview"),
        ("a\ud800b", "str", "has a lone surrogate at character 1"),
        (Text("\udfff"), f"{__name__}.Text", "has a lone surrogate at character 0"),
        (Unknown(), f"{__name__}.Unknown", f"is of type {__name__}.Unknown, which JSON cannot"),
        (Unknown, "type", "is of type type, which JSON cannot carry"),
        (Point, "type", "is of type type, which JSON cannot carry"),
        (print, "builtin_function_or_method", "is of type builtin_function_or_method"),
        (1j, "complex", "is of type complex"),
        (10**5000, "int", f"is an integer of more than {sys.get_int_max_str_digits()} digits"),
        (circle(), "dict", "contains itself"),
        (ValueError("x"), "ValueError", "is of type ValueError"),
    ],
    ids=lambda each: each if isinstance(each, str) and each.isascii() else type(each).__name__,
)
@pytest.mark.parametrize(
    ("around", "key_path"),
    [
        (lambda bad: bad, "result"),
        (lambda bad: {"items": [1, 2, {"a b": bad}]}, 'result["items"][2]["a b"]'),
        (lambda bad: {"it's": (0, bad)}, 'result["it\'s"][1]'),
        (lambda bad: {5: [deque([bad])]}, 'result["5"][0][0]'),
        (lambda bad: Point(bad, set()), 'result["x"]'),
        (lambda bad: Struct("x", left=[bad]), 'result["left"][0]'),
    ],
    ids=["bare", "nested", "quoted", "number", "dataclass", "struct"],
)
def test_what_is_no_json_is_named_with_its_place(
    value: Any, type_name: str, problem: str, around: Any, key_path: str
) -> None:
    with pytest.raises(NotJSON) as caught:
        codec.encode(around(value))
    error = caught.value
    assert error.type_name == type_name
    if problem == "contains itself":  # what it stands in comes around after it
        key_path += '["a"][0]'
    assert error.key_path == key_path
    assert str(error).startswith(f"{key_path} {problem}")


@given(
    st.lists(st.integers(0, 3) | st.text(max_size=5), max_size=6),
    st.sampled_from([math.nan, b"", "\ud800", Unknown(), math.inf, 1j]),
)
def test_key_paths(path: list[int | str], bad: Any) -> None:
    value = bad
    for part in reversed(path):
        value = {part: value} if isinstance(part, str) else [None] * part + [value]
    with pytest.raises(NotJSON) as caught:
        codec.encode(value, root="error")
    assert caught.value.key_path == "error" + "".join(f"[{json.dumps(part)}]" for part in path)


@pytest.mark.parametrize(
    ("key", "type_name"),
    [((1, 2), "tuple"), (b"k", "bytes"), (Unknown(), f"{__name__}.Unknown"), (1j, "complex")],
)
def test_keys_that_are_none(key: Any, type_name: str) -> None:
    with pytest.raises(NotJSON, match=f'result\\["a"\\] has a key of type {type_name}') as caught:
        codec.encode({"a": {key: 1}})
    assert caught.value.type_name == type_name


def test_a_key_with_a_surrogate() -> None:
    with pytest.raises(NotJSON, match="result has a lone surrogate"):
        codec.encode({"\ud800": 1})


def test_the_same_object_twice_is_no_circle() -> None:
    shared = {1: [2]}
    assert codec.encode([shared, shared]) == b'[{"1":[2]},{"1":[2]}]'


def test_depth() -> None:
    assert codec.encode(nested(150)) == b"[" * 150 + b"null" + b"]" * 150
    assert codec.encode(nested(150, {1})) == b"[" * 150 + b"[1]" + b"]" * 150
    for deep in (nested(300, {1}), nested(5000), nested(100_000)):
        with pytest.raises(NotJSON, match="is nested "):
            codec.encode(deep)


def fails() -> Iterator[int]:
    yield 1
    raise ZeroDivisionError("inside")


class FailingMapping(UserDict):  # type: ignore[type-arg] # of anything
    def items(self) -> Any:
        raise ZeroDivisionError("inside")


class AnyModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    any: object


@pytest.mark.parametrize(
    "value",
    [fails(), FailingMapping(), AnyModel(any=Unknown()), msgspec.Raw(b"{")],
    ids=["generator", "mapping", "pydantic", "raw"],
)
def test_code_of_the_user_that_raises_while_it_is_written(value: Any) -> None:
    with pytest.raises(NotJSON, match=r'result\["a"\]'):
        codec.encode({"a": value})


# Reading


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":{"x":1},"a":{}}', {"a": {}}),
        (b' \t\r\n{"a":1} ', {"a": 1}),
        (BOM + b'{"a":"\xc3\xa9"}', {"a": "é"}),
        (BOM + b"1", 1),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\u0000\\/\\b"', "\0/\b"),
        (b"1E2", 100.0),
        (b"-0.0", -0.0),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_what_is_read(data: bytes, value: Any) -> None:
    for each in (data, bytearray(data)):
        assert codec.decode(each) == value


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (BOM, "empty"),
        (b"{", "line 1 column 2 (character 1)"),
        (b'{"a": 1,\n "b": }', "expecting value at line 2 column 7 (character 15)"),
        (b"{'a': 1}", "line 1 column 2 (character 1)"),
        (b'{"a" 1}', "expecting ':' delimiter at line 1 column 6 (character 5)"),
        (b"[1,]", "line 1 column"),
        (b'{"a":1}x', "extra data at line 1 column 8 (character 7)"),
        (b"01", "line 1 column 2"),
        (b"nul", "expecting value at line 1 column 1 (character 0)"),
        (b"name=Ada", "expecting value at line 1 column 1 (character 0)"),
        (b"NaN", "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b'"a\nb"', "invalid control character at line 1 column 3 (character 2)"),
        (b'"\\x"', "line 1 column 2"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'{"a": "\\udc00x"}', "half of a surrogate pair"),
        (b'{"a": "\xff"}', "invalid UTF-8 at byte 7"),
        (b"\xff\xfe{\x00}\x00", "invalid UTF-8 at byte 0"),
        (b"1e999", "out of range"),
        (b"9" * 5000, f"more than {sys.get_int_max_str_digits()} digits"),
        (b"[" * 10_000, "nested too deeply"),
        (b"[" * 10_000 + b"]" * 10_000, "nested too deeply"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_is_said_with_its_place(data: bytes, where: str) -> None:
    for each in (data, bytearray(data)):
        with pytest.raises(MalformedJSON) as caught:
            codec.decode(each)
        assert where in str(caught.value)


@pytest.mark.parametrize("marks", [2, 5, 100_000])
@pytest.mark.parametrize("rest", [b"{}", b"{", b""])
def test_one_byte_order_mark_is_enough(marks: int, rest: bytes) -> None:
    with pytest.raises(MalformedJSON):
        codec.decode(BOM * marks + rest)


@given(st.binary() | st.text().map(str.encode) | VALUES.map(json.dumps).map(str.encode))
@example(b"\x00")
@example(BOM * 3)
def test_any_bytes_are_read_as_the_standard_library_reads_them_or_refused(data: bytes) -> None:
    try:
        value = codec.decode(data)
    except MalformedJSON as exc:
        problem = str(exc)
    else:
        problem = "none"
        assert repr(json.loads(data.decode("utf-8-sig"))) == repr(value)
    assert problem
    assert "\n" not in problem
