"""Error codes and exceptions, as handlers in the field spell them."""

from fnship.contract import EXECUTE_AGAIN as ERROR_CODE_EXECUTE_AGAIN
from fnship.contract import FAILED as ERROR_CODE_FAILED
from fnship.contract import TRANSIENT as ERROR_CODE_TRANSIENT
from fnship.errors import ExecuteAgain as ExecuteAgainException
from fnship.errors import Failed as FailedException
from fnship.errors import FunctionError as FunctionException
from fnship.errors import Transient as TransientException

__all__ = [
    "ERROR_CODE_EXECUTE_AGAIN",
    "ERROR_CODE_FAILED",
    "ERROR_CODE_TRANSIENT",
    "ExecuteAgainException",
    "FailedException",
    "FunctionException",
    "TransientException",
]
