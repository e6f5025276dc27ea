"""Settings from a file: known names, right types, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service import config_file
from xai_service.config import ServiceConfig
from xai_service.errors import InvalidSetting


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "xai.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return config_file.read(path, {"log_level": str})

    return read


def test_every_setting_can_stand_there(read):
    samples = {int: "3", float: "2", bool: "true", str: "'x'", Path: "'x'"}
    lines = []
    for name, kind in config_file.setting_types().items():
        lines.append(f"{name} = " + (f"[{samples[kind.__args__[0]]}]" if kind not in samples else samples[kind]))
    settings = read("\n".join([*lines, "log_level = 'debug'"]))
    assert set(settings) == {field.name for field in dataclasses.fields(ServiceConfig)} | {"log_level"}
    assert settings["listen"] == ["x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not TOML"),
        (b"\xff", "is not TOML"),
        ("rpc-threads = 1", "rpc-threads is not a setting; did you mean 'rpc_threads'?"),
        ("Workers = 1", "Workers is not a setting; did you mean 'workers'?"),
        ("zzzz = 1", "zzzz is not a setting$"),
        ("[server]\nlisten = []", "server is not a setting"),
        ("rpc_threads = 1.5", "rpc_threads: must be a whole number, is 1.5"),
        ("rpc_threads = '3'", "rpc_threads: must be a whole number, is '3'"),
        ("rpc_threads = true", "rpc_threads: must be a whole number, is True"),
        ("drain_s = '1'", "drain_s: must be a number, is '1'"),
        ("reflection = 1", "reflection: must be true or false, is 1"),
        ("reflection = 'no'", "reflection: must be true or false, is 'no'"),
        ("ledger = 1", "ledger: must be a string, of a path, is 1"),
        ("listen = 'unix:/x'", "listen: must be a list, is 'unix:/x'"),
        ("listen = [1]", "listen: must be a string, is 1"),
        ("ledger = ['" + "x" * 500 + "']", "ledger: must be a string, of a path, is .{59}…$"),
    ],
)
def test_what_is_not_understood_is_refused(read, text, message):
    with pytest.raises(InvalidSetting, match=r"xai\.toml: " + message.replace("?", r"\?")):
        read(text)


@given(st.binary(max_size=200))
def test_no_content_is_worse_than_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    try:
        assert set(config_file.read(path)) <= set(config_file.setting_types())
    except InvalidSetting as error:
        assert str(path) in str(error)  # noqa: PT017
