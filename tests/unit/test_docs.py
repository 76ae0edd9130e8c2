"""Holds the documentation to the code: names, defaults, commands, links, examples."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import sys
import types
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import click
import pytest

import fnship
import fnship.testing
import python_sdk_rafay_workflow
from fnship import contract, errors
from fnship.cli import main as cli
from fnship.cli.scaffold import render_function
from fnship.function.handler import import_handler, inspect_handler
from fnship.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
HELLO = ROOT / "examples" / "hello" / "function"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])
# What a reader can reach from the outside world: places that are the reader's own or nobody's.
HOSTS = re.compile(
    r"(127\.0\.0\.1|0\.0\.0\.0|localhost|function|host\.docker\.internal|(.+\.)?example\.com)"
)


class Fence(NamedTuple):
    """A fenced block: its language, its text, and the line where it begins."""

    language: str
    text: str
    line: int


class Page:
    """A Markdown page, taken apart as far as the tests need it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.fences: list[Fence] = []
        prose: list[str] = []
        opened: tuple[str, int] | None = None
        block: list[str] = []
        for number, line in enumerate(self.text.split("\n"), 1):
            if line.startswith("```"):
                if opened is None:
                    opened, block = (line[3:].strip(), number), []
                else:
                    self.fences.append(Fence(opened[0], "\n".join(block), opened[1]))
                    opened = None
                prose.append("")
            elif opened is not None:
                block.append(line)
                prose.append("")
            else:
                prose.append(line)
        assert opened is None, f"{path}: a fence is not closed"
        self.prose = "\n".join(prose)

    @property
    def headings(self) -> list[str]:
        return [line.lstrip("#").strip() for line in self._heading_lines()]

    @property
    def anchors(self) -> set[str]:
        """What links may point at, as code hosts make it of headings."""
        seen: dict[str, int] = {}
        found = set()
        for heading in self.headings:
            slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            found.add(f"{slug}-{count}" if count else slug)
        return found

    def section(self, heading: str) -> str:
        """What stands below `heading`, to the next one of its level or a higher one."""
        lines = self.prose.split("\n")
        start = next(
            index
            for index, line in enumerate(lines)
            if line.startswith("#") and line.lstrip("#").strip() == heading
        )
        level = len(lines[start]) - len(lines[start].lstrip("#"))
        for end in range(start + 1, len(lines)):
            if re.match(rf"#{{1,{level}}} ", lines[end]):
                return "\n".join(lines[start + 1 : end])
        return "\n".join(lines[start + 1 :])

    def _heading_lines(self) -> Iterator[str]:
        return (line for line in self.prose.split("\n") if re.match(r"#{1,6} ", line))


def rows(section: str) -> list[list[str]]:
    """The rows of the tables in a section, without heads; cells may hold escaped bars."""
    found = []
    for line in section.split("\n"):
        if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(params=PAGES, ids=named)
def page(request):
    return Page(request.param)


def reference(name: str) -> Page:
    return Page(REFERENCE / f"{name}.md")


# Settings


VARIABLES = {each.metadata["variable"]: each for each in fields(Settings)}


def setting_row(variable: str) -> list[str]:
    head, row = rows(reference("settings").section(variable))
    assert head == ["value", "default", "example", "set by"]
    return row


@pytest.mark.parametrize("variable", VARIABLES)
def test_each_setting_has_its_heading_its_default_and_an_example(variable):
    each = VARIABLES[variable]
    _, default, example, _ = setting_row(variable)
    if default == "unset":
        assert each.default in (None, "", ()), "the page says that it has no default"
    else:
        [text] = code_spans(default)
        assert each.metadata["read"](text) == each.default
    [text] = code_spans(example)
    name, _, value = text.partition("=")
    assert name == variable
    settings = Settings.from_env({name: value})
    assert getattr(settings, each.name) != each.default, "the example changes nothing"


def test_no_setting_is_described_that_is_not_there():
    described = re.findall(r"^### (\S+)$", reference("settings").prose, re.MULTILINE)
    assert described == list(VARIABLES)


# Commands


GROUP = next(each for each in vars(cli).values() if isinstance(each, click.Group))
CONTEXT = click.Context(GROUP)


def commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its whole name."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            inner = click.Context(command, info_name=name, parent=context)
            yield from ((f"{name} {each}", found) for each, found in commands(command, inner))
        else:
            yield name, command


COMMANDS = dict(commands(GROUP, CONTEXT))
GROUPS = {name.split()[0] for name in COMMANDS if " " in name}


def option_names(command: click.Command) -> set[str]:
    options = [each for each in command.params if isinstance(each, click.Option)]
    return {name for each in options for name in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_heading_and_all_of_its_options(name):
    page = reference("cli")
    assert f"fnship {name}" in page.headings
    described = {
        span.split()[0]
        for row in rows(page.section(f"fnship {name}"))
        for span in code_spans(row[0])
        if span.startswith("-")
    }
    assert described == option_names(COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_each_default_and_choice_of_an_option_is_described(name):
    table = {row[0]: row[1] for row in rows(reference("cli").section(f"fnship {name}"))}
    for option in COMMANDS[name].params:
        if not isinstance(option, click.Option):
            continue
        [spelt] = [head for head in table if re.search(rf"`{option.opts[-1]}[ `]", head)]
        if isinstance(option.type, click.Choice):
            assert "[" + "\\|".join(option.type.choices) + "]" in spelt
        if isinstance(option.default, str) and option.default:
            assert f"`{option.default}`" in table[spelt]


def test_the_options_of_fnship_itself_are_described():
    described = set(code_spans(rows(reference("cli").section("Commands"))[1][0]))
    described |= set(code_spans(rows(reference("cli").section("Commands"))[2][0]))
    assert described == option_names(GROUP) | set(GROUP.context_settings["help_option_names"])


def commands_shown(page: Page) -> Iterator[str]:
    """Every command line with fnship in it, in blocks and in the text."""
    for fence in page.fences:
        if fence.language in ("console", "sh", "bash", "text", ""):
            for line in fence.text.split("\n"):
                if match := re.match(r"(?:\$ |\s*)(fnship [a-z-].*)", line):
                    yield match[1]
    yield from (span for span in code_spans(page.prose) if re.match(r"fnship [a-z-]", span))


def test_each_command_shown_is_one(page):
    for line in commands_shown(page):
        try:
            words = shlex.split(line, comments=True)[1:]
        except ValueError:
            pytest.fail(f"{line} is no command line")
        words = words[: words.index("|")] if "|" in words else words
        words = words[: words.index("&&")] if "&&" in words else words
        if words[0] in GROUPS and len(words) == 1:
            allowed = {"-h", "--help"}
        elif not words[0].startswith("-"):
            name = " ".join(words[:2]) if words[0] in GROUPS else words[0]
            assert name in COMMANDS, line
            allowed = option_names(COMMANDS[name]) | {"-h", "--help"}
        else:
            allowed = option_names(GROUP) | {"-h", "--help"}
        for word in words:
            if re.match(r"--?[a-z]", word) and word != "--prot":  # the mistake that is shown
                assert word.partition("=")[0] in allowed, line


def test_the_exit_statuses_are_described():
    described = " ".join(row[0] for row in rows(reference("cli").section("Exit statuses")))
    for status in (0, 2, 3, 11, 12, 13, 14, 15, 130):
        assert re.search(rf"\b{status}\b", described)


# Names


@pytest.mark.parametrize("name", errors.__all__)
def test_each_exception_has_its_heading(name):
    assert name in reference("errors").headings


def test_the_tree_of_exceptions_is_the_modules_own():
    [tree] = [each for each in reference("errors").fences if each.text.startswith("FnshipError")]
    shown = re.findall(r"[A-Z]\w+", tree.text)
    drawn = [
        line
        for line in errors.__doc__.split("\n")
        if re.match(r"\W*[A-Z]\w*Error|\W*[├└]", line) or line.startswith("FnshipError")
    ]
    assert shown == [re.findall(r"[A-Z]\w+", line)[0] for line in drawn]
    assert sorted(shown) == errors.__all__


def test_each_error_code_is_the_errors_own():
    page = reference("errors")
    described = {}
    for heading in ("What a handler raises", "What the state client raises"):
        for row in rows(page.section(heading))[1:]:
            described[code_spans(row[0])[0]] = int(re.findall(r"[0-9]", row[1])[0])
    actual = {
        name: getattr(errors, name).error_code
        for name in errors.__all__
        if issubclass(getattr(errors, name), errors.FunctionError)
    }
    assert described == actual


@pytest.mark.parametrize("name", fnship.__all__)
def test_each_public_name_has_its_place(name):
    page = reference("python-api")
    if inspect.isclass(value := getattr(fnship, name)) and issubclass(value, Exception):
        assert name in code_spans(page.section("Exceptions"))
    else:
        assert name in {heading.strip("`") for heading in page.headings}


@pytest.mark.parametrize("name", fnship.testing.__all__)
def test_each_name_for_tests_has_its_heading(name):
    assert f"### {name}\n" in reference("python-api").section("fnship.testing")


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("EventDetails", fnship.EventDetails),
        ("StateClient", fnship.StateClient),
        ("StateClientBuilder", fnship.StateClientBuilder),
        ("Engine", fnship.testing.Engine),
        ("FaultPlan", fnship.testing.FaultPlan),
        ("MemoryStore", fnship.testing.MemoryStore),
    ],
)
def test_each_public_method_is_described(heading, kind):
    page = reference("python-api")
    described = set(re.findall(r"\w+", " ".join(code_spans(page.section(heading)))))
    twins = {f"{name}_async" for name in described}
    # What the package's own parts use, and the faults' asker is the engine.
    own = {"get_raw", "list_raw", "next"}
    public = {name for name in vars(kind) if not name.startswith("_")}
    assert public - own <= described | twins


def test_each_attribute_of_an_invocation_is_described():
    for_the_runner = {"headers", "overdue", "log", "close_log", "cancel", "on_cancel"}
    public = {name for name in vars(fnship.Invocation) if not name.startswith("_")}
    table = rows(reference("handler").section("Invocation"))[1:]
    described = {code_spans(row[0])[0] for row in table if len(row) == 3 and row[0].startswith("`")}
    assert public - for_the_runner == described - {"async def", "def"}


def test_each_name_of_the_drop_in_package_is_described():
    page = Page(DOCS / "howto" / "move-from-the-existing-sdk.md")
    described = set(re.findall(r"\w+", " ".join(code_spans(page.section("The names")))))
    assert set(python_sdk_rafay_workflow.__all__) <= described


def strings_in_the_source() -> list[str]:
    """Every string in the package, with "…" for what is put in."""
    found = []
    for path in (ROOT / "src" / "fnship").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    each.value if isinstance(each, ast.Constant) else "…" for each in node.values
                ]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_each_message_that_is_explained_is_said_somewhere():
    said = "\n".join(strings_in_the_source())
    explained = 0
    for page in map(Page, PAGES):
        for table in re.split(r"\n\n", page.prose):
            if not table.startswith("| message |"):
                continue
            for row in rows(table)[1:]:
                parts = [part.strip(" .,:;()'") for part in code_spans(row[0])[0].split("…")]
                assert [part for part in parts if len(part) > 9 and part not in said] == []
                explained += 1
    assert explained > 10


def test_the_layout_shows_each_module():
    layout = Page(DOCS / "design.md").fences[0].text
    package = ROOT / "src" / "fnship"
    modules = [*package.glob("*.py")]
    for folder in ("function", "server", "engine"):
        modules += (package / folder).glob("*.py")
    shown = set(re.findall(r"\w+\.py", layout))
    assert {each.name for each in modules if not each.name.startswith("__")} == shown - {
        "__init__.py"
    }


def test_every_header_of_the_contract_is_described():
    wire = reference("wire").text
    headers = [
        value
        for name, value in vars(contract).items()
        if name.isupper() and isinstance(value, str) and value.startswith("X-")
    ]
    assert [each for each in headers if f"`{each}`" not in wire] == []
    for name in ("wire", "handler"):
        table = {tuple(sorted(code_spans(" ".join(row)))) for row in rows(reference(name).prose)}
        for pair in contract.METADATA_KEYS.items():
            assert tuple(sorted(pair)) in table


# Examples


def python_blocks() -> Iterator[tuple[str, str]]:
    for path in PAGES:
        for fence in Page(path).fences:
            if fence.language == "python":
                yield f"{named(path)}:{fence.line}", fence.text


@pytest.mark.parametrize(
    ("place", "source"), [pytest.param(*each, id=each[0]) for each in python_blocks()]
)
def test_python_compiles_and_imports_names_that_are_there(place, source):
    compile(source, place, "exec", dont_inherit=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and not node.level:
            package = (node.module or "").partition(".")[0]
            if package in ("fnship", "python_sdk_rafay_workflow"):
                space: dict[str, object] = {}
                exec(ast.unparse(node), space)
                assert all(alias.name in space for alias in node.names)


def handlers() -> list[tuple[str, str]]:
    return [
        each
        for each in python_blocks()
        if re.search(r"^((async )?def handle\(|handle = )", each[1], re.MULTILINE)
    ]


@pytest.mark.parametrize(
    ("place", "source"), [pytest.param(*each, id=each[0]) for each in handlers()]
)
def test_a_handler_that_is_shown_can_be_served(place, source, tmp_path, monkeypatch):
    package = "documented"
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "utils.py").write_text((HELLO / "utils.py").read_text())
    (folder / "handler.py").write_text(source)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    try:
        handler = import_handler(f"{package}.handler:handle", tmp_path)
        assert handler.is_async == ("async def handle" in source or "async def __call__" in source)
        defined = {name for name in ("start", "stop", "alive", "ready") if f"def {name}(" in source}
        assert set(handler.lifecycle) == defined
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]


def test_the_quickstart_shows_the_handler_that_is_written():
    page = Page(DOCS / "quickstart.md")
    [shown] = [each.text for each in page.fences if each.language == "python"]
    files = {str(path): text for path, text in render_function("hello", version="0.1.0").items()}
    assert shown == files["function/handler.py"].rstrip("\n")
    written = next(each.text for each in page.fences if "fnship new hello" in each.text)
    listed = re.findall(r"^  (\S+)$", written, re.MULTILINE)
    assert sorted(each for each in listed if not each.startswith("wheels/")) == sorted(files)


def test_json_is_json(page):
    for fence in page.fences:
        if fence.language == "json":
            json.loads(fence.text)


def test_fences_name_their_language(page):
    known = {"console", "json", "python", "text"}
    assert {fence.language for fence in page.fences} <= known


# Links and hosts


def links(page: Page) -> list[str]:
    without_code = re.sub(r"`[^`]+`", "code", page.prose)
    return re.findall(r"\]\(([^)\s]+)\)", without_code)


def test_each_relative_link_points_at_something(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in Page(target).anchors, link


def test_each_page_can_be_reached_from_the_index():
    reached, ahead = set(), [DOCS / "index.md"]
    while ahead:
        path = ahead.pop()
        if path not in reached and path.suffix == ".md":
            reached.add(path)
            targets = [link.partition("#")[0] for link in links(Page(path)) if ":" not in link]
            ahead += [(path.parent / each).resolve() for each in targets if each]
    assert set(DOCS.rglob("*.md")) <= reached


def test_no_host_is_named_but_the_readers_own(page):
    for host in re.findall(r"[a-z]+://([\w.-]+)", page.text):
        assert HOSTS.fullmatch(host.rstrip(".")), host
    domains = re.findall(
        r"(?<![\w.@/-])(?:[a-z0-9-]+\.)+(?:com|org|net|io|dev)\b(?![\w(/-])", page.text
    )
    assert [each for each in domains if not HOSTS.fullmatch(each)] == []
    assert "index-url" not in page.text.lower().replace("_", "-")


def test_a_handler_in_the_readme_can_be_inspected():
    # Not imported: it may need modules of the reader's own.
    for fence in Page(ROOT / "README.md").fences:
        if fence.language == "python" and "def handle(" in fence.text:
            tree = ast.parse(fence.text)
            tree.body = [each for each in tree.body if not isinstance(each, ast.ImportFrom)]
            module = types.ModuleType("readme")
            exec(compile(tree, "README.md", "exec"), vars(module))
            inspect_handler(module.handle, module=module)
