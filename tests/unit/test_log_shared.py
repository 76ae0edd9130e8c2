from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.engine.form import read_form
from fnship.function.log_form import FormPart, write_form
from fnship.function.log_poster import Posted, PostFailed
from fnship.function.log_shared import NotShared, SharedUploads
from fnship.testing.multipart import parse_multipart


class Endpoint:
    """Takes uploads one after another, as the test lets it."""

    def __init__(self) -> None:
        self.requests: list[list[bytes]] = []
        self.answers: list[Posted | Exception] = []
        self.go = asyncio.Semaphore(0)
        self.tasks: set[asyncio.Task[None]] = set()
        self.shared = SharedUploads(self.send, self.spawn)

    async def send(self, headers: dict[str, str], body: bytes) -> Posted:
        contents = [part.body for part in parse_multipart(headers["Content-Type"], body)]
        self.requests.append(contents)
        await self.go.acquire()
        answer = self.answers.pop(0) if self.answers else stored(len(contents))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.add(asyncio.get_running_loop().create_task(work))

    def post(self, content: bytes) -> asyncio.Task[int]:
        return asyncio.get_running_loop().create_task(self.shared.post(FormPart(content)))

    async def settle(self, *posts: asyncio.Task[int]) -> list[Any]:
        for _ in range(len(posts) + 1):
            self.go.release()
        return await asyncio.gather(*posts, return_exceptions=True)


def stored(count: int) -> Posted:
    return Posted(200, msgspec.json.encode({"parts": [{"status": 200}] * count}))


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_comes_while_two_are_on_their_way_shares_the_next() -> None:
    async def main() -> None:
        endpoint = Endpoint()
        posts = []
        for number in range(10):
            posts.append(endpoint.post(b"%d" % number))
            await turns()
        assert endpoint.requests == [[b"0"], [b"1"]]
        assert await endpoint.settle(*posts) == [200] * 10
        assert endpoint.requests[2] == [b"%d" % number for number in range(2, 10)]
        assert len(endpoint.requests) == 3

    asyncio.run(main())


def test_each_part_has_its_own_status() -> None:
    async def main() -> None:
        endpoint = Endpoint()
        first = endpoint.post(b"a"), endpoint.post(b"b"), endpoint.post(b"c")
        endpoint.answers = [
            Posted(200, b'{"parts":[{"status":200},{"status":401,"error":"no"},{"status":507}]}')
        ]
        assert await endpoint.settle(*first) == [200, 401, 507]

    asyncio.run(main())


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_status_that_passes_is_that_of_every_part(status: int) -> None:
    async def main() -> None:
        endpoint = Endpoint()
        posts = [endpoint.post(b"a"), endpoint.post(b"b")]
        endpoint.answers = [Posted(status)]
        assert await endpoint.settle(*posts) == [status, status]
        assert endpoint.shared.takes(b"more")

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        Posted(404),
        Posted(307),
        Posted(201, b'{"parts":[{"status":200},{"status":200}]}'),
        Posted(200, b'{"stored":true}'),
        Posted(200, b'{"parts":[{"status":200}]}'),
        Posted(200, b"<html>"),
    ],
)
def test_any_other_answer_ends_sharing(answer: Posted) -> None:
    async def main() -> None:
        endpoint = Endpoint()
        posts = [endpoint.post(b"a"), endpoint.post(b"b")]
        endpoint.answers = [answer]
        told = await endpoint.settle(*posts)
        assert [type(each) for each in told] == [NotShared, NotShared]
        assert not endpoint.shared.takes(b"more")

    asyncio.run(main())


@pytest.mark.parametrize("trouble", [PostFailed("not reached"), RuntimeError("a defect")])
def test_trouble_is_told_to_all(trouble: Exception) -> None:
    async def main() -> None:
        endpoint = Endpoint()
        posts = [endpoint.post(b"a"), endpoint.post(b"b")]
        endpoint.answers = [trouble]
        told = await endpoint.settle(*posts)
        assert [type(each) for each in told] == [PostFailed, PostFailed]
        assert told[0] is not told[1]
        assert await endpoint.settle(endpoint.post(b"c")) == [200]

    asyncio.run(main())


def test_who_has_gone_is_not_sent_and_a_sender_that_is_cut_off_says_so() -> None:
    async def main() -> None:
        endpoint = Endpoint()
        posts = []
        for number in range(4):
            posts.append(endpoint.post(b"%d" % number))
            await turns()
        posts[2].cancel()
        await turns()
        endpoint.go.release()
        await turns()
        assert endpoint.requests == [[b"0"], [b"1"], [b"3"]]
        for task in endpoint.tasks:
            task.cancel()
        told = await asyncio.gather(posts[1], posts[3], return_exceptions=True)
        assert [type(each) for each in told] == [PostFailed, PostFailed]

    asyncio.run(main())


def test_a_request_is_bounded_and_what_is_large_goes_alone() -> None:
    async def main() -> None:
        endpoint = Endpoint()
        assert not endpoint.shared.takes(b"x" * (2**16 + 1))
        posts = [endpoint.post(b"first"), endpoint.post(b"second")]
        await turns()
        posts += [endpoint.post(b"x" * 2**16) for _ in range(40)]
        posts += [endpoint.post(b"%d" % number) for number in range(500)]
        assert await endpoint.settle(*posts) == [200] * len(posts)
        assert max(map(len, endpoint.requests)) <= 200
        assert max(sum(map(len, each)) for each in endpoint.requests) <= 2**20 + 2**16

    asyncio.run(main())


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.binary(max_size=60),
                st.sampled_from([b"--fnship-log-content", b"\r\n--fnship-log-content--\r\n"]),
            ),
            st.dictionaries(
                st.sampled_from(["X-Workflow-Token", "X-Log-Batch"]),
                st.text("abcXYZ019.-_", min_size=1, max_size=20),
            ),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_both_engines_read_the_form(parts: list[tuple[bytes, dict[str, str]]]) -> None:
    kind, body = write_form([FormPart(*each) for each in parts])
    for expected, ours, theirs in zip(
        parts, read_form(kind, body), parse_multipart(kind, body), strict=True
    ):
        content, headers = expected
        assert ours.content == theirs.body == content
        for name, value in headers.items():
            assert ours.headers[name.lower().encode()] == value.encode()
            assert theirs.headers[name.lower().encode()] == value
