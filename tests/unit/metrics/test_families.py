"""What is exported where there is a lot of it, little, or names that are odd."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from xai_service._profile import FeatureProfile
from xai_service.errors import Unavailable
from xai_service.histogram import Histogram
from xai_service.metrics import families as module
from xai_service.metrics.text import render
from xai_service.telemetry import Telemetry


class Service:
    """An `ExplainService` as far as metrics look at one."""

    looks = (3, 1)

    def __init__(self):
        self.telemetry = Telemetry()
        self.ledger = self
        self.queued = 0
        self.commit_us = Histogram((1.0,))
        self.commit_entries = Histogram((1.0,))
        self.entries, self.seen = [], []

    def last_sequence(self):
        return 7

    def pending_explanations(self):
        return 2

    def rows_in_flight(self):
        return 0

    def explained_later(self):
        return {}

    def models(self):
        return self.entries

    def profiles(self):
        return self.seen

    def saw(self, version, names, *rows):
        """Rows of a version whose features have these names."""
        profile = FeatureProfile(len(names))
        if rows:
            profile.merge(profile.scan(np.array(rows, np.float32)))
        model = SimpleNamespace(manifest=SimpleNamespace(name="loan", version=version), feature_names=names)
        self.seen.append((model, profile))


@pytest.fixture
def service():
    return Service()


def exported(service):
    text = render(module.families(service)).decode()
    return {family.name: family.samples for family in text_string_to_metric_families(text)}


def test_a_service_that_nobody_asked(service):
    read = exported(service)
    assert not any(name.startswith(("nv_", "request_", "xai_feature")) for name in read)
    assert [sample.value for sample in read["xai_repository_looks"] + read["xai_repository_reloads"]] == [3, 1]
    assert read["xai_ledger_entries"][0].value == 7
    assert read["xai_build_info"][0].labels.keys() == {"version", "onnxruntime", "python", "isa"}


def test_so_many_features_of_a_version_and_so_many_in_all(service, monkeypatch):
    monkeypatch.setattr(module, "MAX_FEATURES_OF_MODEL", 3)
    monkeypatch.setattr(module, "MAX_FEATURES", 5)
    for version in ("1", "2", "3"):
        service.saw(version, ("a", "b", "c", "d"), (1, 2, 3, 4))
    read = exported(service)
    assert [(s.labels["version"], s.value) for s in read["xai_features"]] == [("1", 4), ("2", 4), ("3", 4)]
    for name in ("xai_feature_mean", "xai_feature_values", "xai_feature_missing", "xai_feature_max"):
        shown = [s.labels["version"] + s.labels["feature"] for s in read[name]]
        assert shown == ["1a", "1b", "1c", "2a", "2b"]


def test_a_feature_without_values_has_counts_only(service):
    service.saw("1", ("always", "never"), (1, np.nan), (3, np.nan))
    read = exported(service)
    assert [s.value for s in read["xai_feature_values"]] == [2, 0]
    assert [s.value for s in read["xai_feature_missing"]] == [0, 2]
    assert [(s.labels["feature"], s.value) for s in read["xai_feature_stddev"]] == [("always", 1.0)]


def test_names_come_as_they_are(service):
    names = ('income "net"', "back\\slash", "日本", "a,b={}", "x" * 512)
    service.saw("1", names, range(5))
    assert tuple(s.labels["feature"] for s in exported(service)["xai_feature_mean"]) == names


def test_so_many_versions_are_named(service, monkeypatch):
    monkeypatch.setattr(module, "MAX_VERSIONS", 2)
    service.entries = [
        SimpleNamespace(name="loan", version=str(i), snapshot=None if i == 1 else object()) for i in range(4)
    ]
    read = exported(service)
    assert [(s.labels["version"], s.value) for s in read["xai_model_ready"]] == [("0", 1), ("1", 0)]
    assert {s.labels["state"]: s.value for s in read["xai_models"]} == {"ready": 3, "refused": 1}


def test_a_ledger_that_cannot_be_read_takes_nothing_else_with_it(service, monkeypatch):
    def unavailable(_):
        raise Unavailable("closed")

    monkeypatch.setattr(Service, "last_sequence", unavailable)
    monkeypatch.setattr(Service, "pending_explanations", unavailable)
    read = exported(service)
    assert "xai_ledger_entries" not in read
    assert "xai_deferred_depth" not in read
    assert "xai_ledger_queued_entries" in read
    assert "xai_models" in read
