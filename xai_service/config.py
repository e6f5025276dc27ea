"""Settings of the service. Validated once, frozen, units in the names; docs/operations.md lists them all."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xai_service.cpus import usable_cpus

_OFF = ("", "off")


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """What `xai serve` runs with. Each field is a flag (``--ledger``) and an environment variable (``XAI_LEDGER``).

    Raises:
        ValueError: a value is out of range; says which, and what is accepted.
    """

    repository: Path = field(metadata={"help": "Folder of bundles, laid out NAME/VERSION/{model.onnx,manifest.json}."})
    reload_every_s: float = _setting(
        10.0, "Seconds between two looks at the repository for versions that came or went; 0: only at SIGHUP."
    )
    require_signed: tuple[Path, ...] = _setting(
        (),
        "Public key, or folder of them, that bundles must be signed by; may be given several times. Without any, "
        "unsigned bundles are served too.",
    )
    ledger: Path = field(
        default=Path("var/ledger.sqlite"), metadata={"help": "File that decisions are stored in; made when absent."}
    )
    record: str = _setting(
        "durable", "Whether decisions are stored before the reply (durable), or not at all (off), for benchmarks."
    )
    listen: tuple[str, ...] = _setting(
        ("127.0.0.1:8001",), "Address to serve gRPC on, host:port or unix:PATH; may be given several times."
    )
    metrics_listen: str = _setting(
        "127.0.0.1:8002", "Address to serve Prometheus metrics on, host:port, by HTTP at /metrics; off for none."
    )
    traces: str = _setting(
        "off", "otlp sends a trace of each request by OpenTelemetry, set up by its OTEL_* variables; off sends none."
    )
    unix_mode: str = _setting("660", "Permissions of the unix: sockets, octal: who may write to one may call.")
    health_listen: str | None = _setting(
        None, "Address, host:port, that answers health checks and nothing else, in plaintext, from the start on."
    )
    tls_certificate: Path | None = field(
        default=None,
        metadata={
            "help": "Certificate, PEM, with those between it and the root behind it; TCP is then served by TLS alone."
        },
    )
    tls_key: Path | None = field(
        default=None,
        metadata={"help": "Its private key, PEM, without a passphrase."},
    )
    tls_client_ca: Path | None = field(
        default=None,
        metadata={
            "help": "Certificates, PEM, one of which must have issued each client's: without one none is let in by TCP."
        },
    )
    access: Path | None = field(
        default=None,
        metadata={
            "help": "File that says who may call and what, by token, certificate or socket; without it anyone anything."
        },
    )
    reflection: bool = _setting(True, "Whether anyone may ask which services there are.")
    workers: int = _setting(1, "Processes that serve, sharing the TCP ports; see docs/operations.md.")
    pin: bool | None = _setting(
        None,
        "Whether each worker keeps to a CPU of its own. Where it is not said, several do, and a lone one keeps to the "
        "least used, its kernel threads to the others.",
    )
    default_budget_ms: float = _setting(
        50.0, "Latency budget where neither the request nor the bundle names one; 0 means none."
    )
    reply_reserve_ms: float = _setting(
        5.0,
        "Part of the budget kept at most for recording the decisions and sending the reply; less where they take less.",
    )
    additivity_tolerance: float = _setting(
        1e-5,
        "Largest |base + sum of attributions - margin| accepted, as a share of |base| + sum of |attributions| "
        "+ |margin|.",
    )
    max_rows_per_request: int = _setting(10_000, "Rows that one request may hold.")
    max_rows_in_flight: int = _setting(
        40_000, "Rows being worked on at once, in all requests; beyond it requests are refused."
    )
    max_message_mib: int = _setting(64, "Largest request in MiB; replies are bounded by the rows they answer.")
    rpc_threads: int = _setting(
        16, "Requests of many rows being worked on at once, and other calls; small ones are answered as they come."
    )
    max_waiting_rpcs: int = _setting(
        256,
        "Requests that may wait for their turn, fewer while those that are reached waited too long; "
        "beyond it requests are refused.",
    )
    explain_workers: int = _setting(
        0, "Threads of the explanation kernel; 0: one for each CPU of its affinity mask and cgroup quota."
    )
    max_unrecorded_decisions: int = _setting(
        100_000, "Decisions waiting to be stored, in all requests; beyond it requests are refused."
    )
    max_deferred: int = _setting(
        1_000_000, "Deferred explanations that may wait; beyond it requests that would defer more are refused."
    )
    drain_delay_s: float = _setting(
        0.0, "Seconds at shutdown in which everything is served still, and health checks say that it ends."
    )
    drain_s: float = _setting(10.0, "Seconds that requests under way get to end at shutdown.")

    def __post_init__(self) -> None:
        """Checks every value."""
        self._check_addresses()
        self._check_choices()
        self._check_tls()
        for name, low, high in (
            ("reload_every_s", 0, 86_400),
            ("default_budget_ms", 0, 3.6e6),
            ("reply_reserve_ms", 0, 3.6e6),
            ("additivity_tolerance", 0, 1),
            ("max_rows_per_request", 1, 1_000_000),
            ("max_rows_in_flight", 1, 10_000_000),
            ("max_message_mib", 1, 1024),
            ("rpc_threads", 1, 1024),
            ("max_waiting_rpcs", 0, 100_000),
            ("explain_workers", 0, 1024),
            ("max_unrecorded_decisions", 1, 10_000_000),
            ("max_deferred", 0, 1_000_000_000),
            ("workers", 1, 1024),
            ("drain_delay_s", 0, 3600),
            ("drain_s", 0, 3600),
        ):
            value = getattr(self, name)
            if not low <= value <= high:  # nor is NaN
                raise ValueError(f"{name}: {value} is not from {low} to {high}")
        if self.max_rows_in_flight < self.max_rows_per_request:
            raise ValueError(
                f"max_rows_in_flight: {self.max_rows_in_flight} is less than max_rows_per_request "
                f"({self.max_rows_per_request}), so that a largest request could never be taken"
            )
        if self.max_unrecorded_decisions < self.max_rows_per_request:
            raise ValueError(
                f"max_unrecorded_decisions: {self.max_unrecorded_decisions} is less than max_rows_per_request "
                f"({self.max_rows_per_request}), so that a largest request could never be stored"
            )

    def _check_addresses(self) -> None:
        if not self.listen:
            raise ValueError("listen: at least one address is needed")
        for address in self.listen:
            if not _is_address(address):
                raise ValueError(f"listen: {address!r} is neither host:port, port 0 to 65535, nor unix:PATH")
        if self.metrics_listen not in _OFF and (is_unix(self.metrics_listen) or not _is_address(self.metrics_listen)):
            raise ValueError(f"metrics_listen: {self.metrics_listen!r} is neither host:port, port 0 to 65535, nor off")
        if self.health_listen is not None and (is_unix(self.health_listen) or not _is_address(self.health_listen)):
            raise ValueError(f"health_listen: {self.health_listen!r} is not host:port, port 0 to 65535")
        if not re.fullmatch(r"[0-7]{3}", self.unix_mode):
            raise ValueError(f"unix_mode: {self.unix_mode!r} is not three octal digits, such as 660")

    def _check_choices(self) -> None:
        if self.record not in ("durable", "off"):
            raise ValueError(f"record: {self.record!r} is neither durable nor off")
        if self.traces not in ("off", "otlp"):
            raise ValueError(f"traces: {self.traces!r} is neither off nor otlp")

    def _check_tls(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            lacking = "tls_key" if self.tls_key is None else "tls_certificate"
            raise ValueError(f"{lacking}: is needed, certificate and key go together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca: needs tls_certificate and tls_key")

    @property
    def metrics_address(self) -> str | None:
        """Where metrics are served, ``None`` where they are not."""
        return None if self.metrics_listen in _OFF else self.metrics_listen

    @property
    def kernel_threads(self) -> int:
        """Threads of the explanation kernel, with 0 resolved to the CPUs this process may use."""
        return self.explain_workers or usable_cpus()


def is_unix(address: str) -> bool:
    """Whether an address of `ServiceConfig.listen` is of a Unix socket."""
    return address.startswith("unix:")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it."""
    host = address.rpartition(":")[0].strip("[]")
    return is_unix(address) or host in ("localhost", "::1") or host.startswith("127.")


def _is_address(text: str) -> bool:
    """Not left to gRPC, which listens on 443 where the port is missing, and on 1 where it is 65537."""
    host, _, port = text.rpartition(":")
    if is_unix(text):
        return text != "unix:"
    return bool(host) and port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 1 << 16
