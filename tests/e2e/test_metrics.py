"""A real server, scraped while clients call it: exact counts, consistent histograms, nothing that callers chose."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import serving
from xai_service.client import Client, RequestFailed
from xai_service.errors import Unavailable
from xai_service.model.costs import Costs, Pace
from xai_service.types import ExplanationStatus
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.gen.xai.v1 import decision_service_pb2_grpc as pb_grpc
from xai_service.wire.tensors import to_tensor

ROOT = Path(__file__).resolve().parents[2]
LOAN = {"model": "loan", "version": "1"}
NOBODY = {"model": "", "version": ""}


@pytest.fixture
def server(loan_repository, tmp_path):
    with serving(loan_repository, tmp_path / "ledger.sqlite", metrics_listen="127.0.0.1:0") as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.addresses[0]) as client:
        yield client


class Scrape:
    """What was exported at one moment, as Prometheus' own client reads it."""

    def __init__(self, server):
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=30) as response:
            self.text = response.read().decode()
        self.families = list(text_string_to_metric_families(self.text))
        # The parser gives every counter the suffix that Triton's do not have.
        named = set(re.findall(r"^# TYPE (\S+) counter$", self.text, re.MULTILINE))
        self.samples = {
            (
                plain if (plain := s.name.removesuffix("_total")) in named else s.name,
                frozenset(s.labels.items()),
            ): s.value
            for f in self.families
            for s in f.samples
        }
        assert len(self.samples) == sum(len(f.samples) for f in self.families)  # none twice

    def __call__(self, name, **labels):
        return self.samples[name, frozenset(labels.items())]

    def histogram(self, name, **labels):
        """Counts up to each bound, in order; checked to be a histogram."""
        buckets = {
            float(dict(key)["le"]): value
            for (sample, key), value in self.samples.items()
            if sample == f"{name}_bucket" and dict(key).items() >= labels.items()
        }
        counts = [buckets[bound] for bound in sorted(buckets)]
        assert counts == sorted(counts)
        assert max(buckets) == float("inf")
        assert counts[-1] == self(f"{name}_count", **labels)
        bounds = sorted(buckets)
        each = np.diff([0, *counts])
        lowest, total = sum(each[1:] * bounds[:-1]), self(f"{name}_sum", **labels)
        assert total >= lowest * (1 - 1e-9)
        if not each[-1]:
            assert total <= sum(each[:-1] * bounds[:-1]) * (1 + 1e-9)
        return counts


def call(server, **fields):
    with grpc.insecure_channel(server.addresses[0]) as channel:
        return pb_grpc.DecisionServiceStub(channel).Predict(pb.PredictRequest(**fields), timeout=30)


def refusals(scrape):
    family = next((f for f in scrape.families if f.name == "xai_requests_refused"), None)
    return {} if family is None else {(s.labels["model"], s.labels["reason"]): s.value for s in family.samples}


def test_counts_are_exact(loans, server, client):
    rows = loans.held_out.to_numpy(np.float32)
    for size in (1, 1, 1, 7, 20):
        client.predict(rows[:size], "loan")
    call(server, model_name="loan", input=to_tensor(rows[:2]), explanation_mode=pb.EXPLANATION_MODE_NONE)
    scrape = Scrape(server)
    assert scrape("nv_inference_request_success", **LOAN) == scrape("nv_inference_exec_count", **LOAN) == 6
    assert scrape("nv_inference_count", **LOAN) == scrape("xai_rows_total", **LOAN) == 32
    assert scrape("nv_inference_request_failure", **LOAN) == 0
    by_status = {one: scrape("xai_explanations_total", **LOAN, status=one.name.lower()) for one in ExplanationStatus}
    assert by_status.pop(ExplanationStatus.NOT_REQUESTED) == 2
    assert by_status.pop(ExplanationStatus.COMPLETE) == 30
    assert set(by_status.values()) == {0}
    for stage, count in {"request": 6, "queue": 6, "predict": 6, "record": 6, "explain": 5, "overlap": 5}.items():
        assert scrape.histogram(f"xai_{stage}_duration_seconds", **LOAN)[-1] == count
    assert scrape.histogram("request_predict_seconds", model_name="loan")[-1] == 6
    assert scrape.histogram("request_explain_seconds", model_name="loan")[-1] == 5
    assert scrape.histogram("xai_additivity_residual", **LOAN)[-1] == 30
    assert scrape.histogram("xai_ledger_commit_duration_seconds")[-1] <= 6
    scrape.histogram("xai_ledger_commit_entries")
    assert scrape("xai_ledger_commit_entries_sum") == scrape("xai_ledger_entries_total") == 32
    # Triton's microseconds are our seconds.
    for triton, ours in (("request", "request"), ("queue", "queue"), ("compute_infer", "predict")):
        seconds = scrape(f"xai_{ours}_duration_seconds_sum", **LOAN)
        assert scrape(f"nv_inference_{triton}_duration_us", **LOAN) == pytest.approx(seconds * 1e6, abs=1)
    for gauge in ("xai_requests_in_flight", "xai_rows_in_flight", "xai_ledger_queued_entries", "xai_deferred_depth"):
        assert scrape(gauge) == 0
    assert scrape("xai_models", state="ready") == scrape("xai_model_ready", **LOAN) == 1
    assert scrape("xai_models", state="refused") == 0


def test_timings_are_those_of_the_replies(loans, server, client):
    replies = [client.predict(loans.held_out.iloc[i : i + 1], "loan") for i in range(10)]
    scrape = Scrape(server)
    for stage, of in {
        "predict": "predict_us",
        "explain": "explain_us",
        "record": "record_us",
        "request": "total_us",
    }.items():
        microseconds = sum(getattr(reply.timings, of) for reply in replies)
        assert scrape(f"xai_{stage}_duration_seconds_sum", **LOAN) * 1e6 == pytest.approx(microseconds, rel=1e-6)
    residual = sum(float(reply.additivity_residual.sum()) for reply in replies)
    assert scrape("xai_additivity_residual_sum", **LOAN) == pytest.approx(residual, rel=1e-9)


def test_refusals_are_counted_by_reason_and_callers_choose_no_label(loans, server, client):
    rows, marker = loans.held_out.to_numpy(np.float32), "chosen-by-the-caller"
    for model, version, sent in (
        (marker, "", rows[:1]),
        ("loan", marker, rows[:1]),
        ("loan", "", rows[:1, :3]),
        ("loan", "1", np.full_like(rows[:1], np.inf)),
    ):
        with pytest.raises(RequestFailed):
            client.predict(sent, model, version=version)
    with pytest.raises(grpc.RpcError):  # cannot even be read
        call(server, model_name="loan", input=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, 50], data=b"x"))
    with pytest.raises(grpc.RpcError):
        call(server, model_name=marker)
    server._service._admission._rows = 10**6
    with pytest.raises(RequestFailed, match="RESOURCE_EXHAUSTED"):
        client.predict(rows[:1], "loan")
    server._service._admission._rows = 0
    scrape = Scrape(server)
    assert refusals(scrape) == {
        ("loan", "InvalidInput"): 3,
        ("loan", "Overloaded"): 1,
        ("", "ModelNotFound"): 2,
        ("", "InvalidInput"): 1,
    }
    assert scrape("nv_inference_request_failure", **LOAN) == 4
    assert scrape("nv_inference_request_failure", **NOBODY) == 3
    assert scrape("nv_inference_request_success", **LOAN) == 0
    assert scrape("xai_requests_in_flight") == 0
    assert marker not in scrape.text


def test_features_are_those_of_the_rows_served(loans, server, client):
    rows = loans.held_out.to_numpy(np.float32)
    for start in range(0, 200, 20):
        client.predict(rows[start : start + 20], "loan")
    with pytest.raises(RequestFailed):  # leaves no trace
        client.predict(np.full_like(rows[:1], np.inf), "loan")
    scrape, served = Scrape(server), rows[:200].astype(np.float64)
    assert scrape("xai_features", **LOAN) == served.shape[1]
    for column, name in enumerate(loans.features.columns):
        values = served[:, column]
        finite = values[np.isfinite(values)]
        labels = {**LOAN, "feature": name}
        assert scrape("xai_feature_values_total", **labels) == len(finite)
        assert scrape("xai_feature_missing_total", **labels) == 200 - len(finite)
        for moment, expected in (
            ("mean", finite.mean()),
            ("stddev", finite.std()),
            ("min", finite.min()),
            ("max", finite.max()),
        ):
            assert scrape(f"xai_feature_{moment}", **labels) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_deferred_explanations_are_seen_to_wait_and_to_be_finished(loans, server, client, monkeypatch):
    service, go = server._service, threading.Event()
    finish = type(service._explainer)._finish_batch

    def held(self):
        assert go.wait(60)
        return finish(self)

    monkeypatch.setattr(type(service._explainer), "_finish_batch", held)
    monkeypatch.setattr(Costs, "explain_us", lambda *_: 1e9)
    monkeypatch.setattr(Pace, "fits", lambda *_: False)
    client.predict(loans.held_out.iloc[:5], "loan")
    scrape = Scrape(server)
    assert scrape("xai_deferred_depth") == 5
    assert scrape("xai_explanations_total", **LOAN, status="deferred") == 5
    assert scrape("xai_deferred_finished_total", status="complete") == 0
    go.set()
    while Scrape(server)("xai_deferred_finished_total", status="complete") < 5:
        threading.Event().wait(0.01)
    scrape = Scrape(server)
    assert scrape("xai_deferred_depth") == 0
    assert scrape("xai_explanations_total", **LOAN, status="deferred") == 5  # as the replies said
    assert scrape("xai_ledger_entries_total") == 10


def test_scraped_while_clients_call(loans, server):
    rows, callers, each = loans.held_out.to_numpy(np.float32), 8, 60
    over, scrapes = threading.Event(), []

    def ask(caller):
        with Client(server.addresses[0]) as client:
            for i in range(each):
                if i % 6 == 5:
                    with contextlib.suppress(RequestFailed):
                        client.predict(rows[:1, :3], "loan")
                else:
                    client.predict(rows[caller : caller + 1 + i % 3], "loan", latency_budget_ms=60_000)

    def scrape():
        while not over.is_set():
            scrapes.append(Scrape(server))

    with ThreadPoolExecutor(callers + 1) as threads:
        scraping = threads.submit(scrape)
        asking = [threads.submit(ask, i) for i in range(callers)]
        for one in asking:
            one.result()
        over.set()
        scraping.result()
    scrapes.append(Scrape(server))
    answered = callers * each * 5 // 6
    assert scrapes[-1]("nv_inference_request_success", **LOAN) == answered
    assert refusals(scrapes[-1]) == {("loan", "InvalidInput"): callers * each // 6}
    rows_sent = callers * sum(1 + i % 3 for i in range(each) if i % 6 != 5)
    assert scrapes[-1]("xai_rows_total", **LOAN) == scrapes[-1]("xai_ledger_entries_total") == rows_sent
    before = 0
    for one in scrapes:
        if ("xai_rows_total", frozenset(LOAN.items())) not in one.samples:
            continue  # before the first request ended
        total = one.histogram("xai_request_duration_seconds", **LOAN)[-1]
        assert total == one("nv_inference_request_success", **LOAN) >= before
        assert 0 <= one("xai_requests_in_flight") <= callers
        before = total


def test_a_closed_ledger_and_a_taken_port(server, loan_repository, tmp_path):
    with (
        pytest.raises(Unavailable, match="cannot serve metrics"),
        serving(loan_repository, tmp_path / "other", metrics_listen=server.metrics_address),
    ):
        pass
    server._service.ledger.close()
    assert "xai_deferred_depth" not in Scrape(server).text  # what cannot be read is left out, the rest is there
    assert Scrape(server)("xai_requests_in_flight") == 0


def test_off_means_off(loan_repository, tmp_path):
    for off in ("off", ""):
        with serving(loan_repository, tmp_path / "l", metrics_listen=off) as server:
            assert server.metrics_address is None
            assert not any(thread.name.startswith("xai-metrics") for thread in threading.enumerate())


@pytest.fixture
def everything(loans, server, client):
    """A scrape in which every metric has a sample."""
    client.predict(loans.held_out.iloc[:3], "loan")
    with pytest.raises(RequestFailed):
        client.predict(loans.held_out.iloc[:1], "none")
    return Scrape(server)


def exported(scrape):
    """Name, type, labels and help of each, as the text has them: the parser takes ``_total`` off."""
    named = dict(re.findall(r"^# TYPE (\S+) (\S+)$", scrape.text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", scrape.text, re.MULTILINE))
    labels = {
        name: [key for key in dict.fromkeys(re.findall(r'(\w+)="', match[1])) if key != "le"]
        for name in named
        for match in [re.search(rf"^{name}(?:_bucket)?(.*) \S+$", scrape.text, re.MULTILINE)]
    }
    return {name: (kind, ", ".join(labels[name]), helps[name]) for name, kind in named.items()}


def test_every_metric_is_documented_as_it_is(everything):
    operations = (ROOT / "docs/operations.md").read_text()
    table = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| ([\w, ]*) \| (.+) \|$", operations, re.MULTILINE)
    assert {name: (kind, labels.strip(), text) for name, kind, labels, text in table} == exported(everything)
    for name in re.findall(r"`[^`\n]*?\b((?:xai|nv)_\w+)[^`\n]*`", operations.split("## Metrics")[1].split("\n## ")[0]):
        assert name in exported(everything), name


def test_the_dashboard_draws_only_what_is_exported(everything):
    dashboard = json.loads((ROOT / "deploy/grafana/xai-service.json").read_text())
    samples = {name for name, _ in everything.samples}
    labels = {label for _, pairs in everything.samples for label, _ in pairs} | {"instance", "job"}
    variables = {f"${one['name']}" for one in dashboard["templating"]["list"]} | {"$__rate_interval"}
    drawn, titles = set(), [panel["title"] for panel in dashboard["panels"]]
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries = [one["definition"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    for expression in [*expressions, *queries]:
        names = re.findall(r"\b(?:xai|nv|request|process)_\w+", expression)
        assert names, expression
        drawn |= set(names)
        assert set(re.findall(r"\$\w+", expression)) <= variables, expression
        by = [label for group in re.findall(r"by \(([\w, ]+)\)", expression) for label in group.split(", ")]
        assert {*by, *re.findall(r'(\w+)(?:=|!=|=~)"', expression)} <= labels, expression
        assert expression.count("(") == expression.count(")")
    assert drawn <= samples, drawn - samples
    for due in ("Request", "Predict", "Explain", "Record", "Refused, by reason", "Deferred", "Additivity residual"):
        assert due in titles
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = [
        (place["x"] + dx, place["y"] + dy)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for dx in range(place["w"])
        for dy in range(place["h"])
    ]
    assert len(set(places)) == len(places)  # no panel upon another
    assert max(x for x, _ in places) < 24
