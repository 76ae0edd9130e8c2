import logging

import pytest
from function import work
from function.handler import handle

from fnship import ExecuteAgain

logger = logging.getLogger("test")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(work, "SECONDS_PER_RECORD", 0)
    monkeypatch.setattr(work, "must_stop", lambda: False)


def test_it_asks_to_be_run_again_until_all_is_done():
    with pytest.raises(ExecuteAgain, match="5 of 8") as caught:
        handle(logger, {"records": 8})
    assert caught.value.data["done"] == 5
    assert handle(logger, {"records": 8, "previous": caught.value.data}) == {"copied": 8}


def test_a_short_job_needs_one_run():
    assert handle(logger, {"records": 3}) == {"copied": 3}


def test_it_stops_when_it_must(monkeypatch):
    monkeypatch.setattr(work, "must_stop", lambda: True)
    with pytest.raises(ExecuteAgain) as caught:
        handle(logger, {"records": 3})
    assert caught.value.data["done"] == 0
