"""Find the handler, and learn its shape before the first request needs it."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from fnship.errors import HandlerError

__all__ = ["LIFECYCLE", "Handler", "import_handler", "inspect_handler", "place_of"]

_TARGET: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
LIFECYCLE: Final = ("start", "stop", "alive", "ready")
"""Functions that may stand beside the handler."""
_STDLIB: Final = str(Path(inspect.__file__).parent)
_SIGNATURE: Final = "def handle(logger, request)"


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler that can be called, and the lifecycle functions that stand beside it.

    Attributes:
        call: ``call(logger, request)``.
        is_async: Whether calling it gives something to await, and so belongs on the event loop.
            A plain callable that turns out to return an awaitable is awaited all the same.
        name: What to call it in messages, such as ``function.handler:handle``.
        lifecycle: Those of ``start``, ``stop``, ``alive`` and ``ready`` that its module defines.
    """

    call: Callable[[Any, Any], Any]
    is_async: bool
    name: str
    lifecycle: dict[str, Callable[..., Any]] = field(default_factory=dict)


def import_handler(target: str, folder: Path | None = None) -> Handler:
    """Import ``module:name`` and check that it can serve.

    Args:
        target: Module and attribute, such as ``function.handler:handle``.
        folder: The project's folder, put in front of ``sys.path``; the current one by default.

    Raises:
        HandlerError: It cannot be imported, is missing, or takes the wrong arguments.
    """
    if not _TARGET.fullmatch(target):
        raise HandlerError(
            f"{target!r} does not name a handler",
            mend="Write the target as module:name, such as function.handler:handle.",
        )
    module_name, _, attribute = target.partition(":")
    folder = (folder or Path.cwd()).resolve()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = _import_module(module_name, folder)
    handler: Any = module
    for part in attribute.split("."):
        try:
            handler = getattr(handler, part)
        except AttributeError:
            raise HandlerError(
                f"there is no {attribute!r} in module {module_name}",
                file=getattr(module, "__file__", None),
                mend=f"Define {_SIGNATURE}, or name another with FUNCTION_TARGET=module:name.",
            ) from None
    return inspect_handler(handler, module=module, name=target)


def inspect_handler(
    handler: Any, *, module: ModuleType | None = None, name: str | None = None
) -> Handler:
    """Learn the shape of a handler that is already there.

    Args:
        handler: A function, method, partial, or object with ``__call__``.
        module: Where its lifecycle functions are; the module that defines it by default.
        name: What to call it in messages.

    Raises:
        HandlerError: It is not callable, is a generator, or takes the wrong arguments.
    """
    function = _innermost(handler)
    code: CodeType | None = getattr(function, "__code__", None)
    file = code.co_filename if code else None
    line = code.co_firstlineno if code else None
    if module is None:
        module = sys.modules.get(getattr(function, "__module__", None) or "")
    if name is None:
        attribute = getattr(function, "__qualname__", type(handler).__qualname__)
        name = f"{module.__name__}:{attribute}" if module else attribute
    if not callable(handler):
        raise HandlerError(
            f"{name} is {_article(type(handler).__name__)}, not a function",
            file=getattr(module, "__file__", None),
            mend=f"Define {_SIGNATURE}.",
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise HandlerError(
            f"{name} is a generator: it yields instead of returning one answer",
            file=file,
            line=line,
            mend="Return a dictionary; log what happens on the way.",
        )
    _check_arguments(handler, name, file, line)
    lifecycle: dict[str, Callable[..., Any]] = {}
    for each in LIFECYCLE:
        found = vars(module).get(each) if module is not None else None
        if inspect.isfunction(found) and _is_lifecycle(found, each):
            lifecycle[each] = found
    return Handler(handler, inspect.iscoroutinefunction(function), name, lifecycle)


def _is_lifecycle(found: FunctionType, name: str) -> bool:
    """Whether this is meant as a lifecycle function, and not a library's that is called so too."""
    file = found.__code__.co_filename
    foreign = "site-packages" in file or file.startswith(_STDLIB)
    required = [
        each
        for each in inspect.signature(found).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    return not foreign and len(required) <= (1 if name == "start" else 0)


def _innermost(handler: Any) -> Any:
    """The function that runs when `handler` is called: through partials and ``__call__``.

    Not through ``__wrapped__``: a decorator may well wrap an ``async def`` in a plain one.
    """
    while True:
        if isinstance(handler, functools.partial):
            handler = handler.func
        elif inspect.ismethod(handler):
            handler = handler.__func__
        elif not inspect.isroutine(handler) and not inspect.isclass(handler):
            call = getattr(type(handler), "__call__", None)  # noqa: B004 - its code is wanted
            if not inspect.isfunction(call):
                return handler
            handler = call
        else:
            return handler


def _check_arguments(handler: Any, name: str, file: str | None, line: int | None) -> None:
    try:
        # Not the signature of what it wraps: a decorator may well pass something more to that.
        signature = inspect.signature(handler, follow_wrapped=False)
    except (ValueError, TypeError):
        return  # written in C: the first call will tell
    try:
        signature.bind(None, None)
    except TypeError:
        raise HandlerError(
            f"{name} takes {_parameters(signature)}, but is called with two arguments, "
            "the logger and the request",
            file=file,
            line=line,
            mend=f"Write it as {_SIGNATURE}.",
        ) from None


def _parameters(signature: inspect.Signature) -> str:
    bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    plain = signature.replace(parameters=bare, return_annotation=signature.empty)
    return str(plain) if bare else "no arguments"


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _import_module(name: str, folder: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except SyntaxError as exc:
        raise HandlerError(
            f"it has a syntax error: {exc.msg}"
            + (f", at {exc.text.strip()!r}" if exc.text and exc.text.strip() else ""),
            file=exc.filename,
            line=exc.lineno,
            mend="Mend that line.",
        ) from exc
    except ModuleNotFoundError as exc:
        raise _missing_module(exc, name, folder) from exc
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        file, line = place_of(exc, folder)
        problem = f"importing {name} failed with {type(exc).__name__}: {exc}".rstrip(": ")
        raise HandlerError(
            problem, file=file, line=line, mend="Mend what that line does at import."
        ) from exc


def _missing_module(exc: ModuleNotFoundError, name: str, folder: Path) -> HandlerError:
    missing = exc.name or str(exc)
    file, line = place_of(exc, folder)
    if missing == name or name.startswith(f"{missing}."):
        path = folder.joinpath(*name.split("."))
        return HandlerError(
            f"there is no {path.relative_to(folder)}.py in {folder}",
            mend="Run this in the function's folder, write one with `fnship new DIR`, "
            "or name another handler with FUNCTION_TARGET=module:name.",
        )
    top = missing.partition(".")[0]
    if missing.startswith(f"{name.partition('.')[0]}."):
        mend = f"Write {missing.replace('.', '/')}.py, or mend the import."
    else:
        package = name.partition(".")[0]
        wanted = folder / package / "requirements.txt"
        shown = wanted.relative_to(folder) if wanted.exists() else "requirements.txt"
        mend = f"Add what provides {top} to {shown} and install it: pip install -r {shown}."
    return HandlerError(f"module {missing!r} is not installed", file=file, line=line, mend=mend)


def place_of(exc: BaseException, folder: Path) -> tuple[str | None, int | None]:
    """The innermost line of the traceback in the user's own files, else the innermost of all."""
    frames = [
        each
        for each in traceback.extract_tb(exc.__traceback__)
        if not each.filename.startswith("<frozen ") and each.filename != __file__
    ]
    frames = [each for each in frames if each.filename != importlib.__file__]
    own = [
        each
        for each in frames
        if Path(each.filename).is_relative_to(folder) and "site-packages" not in each.filename
    ]
    last = own[-1] if own else frames[-1] if frames else None
    return (last.filename, last.lineno) if last else (None, None)
