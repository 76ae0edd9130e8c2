"""What the workers share of the native watchdog: places, slots, the lock file, the metrics."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import socket
import sys
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from watchdogs import parse_metrics

from fnship.errors import UsageError
from fnship.server import watchdog
from fnship.server.places import EventPlaces, PipePlaces, Places, make_places
from fnship.server.watchdog import Watchdog, WatchdogShare
from fnship.settings import Settings

MakeShare = Callable[..., WatchdogShare]


@pytest.fixture
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of our own for the lock file."""
    file = tmp_path / ".lock"
    monkeypatch.setattr(watchdog, "LOCK_FILE", file)
    return file


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture
def make(listener: socket.socket, lock_file: Path) -> Iterator[MakeShare]:
    made = []

    def make(workers: int = 1, **values: Any) -> WatchdogShare:
        share = WatchdogShare(Settings(**values), workers, listener)
        made.append(share)
        return share

    yield make
    for share in made:
        close_places(share)


def close_places(share: WatchdogShare) -> None:
    """Close the pipe of a share; a server's lives as long as its process."""
    if share._places is not None:
        close_ends(share._places)


def close_ends(places: Places) -> None:
    for end in vars(places).values():
        os.close(end)


def joined(share: WatchdogShare, count: int) -> list[Watchdog]:
    return [share.join(share.assign()) for _ in range(count)]


class TestPlaces:
    @pytest.mark.parametrize(("workers", "limit"), [(1, 1), (1, 7), (2, 1), (2, 5), (4, 3)])
    def test_there_are_as_many_as_the_limit_over_all_workers(
        self, make: MakeShare, workers: int, limit: int
    ) -> None:
        share = make(workers, max_inflight=limit)
        dogs = joined(share, workers)
        taken = [dog for dog, _ in zip(dogs * limit, range(limit), strict=False)]
        assert all(dog.enter() for dog in taken)
        assert all(dog.full for dog in dogs)
        assert not any(dog.enter() for dog in dogs)
        taken[0].leave("POST", 200, 0.1)
        assert not any(dog.full for dog in dogs)
        assert dogs[-1].enter()
        assert not any(dog.enter() for dog in dogs)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_0_is_no_limit(self, make: MakeShare, workers: int) -> None:
        dogs = joined(make(workers, max_inflight=0), workers)
        assert all(dog.enter() for dog in dogs * 500)
        assert not any(dog.full for dog in dogs)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_the_largest_limit_is_one(self, make: MakeShare, workers: int) -> None:
        (dog, *_) = joined(make(workers, max_inflight=65_536), workers)
        assert dog.enter()
        dog.leave("POST", 200, 0.0)
        assert all(dog.enter() for _ in range(65_536))
        assert dog.full
        assert not dog.enter()
        for _ in range(65_536):
            dog.leave("POST", 200, 0.0)
        assert dog.enter()

    def test_a_dead_worker_s_are_given_back(self, make: MakeShare) -> None:
        share = make(2, max_inflight=3)
        slots = [share.assign(), share.assign()]
        assert sorted(slots) == [0, 1]
        dead, living = (share.join(slot) for slot in slots)
        assert [dead.enter(), dead.enter(), living.enter(), living.enter()] == [True] * 3 + [False]
        share.left(slots[0])
        assert share.counters.in_flight == 1
        assert [living.enter(), living.enter(), living.enter()] == [True, True, False]
        assert share.assign() == slots[0]  # for whoever takes its place

    def test_a_worker_that_ends_in_peace_takes_none_with_it(self, make: MakeShare) -> None:
        share = make(2, max_inflight=1)
        slot = share.assign()
        dog = share.join(slot)
        assert dog.enter()
        dog.leave("POST", 200, 0.0)
        share.left(slot)
        other = share.join(share.assign())
        assert [other.enter(), other.enter()] == [True, False]

    def test_refused_requests_are_counted_and_hold_none(self, make: MakeShare) -> None:
        share = make(2, max_inflight=1)
        (dog, _) = joined(share, 2)
        assert dog.enter()
        for _ in range(3):
            assert not dog.enter()
            dog.refused("POST", 429)
        assert share.counters.in_flight == 1
        assert [(code, sum(counts)) for _, code, counts, _ in share.counters.series()] == [(429, 3)]
        dog.leave("POST", 200, 0.0)
        assert not dog.full

    def test_forked_processes_never_take_more_than_there_are(self, make: MakeShare) -> None:
        """Each takes all it can get, at once with the others."""
        share = make(4, max_inflight=1000)
        slots = [share.assign() for _ in range(4)]
        begin, go = os.pipe()
        children = []
        for slot in slots:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
                pid = os.fork()
            if pid == 0:
                os.close(go)
                os.read(begin, 1)
                dog = share.join(slot)
                while dog.enter():
                    pass
                os._exit(0)
            children.append(pid)
        os.close(go)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        os.close(begin)
        assert share.counters.in_flight == 1000
        for slot in slots:  # they are gone with what they held
            share.left(slot)
        assert share.counters.in_flight == 0
        dog = share.join(share.assign())
        assert sum(dog.enter() for _ in range(1001)) == 1000


class Lives(RuleBasedStateMachine):
    """Workers that take, give back, die and are replaced, against a plain account of it."""

    @initialize(workers=st.integers(1, 3), limit=st.integers(1, 6))
    def start(self, workers: int, limit: int) -> None:
        self.listener = socket.socket()
        self.limit = limit
        self.share = WatchdogShare(Settings(max_inflight=limit), workers, self.listener)
        self.held = [0] * workers
        self.slots = [self.share.assign() for _ in range(workers)]
        self.dogs = [self.share.join(slot) for slot in self.slots]

    def teardown(self) -> None:
        close_places(self.share)
        self.listener.close()

    @rule(number=st.integers(0, 2))
    def enter(self, number: int) -> None:
        index = number % len(self.dogs)
        there_is_one = sum(self.held) < self.limit
        assert self.dogs[index].enter() is there_is_one
        self.held[index] += there_is_one

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from([i for i, count in enumerate(self.held) if count]))
        self.dogs[index].leave("POST", 200, 0.01)
        self.held[index] -= 1

    @rule(number=st.integers(0, 2))
    def die_and_be_replaced(self, number: int) -> None:
        index = number % len(self.dogs)
        self.share.left(self.slots[index])
        self.held[index] = 0
        self.slots[index] = self.share.assign()
        self.dogs[index] = self.share.join(self.slots[index])

    @invariant()
    def the_accounts_agree(self) -> None:
        assert self.share.counters.in_flight == sum(self.held)
        assert all(dog.full is (sum(self.held) >= self.limit) for dog in self.dogs)
        assert len(set(self.slots)) == len(self.slots)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=50, stateful_step_count=30)


class TestLockFile:
    def test_one_worker_s_is_there_until_it_drains(self, make: MakeShare, lock_file: Path) -> None:
        async def life() -> None:
            share = make()
            lock_file.touch()  # as a killed server leaves it
            share.prepare_lock()
            (dog,) = joined(share, 1)
            assert (dog.accepting, lock_file.exists()) == (False, False)
            await dog.open()
            assert (dog.accepting, lock_file.exists()) == (True, True)
            dog.drain()
            assert (dog.accepting, lock_file.exists()) == (False, False)
            dog.drain()  # twice does no harm
            await dog.close()

        asyncio.run(life())

    def test_several_workers_is_there_until_all_of_them_are_told_to_stop(
        self, make: MakeShare, lock_file: Path
    ) -> None:
        async def life() -> None:
            share = make(2)
            share.prepare_lock()
            one, other = joined(share, 2)
            await one.open()
            await other.open()
            await one.close()  # told by itself
            assert [each.accepting for each in (one, other)] == [False, True]
            assert lock_file.exists()
            share.close()
            assert [each.accepting for each in (one, other)] == [False, False]
            assert not lock_file.exists()
            late = share.join(0)
            await late.open()  # one that was still starting does not bring it back
            assert not lock_file.exists()
            await late.close()
            await other.close()

        asyncio.run(life())

    def test_a_worker_s_process_does_not_speak_for_all(
        self, make: MakeShare, lock_file: Path
    ) -> None:
        share = make(2)
        share.take_lock()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            pid = os.fork()
        if pid == 0:
            share.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert not share.closing
        assert lock_file.exists()

    def test_one_that_is_gone_already_does_no_harm(self, make: MakeShare, lock_file: Path) -> None:
        share = make()
        share.take_lock()
        lock_file.unlink()
        share.close()
        assert share.closing

    def test_one_that_cannot_be_removed_does_no_harm(
        self, make: MakeShare, lock_file: Path
    ) -> None:
        share = make()
        lock_file.mkdir()
        share.close()
        assert share.closing

    def test_one_that_cannot_be_made_is_a_mistake(
        self, make: MakeShare, lock_file: Path, tmp_path: Path
    ) -> None:
        lock_file.symlink_to(tmp_path / "no" / "folder")
        with pytest.raises(UsageError, match=r"cannot write .*\.lock: .*suppress_lock=true"):
            make().prepare_lock()

    def test_it_can_be_suppressed(self, make: MakeShare, lock_file: Path) -> None:
        share = make(suppress_lock=True)
        share.prepare_lock()
        share.take_lock()
        assert not lock_file.exists()
        lock_file.touch()  # somebody else's
        share.close()
        assert share.closing
        assert lock_file.exists()


def shared_places() -> list[Any]:
    """Every way to count places that this system has."""
    kinds = [EventPlaces] if hasattr(os, "eventfd") else []
    return [*kinds, PipePlaces]


class TestSharedPlaces:
    @pytest.fixture(params=shared_places())
    def places(self, request: pytest.FixtureRequest) -> Iterator[Callable[[int], Places]]:
        made = []

        def make(count: int) -> Places:
            made.append(request.param(count))
            return made[-1]

        yield make
        for each in made:
            close_ends(each)

    @pytest.mark.parametrize("count", [1, 2, 4095, 4096, 4097, 61_440])
    def test_there_are_always_as_many(self, places: Callable[[int], Places], count: int) -> None:
        """However they are taken and given back: none is lost, and none cannot be given back."""
        there = places(count)
        chance = random.Random(count)
        out = 0
        for _ in range(2_000):
            for _ in range(chance.choice((1, 1, 10, 5_000))):
                if not there.take():
                    assert out == count
                    break
                out += 1
            back = chance.choice((0, 1, out // 2, out))
            for each in chance.choice(([back], [1] * back)):
                there.give(each)
            out -= back
        assert sum(there.take() for _ in range(count + 1)) == count - out

    def test_of_none_none_is_given(self, places: Callable[[int], Places]) -> None:
        there = places(1)
        there.give(0)
        assert [there.take(), there.take()] == [True, False]

    @pytest.mark.skipif(not hasattr(os, "eventfd"), reason="only Linux has the kernel's semaphore")
    def test_a_pipe_counts_where_the_system_has_nothing_better(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(os, "eventfd")
        there = make_places(3)
        assert [there.take() for _ in range(4)] == [True, True, True, False]
        close_ends(there)

    @pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="only Linux sizes pipes")
    @pytest.mark.parametrize(("size", "allowed"), [(4096, 1), (8192, 4097)])
    def test_a_system_whose_pipes_hold_fewer_is_a_mistake(
        self, monkeypatch: pytest.MonkeyPatch, size: int, allowed: int
    ) -> None:
        # What pipe(7) does to a user who has too many pipes; the smallest one holds a page.
        def small() -> tuple[int, int]:
            reader, writer = pipe()
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, size)
            return reader, writer

        pipe = os.pipe
        monkeypatch.setattr(os, "pipe", small)
        with pytest.raises(UsageError, match=rf"max_inflight=5000 .* allows {allowed}\."):
            PipePlaces(5000)
        there = PipePlaces(allowed)
        for _ in range(10_000):
            assert there.take()
            there.give(1)
        close_ends(there)


class TestScrape:
    def scraped(self, make: MakeShare, sent: bytes, listener: socket.socket) -> bytes:
        """What the metrics' port answers to some bytes."""

        async def ask(_: Watchdog) -> bytes:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(sent)
            if not sent.endswith(b"\r\n\r\n"):
                writer.write_eof()
            try:
                return await reader.read()
            except ConnectionResetError:
                return b""
            finally:
                writer.close()

        return self.living(make, ask)

    def living(
        self, make: MakeShare, act: Callable[[Watchdog], Coroutine[Any, Any, bytes]]
    ) -> bytes:
        async def life() -> bytes:
            (dog,) = joined(make(), 1)
            await dog.open()
            try:
                dog.enter()
                dog.leave("POST", 200, 0.2)
                return await act(dog)
            finally:
                await dog.close()

        return asyncio.run(life())

    @pytest.mark.parametrize("target", [b"/metrics", b"/metrics?name=x"])
    def test_it_answers_in_prometheus_format(
        self, make: MakeShare, listener: socket.socket, target: bytes
    ) -> None:
        got = self.scraped(make, b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target, listener)
        head, _, body = got.decode().partition("\r\n\r\n")
        status, *lines = head.lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert status == "http/1.1 200 ok"
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        assert int(headers["content-length"]) == len(body)
        assert parse_metrics(body).requests(code="200") == 1

    @pytest.mark.parametrize(
        "sent", [b"GET / HTTP/1.1\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n", b"\r\n\r\n"]
    )
    def test_there_is_nothing_else(
        self, make: MakeShare, listener: socket.socket, sent: bytes
    ) -> None:
        assert self.scraped(make, sent, listener).startswith(b"HTTP/1.1 404 ")

    @pytest.mark.parametrize("sent", [b"", b"GET /metrics", b"\x16\x03\x01" * 9, b"x" * 200_000])
    def test_nonsense_is_no_reason_to_fail(
        self, make: MakeShare, listener: socket.socket, sent: bytes
    ) -> None:
        assert self.scraped(make, sent, listener) == b""

    def test_one_that_says_nothing_holds_up_no_other(
        self, make: MakeShare, listener: socket.socket
    ) -> None:
        async def ask(_: Watchdog) -> bytes:
            where = listener.getsockname()
            silent, writer = await asyncio.open_connection(*where)
            reader, other = await asyncio.open_connection(*where)
            other.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            answer = await reader.read()
            for each in (writer, other):
                each.close()
            await silent.read()
            return answer

        assert self.living(make, ask).startswith(b"HTTP/1.1 200 ")
