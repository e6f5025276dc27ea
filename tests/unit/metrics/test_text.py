"""The text format, read by Prometheus' own client."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from xai_service.histogram import Histogram
from xai_service.metrics.text import Family, render

printable = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)


def parsed(*families):
    return list(text_string_to_metric_families(render(families).decode()))


@given(st.dictionaries(st.sampled_from(["model", "feature", "reason"]), printable | st.sampled_from(['\\"\n', "\\n"])))
def test_labels_come_back_as_they_were(labels):
    (family,) = parsed(Family("xai_some", "gauge", "Of it.").add(1, labels))
    assert [dict(sample.labels) for sample in family.samples] == [labels]


@given(st.one_of(st.integers(-(2**53), 2**53), st.floats()))
def test_numbers_come_back_as_they_were(value):
    (family,) = parsed(Family("xai_some", "gauge", "Of it.").add(value))
    read = family.samples[0].value
    assert read == float(value) or (math.isnan(read) and math.isnan(value))


def test_a_histogram():
    histogram = Histogram((10.0, 20.0))
    for value in (5, 10, 11, 99):
        histogram.observe(value)
    (family,) = parsed(Family("xai_t_seconds", "histogram", "It took.").add_histogram(histogram, {"a": "b"}, unit=1e6))
    assert (family.name, family.type, family.documentation) == ("xai_t_seconds", "histogram", "It took.")
    read = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    assert read == {
        ("xai_t_seconds_bucket", "1e-05"): 2,
        ("xai_t_seconds_bucket", "2e-05"): 3,
        ("xai_t_seconds_bucket", "+Inf"): 4,
        ("xai_t_seconds_sum", None): 125e-6,
        ("xai_t_seconds_count", None): 4,
    }
    assert all(sample.labels["a"] == "b" for sample in family.samples)


def test_what_has_no_samples_is_not_there_and_what_utf8_cannot_hold_is_replaced():
    assert render([Family("xai_none", "gauge", "Nothing.")]) == b""
    (family,) = parsed(Family("xai_some", "gauge", "Of it.").add(1, {"feature": "a\ud800"}))
    assert family.samples[0].labels == {"feature": "a?"}
