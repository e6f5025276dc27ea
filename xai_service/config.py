"""Settings of one service process. Validated once, frozen, units in the names; docs/operations.md lists them all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
    record: Literal["durable", "off"] = _setting(
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
    default_budget_ms: float = _setting(
        50.0, "Latency budget where neither the request nor the bundle names one; 0 means none."
    )
    reply_reserve_ms: float = _setting(
        5.0, "Part of the budget kept for recording the decisions and sending the reply."
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
    rpc_threads: int = _setting(16, "Requests being worked on at once; each predicts in its own thread.")
    max_waiting_rpcs: int = _setting(256, "Requests waiting for a thread; beyond it requests are refused.")
    explain_workers: int = _setting(
        0, "Threads of the explanation kernel; 0: one for each CPU of its affinity mask and cgroup quota."
    )
    max_unrecorded_decisions: int = _setting(
        100_000, "Decisions waiting to be stored, in all requests; beyond it requests are refused."
    )
    max_deferred: int = _setting(
        1_000_000, "Deferred explanations that may wait; beyond it requests that would defer more are refused."
    )
    drain_s: float = _setting(10.0, "Seconds that requests under way get to end at shutdown.")

    def __post_init__(self) -> None:
        """Checks every value."""
        if not self.listen:
            raise ValueError("listen: at least one address is needed")
        for address in self.listen:
            if not _is_address(address):
                raise ValueError(f"listen: {address!r} is neither host:port, port 0 to 65535, nor unix:PATH")
        self._check_choices()
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

    def _check_choices(self) -> None:
        if self.record not in ("durable", "off"):
            raise ValueError(f"record: {self.record!r} is neither durable nor off")
        if self.metrics_listen not in _OFF and (
            self.metrics_listen.startswith("unix:") or not _is_address(self.metrics_listen)
        ):
            raise ValueError(f"metrics_listen: {self.metrics_listen!r} is neither host:port, port 0 to 65535, nor off")
        if self.traces not in ("off", "otlp"):
            raise ValueError(f"traces: {self.traces!r} is neither off nor otlp")

    @property
    def metrics_address(self) -> str | None:
        """Where metrics are served, ``None`` where they are not."""
        return None if self.metrics_listen in _OFF else self.metrics_listen

    @property
    def kernel_threads(self) -> int:
        """Threads of the explanation kernel, with 0 resolved to the CPUs this process may use."""
        return self.explain_workers or usable_cpus()


def _is_address(text: str) -> bool:
    """Not left to gRPC, which listens on 443 where the port is missing, and on 1 where it is 65537."""
    host, _, port = text.rpartition(":")
    if text.startswith("unix:"):
        return text != "unix:"
    return bool(host) and port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 1 << 16
