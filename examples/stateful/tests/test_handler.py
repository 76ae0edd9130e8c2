import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from function.handler import handle

from fnship import contract
from fnship.testing import Engine

logger = logging.getLogger("test")


@pytest.fixture
def engine():
    with Engine() as engine:
        yield engine


def visit(engine, visitor, project="p1"):
    headers = engine.headers(project_id=project)
    metadata = {key: headers.get(name) for name, key in contract.METADATA_KEYS.items()}
    return asyncio.run(handle(logger, {"visitor": visitor, "metadata": metadata}))["visits"]


def test_each_visitor_has_a_counter(engine):
    assert [visit(engine, name) for name in ("Ada", "Bob", "Ada")] == [1, 1, 2]


def test_each_project_has_its_own(engine):
    assert [visit(engine, "Ada", project) for project in ("p1", "p2")] == [1, 1]


def test_visits_at_the_same_time_are_all_counted(engine):
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: visit(engine, "Ada"), range(4)))
    assert visit(engine, "Ada") == 5
