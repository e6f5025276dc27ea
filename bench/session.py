"""One test run of the locustfile: which model is asked, with which rows, and what became of the requests."""

from __future__ import annotations

import csv
import json
import logging
import time
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import grpc

from bench import contest, machine, tally, traffic
from bench.arrivals import Arrivals
from bench.tally import Outcome, Tally
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb

SCHEMA = 1
HOST = "127.0.0.1:8001"
TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)


class Session:
    """One test run: what is asked, and what became of it.

    Attributes:
        options: the command line's, or the web page's.
        tallies: by kind, in the order in which they began.
        unsupported: why a kind cannot run, by kind.
        spawned: set once all users are there; arrivals begin then.

    Raises:
        RuntimeError, traffic.NoRows: the server cannot be asked, or does not serve the model; says so.
    """

    def __init__(self, environment: Any) -> None:
        self.environment, self.options = environment, environment.parsed_options
        self.tallies: dict[str, Tally] = {}
        self.unsupported: dict[str, str] = {}
        self.spawned = gevent.event.Event()
        self._arrivals: dict[str, Arrivals] = {}
        self.model = self._find_model(environment.host or HOST)
        file = Path(self.options.xai_rows) if self.options.xai_rows else None
        self.rows = traffic.rows_for(self.model.feature_names, file)

    def _find_model(self, host: str) -> Any:
        with grpc.insecure_channel(host) as channel:
            ask = channel.unary_unary(
                f"{traffic.SERVICE}/ListModels",
                pb.ListModelsRequest.SerializeToString,
                pb.ListModelsResponse.FromString,
            )
            try:
                served = [m for m in ask(pb.ListModelsRequest(), timeout=TIMEOUT_S).models if m.ready]
            except grpc.RpcError as error:
                raise RuntimeError(f"no answer from {host}: {error.code().name}: {error.details()}") from None
        named = [m for m in served if m.model_name == (self.options.xai_model or m.model_name)]
        names = sorted({m.model_name for m in named})
        if len(names) != 1:
            served_names = ", ".join(sorted({m.model_name for m in served})) or "none"
            raise RuntimeError(f"name the model with --xai-model; {host} serves: {served_names}")
        return named[-1]  # the highest version

    def start_of_next(self, kind: str) -> float:
        """Waits until the next request of this kind is meant to start, and returns when that was."""
        self.spawned.wait()
        arrivals = self._arrivals.get(kind)
        if arrivals is None:
            arrivals = self._arrivals[kind] = Arrivals(self.options.xai_rate, time.perf_counter())
        intended_s = arrivals.take(time.perf_counter())
        wait_s = intended_s - time.perf_counter()
        if wait_s > 0:
            gevent.sleep(wait_s)
        return intended_s

    def ended(self, kind: str, outcome: Outcome, intended_s: float, error: Exception | None, size: int = 0) -> None:
        """Counts one request, here and in Locust's own statistics (refusals and errors are failures there)."""
        now_s = time.perf_counter()
        self.tallies[kind].add(outcome, intended_s, now_s)
        self.environment.events.request.fire(
            request_type="grpc",
            name=kind,
            response_time=(now_s - intended_s) * 1e3,
            response_length=size,
            exception=error,
            context={},
        )

    def cannot(self, kind: str, why: str) -> None:
        """Says once that this kind cannot run here. When none can, the run ends."""
        if kind not in self.unsupported:
            self.unsupported[kind] = why
            _log.error("%s cannot run: %s", kind, why)
        if all(user.__name__ in self.unsupported for user in self.environment.user_classes):
            self.environment.process_exit_code = 2
            # From elsewhere, since whoever calls this is part of what is stopped. A page can begin another run.
            gevent.spawn(self.environment.runner.stop if self.environment.web_ui else self.environment.runner.quit)

    def as_json(self) -> dict[str, Any]:
        """Returns what was measured."""
        now_s = time.perf_counter()
        kinds = []
        for kind, counted in self.tallies.items():
            if kind in self.unsupported:
                continue
            arrivals = self._arrivals.get(kind)
            kinds.append({"name": kind, **counted.as_json(arrivals.unsent(now_s) if arrivals else 0)})
        settings = {name: value for name, value in vars(self.options).items() if name.startswith("xai_")}
        return {
            "schema": SCHEMA,
            "benchmark": "locust",
            "machine": machine.describe(contest.ROOT),
            "model": {"name": self.model.model_name, "sha256": self.model.model_sha256},
            "settings": {**settings, "users": self.environment.runner.target_user_count},
            "kinds": kinds,
            "unsupported": self.unsupported,
        }

    def report(self) -> None:
        """Prints the figures, and writes them where the options say."""
        document = self.as_json()
        print("\n" + tally.table(document["kinds"]))
        for kind, why in self.unsupported.items():
            print(f"without {kind}: {why}")
        if self.options.xai_json:
            path = Path(self.options.xai_json)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
            print(f"wrote {path}")
        if document["kinds"] and getattr(self.options, "csv_prefix", None):
            with Path(f"{self.options.csv_prefix}_xai.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(document["kinds"][0]))
                writer.writeheader()
                writer.writerows(document["kinds"])
