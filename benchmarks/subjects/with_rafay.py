"""The same work, with a line logged, on rafay-workflow-sdk."""

import os
from logging import Logger
from typing import Any

from python_sdk_rafay_workflow import sdk


async def handle(logger: Logger, request: dict[str, Any]) -> dict[str, Any]:
    logger.info("greeting %s", request["name"])
    return {"message": f"Hello, {request['name']}!"}


if __name__ == "__main__":
    sdk.serve_function(handle, host="127.0.0.1", port=int(os.environ["PORT"]))
else:
    app = sdk.create_app(handle)
