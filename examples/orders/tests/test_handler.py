import asyncio
import logging

import pytest
from function.handler import handle

from fnship import ExecuteAgain, Failed, contract
from fnship.testing import Engine

logger = logging.getLogger("test")


def pack(items, packed=0, engine=None):
    headers = engine.headers(project_id="p1") if engine else {}
    metadata = {key: headers.get(name) for name, key in contract.METADATA_KEYS.items()}
    request = {"order": "o-1", "items": items, "previous": {"packed": packed}, "metadata": metadata}
    return asyncio.run(handle(logger, request))


def test_each_run_packs_one_item():
    with pytest.raises(ExecuteAgain) as again:
        pack(["tea", "milk"], packed=1)
    assert again.value.data == {"packed": 2, "retry_after": 0.2}


def test_the_last_run_counts_the_order():
    with Engine() as engine:
        assert [pack(["tea"], 1, engine)["number"] for _ in range(2)] == [1, 2]


def test_there_is_no_gold():
    with pytest.raises(Failed, match="no gold"):
        pack(["gold"])
