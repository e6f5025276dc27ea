"""Every setting is checked, every complaint names its setting, and each is a flag and an environment variable."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from xai_service.cli import main
from xai_service.config import ServiceConfig
from xai_service.cpus import usable_cpus

FIELDS = {field.name: field for field in dataclasses.fields(ServiceConfig)}
NUMBERS = [name for name, field in FIELDS.items() if isinstance(field.default, (int, float))]
ZERO_MEANS_SOMETHING = {
    "max_deferred",
    "default_budget_ms",
    "reload_every_s",
    "reply_reserve_ms",
    "additivity_tolerance",
    "max_waiting_rpcs",
    "explain_workers",
    "drain_s",
}


def config(**settings):
    return ServiceConfig(repository=Path("models"), **settings)


def test_the_settings_are_all_here():
    assert set(FIELDS) == {
        *NUMBERS, "repository", "ledger", "listen", "metrics_listen", "record", "require_signed", "traces"
    }  # fmt: skip
    assert all(field.metadata["help"] for field in FIELDS.values())


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, -math.inf, 10**400, -(10**400)])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name}: "):
        config(**{name: value})


def test_decisions_are_recorded_or_not():
    assert config().record == "durable"
    with pytest.raises(ValueError, match=r"^record: 'maybe' is neither"):
        config(record="maybe")


@pytest.mark.parametrize("name", NUMBERS)
def test_zero_is_taken_where_it_means_something(name):
    if name in ZERO_MEANS_SOMETHING:
        assert getattr(config(**{name: 0}), name) == 0
    else:
        with pytest.raises(ValueError, match=f"^{name}: 0 is not from 1 to "):
            config(**{name: 0})


@pytest.mark.parametrize("name", ["max_rows_in_flight", "max_unrecorded_decisions"])
def test_a_bound_that_no_largest_request_could_pass_is_refused(name):
    assert config(max_rows_per_request=500, **{name: 500})
    with pytest.raises(ValueError, match=f"^{name}: 499 is less than max_rows_per_request"):
        config(max_rows_per_request=500, **{name: 499})


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8001", "0.0.0.0:0", "localhost:65535", "[::1]:8001", "unix:/run/xai.sock", "unix:s.sock"]
)
def test_addresses(address):
    assert config(listen=(address, "127.0.0.1:1")).listen[0] == address


NO_ADDRESSES = ("", ":", "localhost", "127.0.0.1", "127.0.0.1:", ":8001", "unix:", "/run/xai.sock")
NO_PORTS = ("65536", "99999", "-1", "http", "8 1", "1e3", "٣", "9" * 5000)


@pytest.mark.parametrize("address", [*NO_ADDRESSES, *(f"localhost:{port}" for port in NO_PORTS)], ids=lambda a: a[:20])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match=r"^listen: "):
        config(listen=("127.0.0.1:8001", address))


def test_no_address_is_refused():
    with pytest.raises(ValueError, match=r"^listen: at least one"):
        config(listen=())


@pytest.mark.parametrize("address", ["127.0.0.1:8002", "[::1]:0", "0.0.0.0:9100", "off", ""])
def test_where_metrics_are_served(address):
    assert config(metrics_listen=address).metrics_address == (address if ":" in address else None)


@pytest.mark.parametrize("address", ["unix:/run/xai-metrics", "on", ":8002", "localhost", "localhost:65536"])
def test_where_metrics_cannot_be_served(address):
    with pytest.raises(ValueError, match=r"^metrics_listen: .* nor off$"):
        config(metrics_listen=address)


def test_traces_are_off_or_otlp():
    assert config().traces == "off"
    assert config(traces="otlp").traces == "otlp"
    with pytest.raises(ValueError, match=r"^traces: 'jaeger' is neither off nor otlp$"):
        config(traces="jaeger")


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().rpc_threads = 3


def test_kernel_threads_are_those_asked_for_or_one_for_each_usable_cpu():
    assert config(explain_workers=7).kernel_threads == 7
    assert config().kernel_threads == usable_cpus()


@pytest.mark.parametrize("name", FIELDS)
def test_each_setting_is_a_flag_and_an_environment_variable(name):
    (option,) = (parameter for parameter in main.commands["serve"].params if parameter.name == name)
    assert option.opts == ["--" + name.replace("_", "-")]
    assert option.envvar == f"XAI_{name.upper()}"
    assert option.help == FIELDS[name].metadata["help"]
    assert option.multiple == (name in ("listen", "require_signed"))
    assert option.required == (name == "repository")
    if not option.required:
        assert option.default == FIELDS[name].default


@pytest.mark.parametrize("name", NUMBERS)
def test_each_number_is_read_from_its_variable(name, monkeypatch):
    (option,) = (parameter for parameter in main.commands["serve"].params if parameter.name == name)
    monkeypatch.setenv(f"XAI_{name.upper()}", "1")
    monkeypatch.setenv("XAI_REPOSITORY", "models")
    context = main.commands["serve"].make_context("serve", [])
    assert context.params[name] == 1
    assert isinstance(context.params[name], type(FIELDS[name].default))
    assert option.type.name in ("integer", "float")
