"""The function: handle() is called once for every request."""

from logging import Logger
from typing import Any

from . import utils


def handle(logger: Logger, request: dict[str, Any]) -> dict[str, Any]:
    # logger: what it is told is this activity's log, and goes to stdout too.
    # request: the JSON object of the call; its "metadata" says where the call comes from.
    name = request.get("name", "World")
    project = request.get("metadata", {}).get("projectID")
    logger.info("greeting %s for project %s", name, project)
    return {"message": utils.format_message(name)}
