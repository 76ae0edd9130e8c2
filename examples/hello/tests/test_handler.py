import asyncio
import logging

from function.handler import handle

logger = logging.getLogger("test")


def test_it_greets_by_name():
    answer = asyncio.run(handle(logger, {"name": "Ada", "metadata": {"projectID": "p1"}}))
    assert answer == {"message": "Hello, Ada!"}


def test_it_greets_the_world_when_no_name_is_given():
    assert asyncio.run(handle(logger, {})) == {"message": "Hello, World!"}
