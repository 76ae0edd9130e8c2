"""The state client."""

from fnship.function.state import StateClient, StateClientBuilder, StateScope

__all__ = ["StateClient", "StateClientBuilder", "StateScope"]
