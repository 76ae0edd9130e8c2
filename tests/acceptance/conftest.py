"""An engine for the tests of a module, and a function for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_command import EngineCommand, Function, engine_command, function


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineCommand]:
    with engine_command(tmp_path_factory.mktemp("engine") / "data") as engine:
        yield engine


@pytest.fixture
def called() -> Iterator[Function]:
    with function() as called:
        yield called
