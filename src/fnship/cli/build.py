"""``fnship build``: makes a function's image with docker, podman or buildah."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fnship.cli.output import complain, json_text, note
from fnship.errors import UsageError
from fnship.image.container import BUILDERS, Build, Builder, find_builder
from fnship.image.dockerfile import WATCHDOGS, Choices, is_edited, render
from fnship.image.reference import check_image, image_name

if TYPE_CHECKING:
    from fnship.image.requirements import Requirement

__all__ = ["command"]

_FAILED: Final = 1
_ARGUMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(=.*)?", re.DOTALL)
_PASSWORD: Final = re.compile(r"(://)[^/\s:@\"']+:[^/\s@\"']+@")
_PIP_SECRET: Final = "pip"  # noqa: S105 - the secret's name, not the secret

_HELP: Final = """Build the image of the function in DIR (the current folder by default).

It drives docker, podman or buildah, whichever is there, and uses the folder's Dockerfile as it
is; where there is none, the one that `fnship dockerfile` would write.

\b
  fnship build -t hello:1.0
  fnship build hello -t hello:1.0 --watchdog native
  fnship build -t hello:1.0 --build-arg ADDITIONAL_PACKAGE="libpq5"
  fnship build -t hello:1.0 --secret id=pip,src=pip.conf

Exit status: 0 built, 1 the build failed, 2 it could not begin.
"""


@click.command("build", help=_HELP, short_help="Build the image of a function.")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option(
    "-t",
    "--tag",
    metavar="NAME[:TAG]",
    help="What to call the image.  [default: the folder's name]",
)
@click.option(
    "--builder", type=click.Choice(BUILDERS), help="What to build with.  [default: what is there]"
)
@click.option(
    "--watchdog",
    type=click.Choice(WATCHDOGS),
    help="A watchdog process, or the server as its own.  [default: as the Dockerfile has it]",
)
@click.option(
    "--build-arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Set a build argument."
)
@click.option("--no-cache", is_flag=True, help="Use no layer of an earlier build.")
@click.option("--platform", default="", metavar="OS/ARCH", help="Such as linux/arm64.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="id=pip,src=FILE",
    help="Give pip this configuration, in no layer of the image.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what was built as JSON.")
def command(
    folder: Path,
    tag: str | None,
    builder: str | None,
    watchdog: str | None,
    arguments: tuple[str, ...],
    no_cache: bool,
    platform: str,
    secrets: tuple[str, ...],
    as_json: bool,
) -> int:
    """Check what can be checked, build, and say what came of it."""
    from fnship.image.context import check_secrets
    from fnship.image.requirements import read_requirements
    from fnship.image.source import check_own_wheel, check_source

    image = check_image("--tag", tag or image_name(folder.resolve().name))
    _check_arguments(arguments)
    _check_secret_files(secrets)
    check_source(folder)
    requirements = read_requirements(folder)
    check_own_wheel(folder, requirements)
    check_secrets(folder)
    found = find_builder(builder, os.environ)
    for problem in found.passed_over:
        note(f"fnship: {problem}: building with {found.kind}")
    if platform and not found.buildkit:
        raise UsageError(
            "--platform needs BuildKit, which this docker lacks: install its buildx plugin, or "
            "take --builder podman or buildah"
        )
    started = time.monotonic()
    with _dockerfile(folder, requirements, watchdog, _ids(secrets)) as (path, text):
        build = Build(
            folder=folder,
            dockerfile=path,
            image=image,
            arguments=arguments,
            secrets=secrets,
            platform=platform,
            cache=not no_cache,
        )
        status, lines = found.build(build, lambda line: note(_without_passwords(line)))
    if status:
        _explain(lines, requirements, _arguments(text, arguments), folder)
        return _FAILED
    return _report(found, image, lines, time.monotonic() - started, as_json=as_json)


def _check_arguments(arguments: Sequence[str]) -> None:
    for each in arguments:
        if not _ARGUMENT.fullmatch(each):
            name = each.partition("=")[0]
            raise UsageError(f"--build-arg {name!r} is no name: write it as NAME=VALUE")


def _check_secret_files(secrets: Sequence[str]) -> None:
    for each in secrets:
        fields = dict(field.partition("=")[::2] for field in each.split(","))
        file = fields.get("src") or fields.get("source")
        if not fields.get("id") or not (file or fields.get("env")):
            raise UsageError(f"--secret {each!r} is incomplete: write it as id=pip,src=FILE")
        if file and not Path(file).is_file():
            raise UsageError(f"--secret {each}: there is no file {file}")


def _ids(secrets: Sequence[str]) -> set[str]:
    return {field[3:] for each in secrets for field in each.split(",") if field.startswith("id=")}


@contextlib.contextmanager
def _dockerfile(
    folder: Path, requirements: Sequence[Requirement], watchdog: str | None, secrets: set[str]
) -> Iterator[tuple[Path, str]]:
    """The Dockerfile to build with: the folder's own, or one rendered for this build alone."""
    from fnship import __version__
    from fnship.image.source import choose, read_dockerfile

    there = read_dockerfile(folder)
    has = choose(folder, requirements, there)
    wanted = dataclasses.replace(
        has,
        watchdog=watchdog or has.watchdog,
        secret=has.secret or _PIP_SECRET in secrets,
    )
    _check_native(wanted)
    if there is not None and wanted == has:
        if is_edited(there):
            note("fnship: building with your Dockerfile, which is not as fnship wrote it")
        yield folder / "Dockerfile", there
        return
    if there is None:
        note("fnship: there is no Dockerfile: building with what `fnship dockerfile` writes")
    elif is_edited(there):
        raise UsageError(
            f"{folder / 'Dockerfile'} is edited, and is kept: it does not have what this build "
            f"asks for ({_difference(has, wanted)}). Edit it further, or render it anew with "
            "`fnship dockerfile --force`"
        )
    else:
        note(f"fnship: rendering the Dockerfile anew for this build: {_difference(has, wanted)}")
    with tempfile.TemporaryDirectory(prefix="fnship-") as temporary:
        path = Path(temporary, "Dockerfile")
        text = render(wanted, __version__)
        path.write_text(text, encoding="utf-8", newline="\n")
        yield path, text


def _check_native(choices: Choices) -> None:
    if choices.watchdog == "native" and not choices.slim:
        raise UsageError(
            "the native watchdog is fnship's own server, which the requirements do not name: "
            "take --watchdog of-watchdog, or add fnship's wheel to requirements.txt"
        )


def _difference(has: Choices, wanted: Choices) -> str:
    differing = []
    if has.watchdog != wanted.watchdog:
        differing.append(f"--watchdog {wanted.watchdog}")
    if has.secret != wanted.secret:
        differing.append(f"--secret id={_PIP_SECRET}")
    return " and ".join(differing)


def _without_passwords(line: str) -> str:
    return _PASSWORD.sub(r"\1***@", line)


def _arguments(dockerfile: str, given: Sequence[str]) -> dict[str, str]:
    """The build arguments: the Dockerfile's own values, and over them those that were given."""
    own: dict[str, str] = dict(re.findall(r"^ARG (\w+)=\"?([^\"\s]*)", dockerfile, re.MULTILINE))
    for each in given:
        name, _, value = each.partition("=")
        own[name] = value or os.environ.get(name, "")
    return own


def _explain(
    lines: list[str],
    requirements: Sequence[Requirement],
    arguments: Mapping[str, str],
    folder: Path,
) -> None:
    from fnship.image.failures import Failure, explain

    failure = Failure(
        lines=[_without_passwords(line) for line in lines],
        requirements=requirements,
        arguments=arguments,
        folder=str(folder.resolve()),
    )
    complain(f"the build failed: {explain(failure)}")


def _report(
    builder: Builder, image: str, lines: list[str], seconds: float, *, as_json: bool
) -> int:
    from fnship.image.failures import contradictions

    for each in contradictions(lines):
        note(f"fnship: note: {each}: it may not run")
    built = builder.inspect(image)
    if built is None:
        complain(f"{builder.kind} built {image}, but does not have it now")
        return _FAILED
    base = built.labels.get("org.opencontainers.image.base.name", "")
    before = builder.inspect(base) if base else None
    over = built.size - before.size if before is not None else None
    if as_json:
        click.echo(
            json_text(
                {
                    "image": image,
                    "id": built.id,
                    "digest": next(iter(built.digests.values()), None),
                    "size": built.size,
                    "size_over_base": over,
                    "builder": builder.kind,
                    "seconds": round(seconds, 1),
                }
            )
        )
        return 0
    more = f", {over / 1e6:.1f} MB more than {base}" if over is not None else ""
    click.echo(f"Built {image} with {builder.kind} in {seconds:.1f} s:")
    click.echo(f"  size    {built.size / 1e6:.1f} MB{more}")
    click.echo(f"  digest  {next(iter(built.digests.values()), built.id)}")
    click.echo()
    click.echo("Next:")
    click.echo(f"  fnship run --image {image}")
    return 0
