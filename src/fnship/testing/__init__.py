"""What we test functions with, and you can too: a real engine in the test's own process."""

from fnship.testing.engine import Engine
from fnship.testing.faults import Fault, FaultPlan, Faults
from fnship.testing.logs import Upload
from fnship.testing.state_api import StateCall
from fnship.testing.store import Item, MemoryStore, StaleVersion

__all__ = [
    "Engine",
    "Fault",
    "FaultPlan",
    "Faults",
    "Item",
    "MemoryStore",
    "StaleVersion",
    "StateCall",
    "Upload",
]
