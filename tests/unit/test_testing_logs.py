from __future__ import annotations

import threading

import pytest

from fnship.testing.logs import LogSink, split_lines


def upload(sink: LogSink, body: bytes, *, attempt: int = 1, batch: str | None = None) -> None:
    known = sink.attempt("a1", attempt)
    sink.store(known, sink.arrived(known, batch, body))


def test_an_attempt_has_tokens_and_a_path_of_its_own() -> None:
    sink = LogSink()
    attempts = [sink.attempt(*each) for each in (("a1", 1), ("a1", 2), ("a2", 1))]
    assert sink.attempt("a1", 1) is attempts[0]
    for what in ("token", "state_token", "path"):
        assert len({getattr(each, what) for each in attempts}) == 3
    for each in attempts:
        assert sink.attempt_at(each.path) is each
        assert each.accepts(each.token)
        assert not each.accepts("")
        assert not each.accepts(each.state_token)
        assert sink.is_state_token(each.state_token)
        assert not sink.is_state_token(each.token)
    assert sink.attempt_at("/logs/99") is None


def test_a_batch_is_stored_once_for_an_attempt() -> None:
    sink = LogSink()
    for attempt, batch in ((1, "1-1"), (1, "1-1"), (2, "1-1"), (1, "1-2"), (1, None), (1, None)):
        upload(sink, b"%d %s\n" % (attempt, str(batch).encode()), attempt=attempt, batch=batch)
    assert split_lines(sink.text("a1")) == ["1 1-1", "2 1-1", "1 1-2", "1 None", "1 None"]
    assert [each.stored for each in sink.uploads()] == [True, False, True, True, True, True]


def test_an_unknowing_sink_stores_every_batch() -> None:
    sink = LogSink(honour_batches=False)
    upload(sink, b"x\n", batch="1-1")
    upload(sink, b"x\n", batch="1-1")
    assert sink.text("a1") == "x\nx\n"


def test_a_sink_that_only_counts() -> None:
    sink = LogSink(keep=False)
    upload(sink, b"x\ny\n", batch="1-1")
    assert (sink.text("a1"), sink.uploads()) == ("", [])
    assert (sink.stored_uploads, sink.stored_lines) == (1, 2)


def test_lines_end_in_newlines_and_nothing_else() -> None:
    sink = LogSink()
    upload(sink, "a\u2028b\x0bc\r\n\nunfinished \xe9".encode() + b"\xff")
    assert split_lines(sink.text("a1")) == ["a\u2028b\x0bc\r", "", "unfinished é\ufffd"]
    assert split_lines("") == []


def test_the_callback_gets_each_stored_line(caplog: pytest.LogCaptureFixture) -> None:
    sink = LogSink()
    seen = []
    sink.on_line = lambda activity_id, line: seen.append((activity_id, line))
    upload(sink, b"a\nb\n", batch="1-1")
    upload(sink, b"a\nb\n", batch="1-1")
    assert seen == [("a1", "a"), ("a1", "b")]

    def broken(activity_id: str, line: str) -> None:
        raise RuntimeError("no")

    sink.on_line = broken
    upload(sink, b"c\n")
    assert sink.text("a1") == "a\nb\nc\n"
    assert "on_line failed" in caplog.text


def test_waiting_for_lines() -> None:
    sink = LogSink()
    assert not sink.wait_for("a1", 1, timeout=0.01)
    thread = threading.Thread(target=upload, args=(sink, b"a\nb\n"))
    thread.start()
    assert sink.wait_for("a1", 2, timeout=30)
    thread.join()
