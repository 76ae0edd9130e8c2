import asyncio
import logging

import pytest
from function.handler import handle

from fnship import NotFound

logger = logging.getLogger("test")


def test_it_sums_up_and_takes_the_coupon_off():
    request = {"items": {"apple": 3, "pear": 1}, "coupon": "TEN"}
    assert asyncio.run(handle(logger, request)) == {"total_cents": 198, "discount_cents": 22}


def test_nothing_costs_nothing():
    assert asyncio.run(handle(logger, {})) == {"total_cents": 0, "discount_cents": 0}


def test_what_is_not_for_sale_is_not_found():
    with pytest.raises(NotFound, match="not for sale: melon"):
        asyncio.run(handle(logger, {"items": {"melon": 1}}))
