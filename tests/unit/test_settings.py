from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.errors import SettingError, UsageError
from fnship.settings import Settings, granted_cpus

VARIABLES = {field.metadata["variable"]: field.name for field in dataclasses.fields(Settings)}


def read(variable: str, text: str) -> object:
    return getattr(Settings.from_env({variable: text}), VARIABLES[variable])


def test_defaults_are_those_of_the_contract() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert settings.target == "function.handler:handle"
    assert settings.response_envelope == "auto"
    assert (settings.max_workers, settings.max_queue) == (50, 1000)
    assert settings.max_body_size == 10 * 1024 * 1024
    assert settings.log_level == logging.INFO
    assert (settings.log_buffer_capacity, settings.log_buffer_bytes) == (10, 8 * 1024 * 1024)
    assert (settings.log_flush_timeout, settings.log_flush_wait) == (10.0, 0.2)
    assert settings.log_upload_max_connections == 100
    assert settings.capture_stdout
    assert not settings.access_log
    assert not settings.skip_tls_verify
    assert settings.exec_timeout is None
    assert settings.port is None
    assert settings.gunicorn_workers is None


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("PORT", "0", 0),
        ("PORT", " 8080 ", 8080),
        ("GUNICORN_WORKERS", "4", 4),
        ("MAX_QUEUE", "0", 0),
        ("RESPONSE_ENVELOPE", "Always", "always"),
        ("exec_timeout", "1m30s", 90.0),
        ("exec_timeout", "0", 0.0),
        ("healthcheck_interval", "30", 30.0),
        ("LOG_LEVEL", "debug", logging.DEBUG),
        ("LOG_LEVEL", "Warning", logging.WARNING),
        ("LOG_LEVEL", "15", 15),
        ("LOG_FORMAT", "JSON", "json"),
        ("LOG_FLUSH_WAIT", "0", 0.0),
        ("LOG_FLUSH_WAIT", "1500", 1.5),
        ("LOG_FLUSH_WAIT", "2s", 2.0),
        ("LOG_FLUSH_TIMEOUT", "250ms", 0.25),
        (
            "ENGINE_ALLOWED_HOSTS",
            "Engine, *.example.com ,,b:8700",
            ("engine", "*.example.com", "b:8700"),
        ),
        ("skip_tls_verify", "true", True),
        ("skip_tls_verify", "FALSE", False),
        ("CAPTURE_STDOUT", "off", False),
        ("ACCESS_LOG", "yes", True),
        ("FUNCTION_NAME", "my function", "my function"),
        ("WATCHDOG", "Native", "native"),
    ],
)
def test_what_is_read(variable: str, text: str, value: object) -> None:
    assert read(variable, text) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PORT", "http"),
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "8080.0"),
        ("PORT", "٣"),
        ("PORT", "9" * 5000),
        ("PORT", "\udcff"),
        ("GUNICORN_WORKERS", "0"),
        ("GUNICORN_WORKERS", "many"),
        ("MAX_WORKERS", "0"),
        ("MAX_QUEUE", "-1"),
        ("MAX_BODY_SIZE", "0"),
        ("MAX_BODY_SIZE", "10 PiB"),
        ("MAX_BODY_SIZE", "1.5MiB"),
        ("MAX_BODY_SIZE", "-1"),
        ("MAX_BODY_SIZE", "9" * 5000),
        ("RESPONSE_ENVELOPE", "sometimes"),
        ("exec_timeout", "soon"),
        ("exec_timeout", "-1s"),
        ("healthcheck_interval", "1 minute"),
        ("LOG_LEVEL", "loud"),
        ("LOG_LEVEL", "²"),
        ("LOG_LEVEL", "9" * 5000),
        ("LOG_FORMAT", "xml"),
        ("LOG_FLUSH_WAIT", "-200ms"),
        ("LOG_FLUSH_WAIT", "9" * 400),
        ("LOG_FLUSH_WAIT", "9" * 5000),
        ("LOG_FLUSH_TIMEOUT", "inf"),
        ("LOG_BUFFER_CAPACITY", "0"),
        ("LOG_UPLOAD_MAX_CONNECTIONS", "0"),
        ("ACCESS_LOG", "maybe"),
        ("ENGINE_ALLOWED_HOSTS", "https://engine"),
        ("ENGINE_ALLOWED_HOSTS", "user@engine"),
        ("WATCHDOG", "mine"),
    ],
)
def test_what_is_not_valid_is_named(variable: str, text: str) -> None:
    with pytest.raises(SettingError) as caught:
        read(variable, text)
    assert caught.value.name == variable
    assert str(caught.value).startswith(f"{variable}={text!r} is not valid: expected ")
    assert "Exceeds the limit" not in str(caught.value)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_variable_counts_as_unset(text: str) -> None:
    assert Settings.from_env(dict.fromkeys(VARIABLES, text)) == Settings()


UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3} | {
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}


@given(
    st.integers(1, 10**12),
    st.sampled_from(sorted(UNITS)),
    st.sampled_from([str.lower, str.upper, str.title]),
    st.sampled_from(["", " "]),
)
def test_sizes(count: int, unit: str, case: type, space: str) -> None:
    assert read("MAX_BODY_SIZE", f"{count}{space}{case(unit)}") == count * UNITS[unit]


@given(st.sampled_from(sorted(VARIABLES)), st.text() | st.text(alphabet="0123456789.-+smhinfa"))
def test_any_text_is_a_value_or_a_clear_mistake(variable: str, text: str) -> None:
    try:
        Settings.from_env({variable: text})
        named = variable
    except SettingError as exc:
        named = exc.name
    assert named == variable


def test_the_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNCTION_NAME", "from the environment")
    assert Settings.from_env().function_name == "from the environment"


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc] # which is the point


@pytest.mark.parametrize(
    ("environ", "behind", "counts"),
    [
        ({}, False, True),
        ({"exec_timeout": "0"}, False, True),
        ({"fprocess": "python main.py"}, True, True),
        ({"fprocess": "python main.py", "exec_timeout": "0"}, True, False),
        ({"fprocess": "python main.py", "exec_timeout": "10s"}, True, True),
        ({"fprocess": "python main.py", "exec_timeout": "0", "WATCHDOG": "native"}, False, False),
        ({"exec_timeout": "0", "WATCHDOG": "native"}, False, False),
        ({"exec_timeout": "9", "WATCHDOG": "native"}, False, True),
    ],
)
def test_behind_a_watchdog(environ: dict[str, str], behind: bool, counts: bool) -> None:
    settings = Settings.from_env(environ)
    assert settings.behind_watchdog is behind
    assert settings.x_timeout_counts is counts


def test_workers() -> None:
    assert Settings(gunicorn_workers=7).workers == 7
    assert Settings().workers == granted_cpus()


@pytest.mark.parametrize(
    ("files", "granted"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu.max": "0 0"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, 8),
    ],
)
def test_cpus_that_the_cgroup_grants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], granted: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert granted_cpus(tmp_path) == granted


def test_cpus_where_there_is_no_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert granted_cpus(tmp_path) == 1
