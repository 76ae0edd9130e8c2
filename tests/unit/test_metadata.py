from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fnship import contract
from fnship.function.metadata import read_headers

KEYS = set(contract.METADATA_KEYS.values())
PRIVATE = [
    contract.ENGINE_ENDPOINT,
    contract.FILE_UPLOAD,
    contract.WORKFLOW_TOKEN,
    contract.ACTIVITY_ATTEMPT,
    contract.ACTIVITY_DEADLINE,
    contract.TIMEOUT,
]


def raw(name: str, value: bytes = b"v") -> tuple[bytes, bytes]:
    return name.lower().encode(), value


def test_the_keys_are_those_of_the_contract() -> None:
    assert contract.METADATA_KEYS == {
        "X-Activity-ID": "activityID",
        "X-Environment-ID": "environmentID",
        "X-Environment-Name": "environmentName",
        "X-Organization-ID": "organizationID",
        "X-Project-ID": "projectID",
        "X-Eaas-State-Endpoint": "stateStoreUrl",
        "X-Eaas-State-Token": "stateStoreToken",
        "X-Event-Source": "eventSource",
        "X-Event-Source-Name": "eventSourceName",
        "X-Event-Type": "eventType",
    }


def test_without_headers_every_key_is_there_and_none() -> None:
    assert read_headers([]) == (dict.fromkeys(KEYS), None)
    assert read_headers([raw("Host"), raw("X-Other")]) == (dict.fromkeys(KEYS), None)


@given(st.sets(st.sampled_from(sorted(contract.METADATA_KEYS))), st.sets(st.sampled_from(PRIVATE)))
def test_each_header_goes_to_its_place(shown: set[str], hidden: set[str]) -> None:
    headers = [raw(name, name.encode()) for name in [*shown, *hidden, "Accept"]]
    metadata, private = read_headers(headers)
    assert metadata == {
        key: name if name in shown else None for name, key in contract.METADATA_KEYS.items()
    }
    assert private == ({name: name for name in hidden} or None)


def test_no_metadata_is_shared_between_calls() -> None:
    first, _ = read_headers([])
    first["activityID"] = "changed"
    assert read_headers([])[0]["activityID"] is None


@given(st.text(), st.binary())
def test_values_of_any_bytes(text: str, data: bytes) -> None:
    metadata, private = read_headers(
        [raw("X-Project-ID", text.encode(errors="replace")), raw("X-Timeout", data)]
    )
    assert metadata["projectID"] == text.encode(errors="replace").decode()
    assert private is not None
    private["X-Timeout"].encode()  # whatever it was, it can be written again


def test_an_empty_header_is_there() -> None:
    assert read_headers([raw("X-Event-Type", b"")])[0]["eventType"] == ""
