"""`xai serve`: settings from flags, the environment and a file, and `xai token`."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import signal
import sys
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.test_cli import one_error, xai
from xai_service import workers
from xai_service.access_file import Grants, Role
from xai_service.cli import main
from xai_service.config import ServiceConfig
from xai_service.wire import server

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def served_with(monkeypatch: pytest.MonkeyPatch) -> list[ServiceConfig]:
    configs: list[ServiceConfig] = []

    def serve(config: ServiceConfig, on_ready: Callable[[tuple[str, ...]], None], worker: int | None) -> None:
        assert worker is None
        configs.append(config)
        on_ready(("127.0.0.1:4321", "unix:/run/xai"))

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.delenv("XAI_METRICS_LISTEN")  # which is set for tests that start real servers
    return configs


def test_serve_has_an_option_for_each_setting(served_with: list[ServiceConfig], tmp_path: Path) -> None:
    text = xai("serve", "--help").stdout
    for field in dataclasses.fields(ServiceConfig):
        assert f"--{field.name.replace('_', '-')}" in text
        assert f"XAI_{field.name.upper()}" in text
    result = xai("serve", "--repository", str(tmp_path))
    assert result.stdout == "listening on 127.0.0.1:4321, unix:/run/xai\n"
    assert served_with == [ServiceConfig(repository=tmp_path)]


def test_serve_takes_options_and_the_environment(
    served_with: list[ServiceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAI_LEDGER", str(tmp_path / "l"))
    options = ("--listen", "127.0.0.1:0", "--listen", "unix:/run/xai", "--reply-reserve-ms", "2.5", "--json")
    result = xai("serve", "--repository", str(tmp_path), *options)
    assert json.loads(result.stdout) == {"listening": ["127.0.0.1:4321", "unix:/run/xai"]}
    config = served_with[0]
    assert config.listen == ("127.0.0.1:0", "unix:/run/xai")
    assert (config.reply_reserve_ms, config.ledger) == (2.5, tmp_path / "l")


def test_serve_refuses_bad_settings(served_with: list[ServiceConfig], tmp_path: Path) -> None:
    assert "reply_reserve_ms" in one_error(xai("serve", "--repository", str(tmp_path), "--reply-reserve-ms", "-1"), 2)
    assert "Missing option '--repository'" in one_error(xai("serve"), 2)
    assert served_with == []


def test_serve_logs_to_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(*_: Any) -> None:
        logging.getLogger("xai_service.model").info("model loan is ready")
        logging.getLogger("elsewhere").error("trouble")

    monkeypatch.setattr(server, "serve", serve)
    before = logging.getLogger().handlers[:]
    result = xai("serve", "--repository", str(tmp_path))
    time, message = result.stderr.splitlines()[0].split(" ", 1)
    assert datetime.fromisoformat(time).utcoffset() == timedelta(0)
    assert message == "INFO xai_service.model: model loan is ready"
    assert "ERROR elsewhere: trouble" in result.stderr
    assert result.stdout == ""
    quiet = xai("serve", "--repository", str(tmp_path), "--log-level", "ERROR").stderr.splitlines()
    assert [line.split(" ", 1)[1] for line in quiet] == ["ERROR elsewhere: trouble"]
    assert logging.getLogger().handlers == before
    assert "'--log-level'" in one_error(xai("serve", "--repository", str(tmp_path), "--log-level", "loud"), 2)


def test_signals_end_it_before_it_serves_and_are_as_before_afterwards(tmp_path: Path, monkeypatch) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def serve(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.setattr(server, "serve", serve)
    assert xai("serve", "--repository", str(tmp_path)).exit_code == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "xai.toml"
    path.write_text(
        f"""
        repository = "{tmp_path}"
        listen = ["127.0.0.1:0", "unix:/run/xai"]
        rpc_threads = 3
        drain_s = 7
        reflection = false
        log_level = "warning"
        max_waiting_rpcs = 11
        """
    )
    return path


def test_flags_win_over_the_environment_and_that_over_the_file(
    served_with: list[ServiceConfig], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAI_RPC_THREADS", "4")
    monkeypatch.setenv("XAI_DRAIN_S", "8")
    result = xai("serve", "--config", str(file), "--drain-s", "9")
    assert result.exit_code == 0, result.stderr
    config = served_with[0]
    assert config.repository == file.parent
    assert config.listen == ("127.0.0.1:0", "unix:/run/xai")
    assert (config.drain_s, config.rpc_threads, config.max_waiting_rpcs, config.reflection) == (9.0, 4, 11, False)
    assert isinstance(config.drain_s, float)
    monkeypatch.setenv("XAI_CONFIG", str(file))
    xai("serve", "--reflection")
    assert (served_with[1].drain_s, served_with[1].reflection) == (8.0, True)


def test_print_config_says_whence(
    served_with: list[ServiceConfig], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAI_RPC_THREADS", "4")
    arguments = ("serve", "--config", str(file), "--drain-s", "9", "--print-config")
    lines = [json.loads(line) for line in xai(*arguments, "--json").stdout.splitlines()]
    told = {line["setting"]: (line["value"], line["from"]) for line in lines}
    assert set(told) == {field.name for field in dataclasses.fields(ServiceConfig)} | {"log_level", "log_format"}
    assert told["drain_s"] == (9.0, "flag")
    assert told["rpc_threads"] == (4, "environment")
    assert told["listen"] == (["127.0.0.1:0", "unix:/run/xai"], str(file))
    assert told["log_level"] == ("warning", str(file))
    assert told["workers"] == (1, "default")
    text = xai(*arguments).stdout
    # What it prints is a file that it takes.
    file.with_name("again.toml").write_text(text)
    assert tomllib.loads(text)["rpc_threads"] == 4
    xai("serve", "--config", str(file.with_name("again.toml")))
    again = served_with.pop()
    xai("serve", "--config", str(file), "--drain-s", "9")
    assert again == served_with.pop()


def test_a_bad_file_is_refused(served_with: list[ServiceConfig], file: Path) -> None:
    file.write_text("repositry = 'x'")
    assert one_error(xai("serve", "--config", str(file))) == (
        f"{file}: repositry is not a setting; did you mean 'repository'?"
    )
    file.write_text(f"repository = '{file.parent}'\nrpc_threads = 0")
    assert "rpc_threads: 0 is not from 1" in one_error(xai("serve", "--config", str(file)), 2)
    assert "cannot be read: No such file" in one_error(xai("serve", "--config", str(file) + "x"))
    assert served_with == []


def test_a_misspelt_variable_is_told_and_those_of_others_are_not(
    served_with: list[ServiceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XAI_LEDGR", "XAI_SERVICE_HOST", "XAI_PORT_8001_TCP", "XAI_TARGET", "XAI_TOKEN"):
        monkeypatch.setenv(name, "x")
    stderr = xai("serve", "--repository", str(tmp_path)).stderr
    assert stderr.count("WARNING") == 1
    assert "the variable XAI_LEDGR is no setting; did you mean XAI_LEDGER?" in stderr
    assert len(served_with) == 1


def test_workers_are_started_with_every_setting_in_force(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Supervisor:
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)

        def run(self) -> int:
            return 0

    monkeypatch.setattr(workers, "Supervisor", Supervisor)
    monkeypatch.setenv("XAI_RPC_THREADS", "5")
    monkeypatch.setenv("XAI_CONFIG", str(file))
    options = (
        "--workers",
        "3",
        "--no-pin",
        "--require-signed",
        "a",
        "--require-signed",
        "b c",
        "--health-listen",
        "localhost:0",
    )
    assert xai("serve", *options).exit_code == 0
    command, count, _, environment = made[0]
    assert count == 3
    assert "XAI_CONFIG" not in environment
    assert command[:4] == [sys.executable, "-m", "xai_service.cli", "serve"]
    monkeypatch.delenv("XAI_CONFIG")
    monkeypatch.delenv("XAI_RPC_THREADS")
    monkeypatch.setenv("XAI_WORKER", "1")
    parsed = main.commands["serve"].make_context("serve", list(command[4:])).params
    config = ServiceConfig(**{field.name: parsed[field.name] for field in dataclasses.fields(ServiceConfig)})
    assert (config.workers, config.pin, config.rpc_threads, config.reflection) == (3, False, 5, False)
    assert [str(path) for path in config.require_signed] == ["a", "b c"]
    assert parsed["log_level"] == "warning"
    # Ports are resolved once, for all.
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d+", config.listen[0])
    assert re.fullmatch(r"localhost:[1-9]\d+", config.health_listen or "")
    assert config.listen[1] == "unix:/run/xai"


def test_token() -> None:
    made = json.loads(xai("token", 'loan desk "x"', "--role", "caller", "--role", "auditor", "--json").stdout)
    grants = Grants.parse(made["entry"].encode())
    caller = grants.by_token(made["token"])
    assert caller is not None
    assert (caller.name, caller.roles) == ('loan desk "x"', {Role.CALLER, Role.AUDITOR})
    assert made["token"] not in made["entry"]
    text = xai("token", "ops", "--role", "operator").stdout
    shown = re.search(r"xai_[\w-]{43}", text)
    assert shown is not None
    assert Grants.parse(text.encode()).by_token(shown[0]) is not None  # the comment does no harm
    assert "NAME is not a name" in one_error(xai("token", "a\nb", "--role", "caller"), 2)
    assert "Missing option '--role'" in one_error(xai("token", "a"), 2)
    assert "is not one of" in one_error(xai("token", "a", "--role", "root"), 2)
