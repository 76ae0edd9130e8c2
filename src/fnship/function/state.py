"""The state store, for handlers: values that outlive an invocation, and who may write them.

A value belongs to a key, a key to a scope. Each write names the version that it replaces, so
that of two writers one learns of the other; `StateClient.set` does that in a loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from fnship.errors import Failed
from fnship.function import state_http
from fnship.function.state_model import StateItem, StateScope
from fnship.function.state_protocol import StateProtocol

__all__ = ["StateClient", "StateClientBuilder", "StateItem", "StateScope"]


class StateClient:
    """Reads and writes the keys of one scope.

    Each method has an async twin. The plain ones need no event loop, and work inside a
    coroutine too, though they block its loop meanwhile.

    Every method raises a `fnship.errors.StateError`, which names key and scope: with
    `StateUnavailable` the store was not reached, did not answer in time or answered 5xx;
    with `StateDenied` it refused. A read is repeated once where a pooled connection turns out
    to be closed. A write is never repeated after its answer was lost, since it may have been
    carried out.

    Args:
        base_url: The store's URL.
        token: Its token; never shown anywhere.
        organization_id: The call's organization, sent with every request like the next two.
        project_id: The call's project; None where there is none.
        environment_id: The call's environment; None where there is none.
        scope: Where the keys live.
        timeout: Seconds for one request and its answer.
        verify: Whether certificates are checked; None for yes unless ``skip_tls_verify`` is set.

    Raises:
        ValueError: The URL, the token or an id cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        organization_id: str,
        project_id: str | None,
        environment_id: str | None,
        scope: StateScope,
        timeout: float = 5,
        verify: bool | None = None,
    ) -> None:
        self.scope = scope
        self.timeout = timeout
        self.verify = verify
        self._protocol = StateProtocol(
            base_url, token, organization_id, project_id, environment_id, scope
        )

    def __repr__(self) -> str:
        return f"<StateClient of {self.scope} at {self._protocol.origin}>"

    def get(self, key: str) -> tuple[Any, int]:
        """Read a key.

        Returns:
            Its value and version; None and 0 where it does not exist.
        """
        return state_http.run(self._protocol.get(key), self._terms())

    async def get_async(self, key: str) -> tuple[Any, int]:
        """As `get`."""
        return await state_http.run_async(self._protocol.get(key), self._terms())

    def set_kv(self, key: str, value: Any, version: int, *, ttl: float | None = None) -> int | None:
        """Write a key that is still at `version`.

        Args:
            key: The key.
            value: Anything that JSON can carry.
            version: The version last read; 0 to create the key.
            ttl: Seconds until the store forgets the key; None for never.

        Returns:
            The new version; None where the store does not say it.

        Raises:
            StateConflict: The key is at another version.
            NotJSON: The value is none.
        """
        steps = self._protocol.put(key, value, version, ttl)
        return state_http.run(steps, self._terms())

    async def set_kv_async(
        self, key: str, value: Any, version: int, *, ttl: float | None = None
    ) -> int | None:
        """As `set_kv`."""
        steps = self._protocol.put(key, value, version, ttl)
        return await state_http.run_async(steps, self._terms())

    def set(
        self,
        key: str,
        update_fn: Callable[[Any], Any],
        max_retries: int = 5,
        *,
        ttl: float | None = None,
    ) -> Any:
        """Change a key, whoever else does so at the same time.

        Reads the key, asks `update_fn` for the new value and writes it; where somebody else
        wrote in between, does it all again after a short pause that grows.

        Args:
            key: The key.
            update_fn: Makes the new value of the old one, which is None where the key does
                not exist. It may be called several times.
            max_retries: How often to try again.
            ttl: Seconds until the store forgets the key; None for never.

        Returns:
            The new value.

        Raises:
            StateContention: Somebody else was first every time.
            NotJSON: The new value is none.
        """
        steps = self._protocol.update(key, update_fn, max_retries, ttl)
        return state_http.run(steps, self._terms())

    async def set_async(
        self,
        key: str,
        update_fn: Callable[[Any], Any] | Callable[[Any], Awaitable[Any]],
        max_retries: int = 5,
        *,
        ttl: float | None = None,
    ) -> Any:
        """As `set`; `update_fn` may be async."""
        steps = self._protocol.update(key, update_fn, max_retries, ttl)
        return await state_http.run_async(steps, self._terms())

    def delete(self, key: str) -> None:
        """Delete a key. One that does not exist is as good as deleted."""
        state_http.run(self._protocol.delete(key), self._terms())

    async def delete_async(self, key: str) -> None:
        """As `delete`."""
        await state_http.run_async(self._protocol.delete(key), self._terms())

    def list(self, prefix: str = "", limit: int | None = 100) -> _Items:
        """The scope's keys, in the store's order, which for ours is that of the keys.

        Args:
            prefix: Only keys that start with this.
            limit: At most so many; None for all. They are fetched page by page.

        Raises:
            StateDenied: This store offers no listing.
        """
        return state_http.run(self._protocol.list(prefix, limit), self._terms())

    async def list_async(self, prefix: str = "", limit: int | None = 100) -> _Items:
        """As `list`."""
        steps = self._protocol.list(prefix, limit)
        return await state_http.run_async(steps, self._terms())

    def _terms(self) -> state_http.Terms:
        return state_http.Terms(self.timeout, self.verify)


class StateClientBuilder:
    """Makes clients for the store that a request came with.

    ::

        counter = StateClientBuilder(request).with_project_scope()

    Args:
        request: What the handler was called with.

    Raises:
        Failed: The call carried no state store; says which key of the metadata is missing.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        metadata = request.get("metadata")
        self._metadata: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
        self._base_url = self._required("stateStoreUrl")
        self._token = self._required("stateStoreToken")
        self._organization_id = self._required("organizationID")

    def with_org_scope(self) -> StateClient:
        """A client for the organization's keys."""
        return self._client(StateScope(self._organization_id))

    def with_project_scope(self) -> StateClient:
        """A client for the project's keys. Raises `Failed` where the call had no project."""
        return self._client(StateScope(self._organization_id, self._required("projectID")))

    def with_env_scope(self) -> StateClient:
        """A client for the environment's keys. Raises `Failed` where the call had none."""
        environment_id = self._required("environmentID")
        return self._client(
            StateScope(self._organization_id, self._metadata.get("projectID"), environment_id)
        )

    def _client(self, scope: StateScope) -> StateClient:
        return StateClient(
            self._base_url,
            self._token,
            self._organization_id,
            self._metadata.get("projectID"),
            self._metadata.get("environmentID"),
            scope,
        )

    def _required(self, name: str) -> str:
        value = self._metadata.get(name)
        if not isinstance(value, str) or not value:
            raise Failed(
                f'this call carried no state store for that scope: request["metadata"]["{name}"] '
                "is missing. An engine sends it as a header; a plain call has none"
            )
        return value


_Items: TypeAlias = list[StateItem]  # inside the class, list is a method
