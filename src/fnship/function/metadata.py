"""Headers of a call: what becomes ``request["metadata"]``, and what is for the SDK alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fnship import contract

__all__ = ["Headers", "read_headers"]

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case and values, as they came."""

_METADATA: Final = {name.lower().encode(): key for name, key in contract.METADATA_KEYS.items()}
_PRIVATE: Final = {
    name.lower().encode(): name
    for name in (
        contract.ENGINE_ENDPOINT,
        contract.FILE_UPLOAD,
        contract.WORKFLOW_TOKEN,
        contract.LOG_BATCH_ENDPOINT,
        contract.ACTIVITY_ATTEMPT,
        contract.ACTIVITY_DEADLINE,
        contract.TIMEOUT,
    )
}
_BLANK: Final[dict[str, str | None]] = dict.fromkeys(contract.METADATA_KEYS.values())


def read_headers(
    headers: Headers,
) -> tuple[dict[str, str | None], dict[str, str] | None]:
    """Sort out the headers of one call.

    Args:
        headers: Names in lower case and values.

    Returns:
        The metadata, with every key and None where the header is absent; and the headers for
        the SDK alone by their names in `fnship.contract`, None where there are none.
    """
    metadata = _BLANK.copy()
    private: dict[str, str] | None = None
    for name, value in headers:
        if name in _METADATA:
            metadata[_METADATA[name]] = _text(value)
        elif name in _PRIVATE:
            if private is None:
                private = {}
            private[_PRIVATE[name]] = _text(value)
    return metadata, private


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")  # HTTP's own fallback; it maps every byte
