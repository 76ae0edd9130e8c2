"""Which attempts are being made at this moment."""

from __future__ import annotations

__all__ = ["LiveAttempts"]


class LiveAttempts:
    """The attempts that this engine is making. State tokens are good for these alone."""

    def __init__(self) -> None:
        self._attempts: dict[str, int] = {}

    def begin(self, activity_id: str, attempt: int) -> None:
        """An attempt begins; what came before it for the same activity is past."""
        self._attempts[activity_id] = attempt

    def end(self, activity_id: str, attempt: int) -> None:
        """It has ended."""
        if self._attempts.get(activity_id) == attempt:
            del self._attempts[activity_id]

    def holds(self, activity_id: str, attempt: int) -> bool:
        """Whether it is being made."""
        return self._attempts.get(activity_id) == attempt

    def __len__(self) -> int:
        return len(self._attempts)
