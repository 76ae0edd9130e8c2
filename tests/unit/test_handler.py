"""Finding the handler and learning its shape; what is wrong is said with file, line and mend."""

from __future__ import annotations

import asyncio
import functools
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fnship.errors import HandlerError, UsageError
from fnship.function.handler import Handler, import_handler, inspect_handler

FINE = "def handle(logger, request):\n    return {}\n"
_packages = itertools.count(1)


class Folder:
    """A function folder whose package has a name of its own, since Python remembers packages."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.package = f"function_{next(_packages)}"

    def write(self, handler: str, **more: str) -> None:
        for name, text in {"__init__": "", "handler": handler, **more}.items():
            path = self.path / self.package / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def load(self, name: str = "handle", module: str = "handler") -> Handler:
        return import_handler(f"{self.package}.{module}:{name}", self.path)

    def refused(self, name: str = "handle", module: str = "handler") -> HandlerError:
        with pytest.raises(HandlerError) as caught:
            self.load(name, module)
        assert isinstance(caught.value, UsageError)
        return caught.value

    def file(self, name: str = "handler") -> str:
        return str(self.path / self.package / f"{name}.py")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    path, modules = list(sys.path), set(sys.modules)
    made = Folder(tmp_path)
    yield made
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] == made.package:
            del sys.modules[name]


def result(handler: Handler) -> Any:
    value = handler.call(None, {"name": "Ada"})
    return asyncio.run(value) if handler.is_async else value


# Shapes


def plain(logger: Any, request: Any) -> Any:
    return {"hello": request["name"]}


async def asynchronous(logger: Any, request: Any) -> Any:
    return plain(logger, request)


class Plain:
    def __call__(self, logger: Any, request: Any) -> Any:
        return plain(logger, request)

    def method(self, logger: Any, request: Any) -> Any:
        return plain(logger, request)

    async def async_method(self, logger: Any, request: Any) -> Any:
        return plain(logger, request)

    @classmethod
    def class_method(cls, logger: Any, request: Any) -> Any:
        return plain(logger, request)

    @staticmethod
    async def static(logger: Any, request: Any) -> Any:
        return plain(logger, request)


class Async:
    async def __call__(self, logger: Any, request: Any) -> Any:
        return plain(logger, request)


class Inherits(Async):
    pass


def with_more(extra: str, logger: Any, request: Any) -> Any:
    return plain(logger, request)


async def with_more_async(logger: Any, request: Any, *, extra: str) -> Any:
    return plain(logger, request)


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def injecting(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(logger: Any, request: Any) -> Any:
        return function("injected", logger, request)

    return wrapper


def async_decorated(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper(logger: Any, request: Any) -> Any:
        return await function(logger, request)

    return wrapper


def any_arguments(*args: Any, **kwargs: Any) -> Any:
    return plain(*args)


def defaults(logger: Any, request: Any, timeout: int = 3, *, retries: int = 1) -> Any:
    return plain(logger, request)


@pytest.mark.parametrize(
    ("handler", "is_async"),
    [
        (plain, False),
        (asynchronous, True),
        (Plain(), False),
        (Async(), True),
        (Inherits(), True),
        (Plain().method, False),
        (Plain().async_method, True),
        (Plain.class_method, False),
        (Plain.static, True),
        (Plain().__call__, False),
        (functools.partial(with_more, "x"), False),
        (functools.partial(with_more_async, extra="x"), True),
        (functools.partial(functools.partial(with_more, "x")), False),
        (functools.partial(Async()), True),
        (functools.partial(Plain().async_method), True),
        (decorated(plain), False),
        (injecting(with_more), False),
        (async_decorated(asynchronous), True),
        (any_arguments, False),
        (defaults, False),
        (lambda logger, request: plain(logger, request), False),
    ],
)
def test_shapes(handler: Any, is_async: bool) -> None:
    found = inspect_handler(handler)
    assert found.is_async is is_async
    assert result(found) == {"hello": "Ada"}


def test_a_plain_wrapper_around_an_async_function_gives_something_to_await() -> None:
    found = inspect_handler(decorated(asynchronous))
    assert not found.is_async
    assert asyncio.run(found.call(None, {"name": "Ada"})) == {"hello": "Ada"}


def test_names() -> None:
    assert inspect_handler(plain).name == f"{__name__}:plain"
    assert inspect_handler(Plain().method).name == f"{__name__}:Plain.method"
    assert inspect_handler(functools.partial(with_more, "x")).name == f"{__name__}:with_more"
    assert inspect_handler(plain, name="given").name == "given"


# Importing


def test_modules_beside_the_handler(folder: Folder) -> None:
    folder.write(
        "from . import utils\n"
        "from .parts import prices\n"
        "from .parts.deep.er import text\n"
        "def handle(logger, request):\n"
        "    return [utils.NAME, prices.PRICE, text]\n",
        **{
            "utils": "NAME = 'utils'\n",
            "parts/__init__": "",
            "parts/prices": "from ..utils import NAME\nPRICE = NAME + '!'\n",
            "parts/deep/er": "text = 'no __init__ needed'\n",
        },
    )
    assert result(folder.load()) == ["utils", "utils!", "no __init__ needed"]


@pytest.mark.parametrize(
    ("name", "value"), [("made", "made"), ("Holder.held", "held"), ("bound", "bound")]
)
def test_targets_of_other_names(folder: Folder, name: str, value: str) -> None:
    folder.write(
        "",
        other="class Holder:\n"
        "    held = staticmethod(lambda logger, request: 'held')\n"
        "    def bound(self, logger, request):\n"
        "        return 'bound'\n"
        "bound = Holder().bound\n"
        "def make():\n"
        "    def inner(logger, request):\n"
        "        return 'made'\n"
        "    return inner\n"
        "made = make()\n",
    )
    assert result(folder.load(name, "other")) == value


def test_a_package_as_the_module(folder: Folder) -> None:
    folder.write("", __init__=FINE)
    assert import_handler(f"{folder.package}:handle", folder.path).name == (
        f"{folder.package}:handle"
    )


def test_the_folder_comes_first_on_the_path(folder: Folder) -> None:
    folder.write(FINE)
    folder.load()
    folder.load()
    assert sys.path[0] == str(folder.path)
    assert sys.path.count(str(folder.path)) == 1


@pytest.mark.parametrize(
    "target", ["", "handler", ":handle", "a:", "a b:c", "a:b:c", "../x:y", "a.:b", "1a:b", "a-b:c"]
)
def test_targets_that_name_nothing(target: str) -> None:
    with pytest.raises(HandlerError, match=r"does not name a handler.*Write the target as module"):
        import_handler(target)


# Lifecycle


def test_lifecycle_functions_stand_beside_the_handler(folder: Folder) -> None:
    folder.write(
        "import os\n"
        "def start(config): return 'start'\n"
        "async def stop(): pass\n"
        "alive = lambda: True\n"
        "ready = 5\n" + FINE
    )
    found = folder.load()
    assert set(found.lifecycle) == {"start", "stop", "alive"}
    assert found.lifecycle["start"]({}) == "start"


def test_classes_and_the_handler_itself_are_no_lifecycle_functions(folder: Folder) -> None:
    folder.write("class start: pass\ndef ready(logger, request):\n    return {}\n")
    assert folder.load("ready").lifecycle == {}


def test_the_lifecycle_of_a_handler_that_is_given() -> None:
    module = ModuleType("given")
    exec("def stop(): pass\n" + FINE, vars(module))
    assert set(inspect_handler(module.handle, module=module).lifecycle) == {"stop"}


def test_it_is_found_by_the_module_of_a_partial(folder: Folder) -> None:
    folder.write("import functools\ndef stop(): pass\n" + FINE + "h = functools.partial(handle)\n")
    module = sys.modules[folder.load("h") and f"{folder.package}.handler"]
    assert set(inspect_handler(module.h).lifecycle) == {"stop"}


# Mistakes


@pytest.mark.parametrize(
    ("definition", "takes"),
    [
        ("def handle(request):", "(request)"),
        ("def handle():", "no arguments"),
        ("async def handle(a, b, c):", "(a, b, c)"),
        ("def handle(a: int, *, b: str):", "(a, *, b)"),
        ("def handle(logger, *, request=None):", "(logger, *, request=None)"),
    ],
)
def test_wrong_arguments(folder: Folder, definition: str, takes: str) -> None:
    folder.write(f"import os\n\n{definition}\n    return {{}}\n")
    error = folder.refused()
    assert (error.file, error.line) == (folder.file(), 3)
    assert error.mend == "Write it as def handle(logger, request)."
    name = f"{folder.package}.handler:handle"
    assert str(error) == (
        f"{folder.file()}:3: {name} takes {takes}, but is called with two arguments, "
        "the logger and the request. Write it as def handle(logger, request)."
    )


@pytest.mark.parametrize(
    "handler",
    [
        "class H:\n    def __call__(self, request): pass\nhandle = H()\n",
        "import functools\ndef f(a, b, c, d): pass\nhandle = functools.partial(f, 1)\n",
        "class H:\n    def m(self, request): pass\nhandle = H().m\n",
    ],
)
def test_wrong_arguments_of_what_is_no_function(folder: Folder, handler: str) -> None:
    folder.write(handler)
    error = folder.refused()
    assert error.file == folder.file()
    assert error.line == 2
    assert "called with two arguments" in error.problem


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{}", "is a dict, not a function"),
        ("None", "is a NoneType, not a function"),
        ("5", "is an int, not a function"),
        ("__import__('os')", "is a module, not a function"),
    ],
)
def test_not_callable(folder: Folder, value: str, said: str) -> None:
    folder.write(f"handle = {value}\n")
    error = folder.refused()
    assert said in str(error)
    assert error.file == folder.file()
    assert error.mend == "Define def handle(logger, request)."


def yields(logger: Any, request: Any) -> Iterator[int]:
    yield 1


async def async_yields(logger: Any, request: Any) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("handler", "function"),
    [(yields, yields), (async_yields, async_yields), (functools.partial(yields), yields)],
)
def test_generators(handler: Callable[..., Any], function: Callable[..., Any]) -> None:
    with pytest.raises(HandlerError, match=r"is a generator: it yields.*Return a dict") as caught:
        inspect_handler(handler)
    assert caught.value.file == __file__
    assert caught.value.line == function.__code__.co_firstlineno


def test_missing(folder: Folder) -> None:
    folder.write("def handler(logger, request):\n    return {}\n")
    error = folder.refused()
    assert error.file == folder.file()
    assert f"there is no 'handle' in module {folder.package}.handler" in str(error)
    assert "or name another with FUNCTION_TARGET=module:name" in error.mend
    assert "'Holder.held'" in str(folder.refused("Holder.held"))


def test_no_such_module(folder: Folder) -> None:
    folder.write(FINE)
    error = folder.refused(module="nowhere")
    assert f"there is no {folder.package}/nowhere.py in {folder.path}" in str(error)
    assert "fnship new DIR" in error.mend
    with pytest.raises(HandlerError, match=r"there is no no_package/handler\.py in "):
        import_handler("no_package.handler:handle", folder.path)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("def handle(logger, request)\n    pass\n", 1, "expected ':', at 'def handle(logger, req"),
        ("\n\nx = = 1\n", 3, "invalid syntax, at 'x = = 1'"),
        ("def f():\npass\n", 2, "expected an indented block"),
        ("if 1:\n        a = 1\n\tb = 2\n", 3, ""),
        ("x = 'open\n", 1, "unterminated string literal"),
        ("return 5\n", 1, "'return' outside function"),
    ],
)
def test_syntax_errors(folder: Folder, text: str, line: int, said: str) -> None:
    folder.write(text)
    error = folder.refused()
    assert (error.file, error.line) == (folder.file(), line)
    assert error.problem.startswith(f"it has a syntax error: {said}")
    assert error.mend == "Mend that line."


def test_a_syntax_error_in_another_module(folder: Folder) -> None:
    folder.write("from . import utils\n" + FINE, utils="a = 1\nb = (\n")
    error = folder.refused()
    assert (error.file, error.line) == (folder.file("utils"), 2)


def test_a_file_that_is_no_text(folder: Folder) -> None:
    folder.write("")
    Path(folder.file()).write_bytes(b"x = '\xff'\n")
    assert folder.refused().file == folder.file()
    Path(folder.file()).write_bytes(b"x = '\0'\n")
    folder.refused()


@pytest.mark.parametrize("statement", ["import no_such_thing", "import no_such_thing.part as p"])
def test_a_requirement_that_is_missing(folder: Folder, statement: str) -> None:
    folder.write(f"import os\n{statement}\n" + FINE)
    error = folder.refused()
    assert (error.file, error.line) == (folder.file(), 2)
    assert "module 'no_such_thing' is not installed" in error.problem
    assert error.mend == (
        "Add what provides no_such_thing to requirements.txt and install it: "
        "pip install -r requirements.txt."
    )
    (folder.path / folder.package / "requirements.txt").touch()
    assert f"pip install -r {folder.package}/requirements.txt." in folder.refused().mend


def test_a_requirement_that_is_missing_deeper_down(folder: Folder) -> None:
    folder.write("from . import utils\n" + FINE, utils="\n\nimport no_such_thing\n")
    error = folder.refused()
    assert (error.file, error.line) == (folder.file("utils"), 3)


def test_a_module_of_ones_own_that_is_missing(folder: Folder) -> None:
    folder.write(f"import {folder.package}.helpers\n" + FINE)
    assert folder.refused().mend == f"Write {folder.package}/helpers.py, or mend the import."
    folder.write("from . import helpers\n" + FINE)
    error = folder.refused()
    assert (error.file, error.line) == (folder.file(), 1)
    assert "helpers" in error.problem


class Ends(BaseException):
    pass


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise ValueError", "ValueError. Mend"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("raise SystemExit", "SystemExit. Mend"),
        ("open('/no/such/file')", "FileNotFoundError: "),
        ("from os import no_such_name", "ImportError: cannot import name 'no_such_name'"),
        (f"from {__name__} import Ends; raise Ends('all')", "Ends: all"),
    ],
)
def test_raising_at_import(folder: Folder, statement: str, said: str) -> None:
    folder.write(f"import os\n\n{statement}\n" + FINE)
    error = folder.refused()
    assert (error.file, error.line) == (folder.file(), 3)
    assert f"importing {folder.package}.handler failed with {said}" in str(error)
    assert error.mend == "Mend what that line does at import."


def test_the_line_is_the_users_even_where_a_library_raises(folder: Folder) -> None:
    folder.write(
        "import json\nfrom . import utils\n" + FINE, utils="import json\njson.loads('x')\n"
    )
    error = folder.refused()
    assert (error.file, error.line) == (folder.file("utils"), 2)
    assert "JSONDecodeError" in str(error)


def test_interrupting_an_import_is_no_mistake_of_the_handlers(folder: Folder) -> None:
    folder.write("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        folder.load()


def test_what_cannot_be_inspected_is_let_pass() -> None:
    assert inspect_handler(dict).call is dict
