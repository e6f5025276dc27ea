from __future__ import annotations

import concurrent.futures

from xai_service.wire.inference_statistics import Duration, InferenceStatistics, ModelCounts


def test_counts_of_each_version_apart():
    statistics = InferenceStatistics()
    assert statistics.of("loan", "1") == ModelCounts()
    statistics.answered("loan", "1", 3, decode_ns=1, infer_ns=20, encode_ns=300)
    statistics.answered("loan", "1", 4, decode_ns=1, infer_ns=20, encode_ns=300)
    statistics.failed("loan", "1", 7)
    statistics.waited("loan", "2", 9)
    one, two = statistics.of("loan", "1"), statistics.of("loan", "2")
    assert (one.rows, one.success, one.fail) == (7, Duration(2, 642), Duration(1, 7))
    assert (one.decode, one.infer, one.encode, one.queue) == (
        Duration(2, 2),
        Duration(2, 40),
        Duration(2, 600),
        Duration(),
    )
    assert one.last_ms > 1_700_000_000_000
    assert two == ModelCounts(queue=Duration(1, 9))


def test_what_was_read_does_not_change():
    statistics = InferenceStatistics()
    statistics.failed("loan", "1", 7)
    before = statistics.of("loan", "1")
    statistics.failed("loan", "1", 7)
    assert before.fail == Duration(1, 7)


def test_threads_lose_nothing():
    statistics = InferenceStatistics()

    def report(_):
        for _ in range(500):
            statistics.answered("loan", "1", 2, decode_ns=1, infer_ns=1, encode_ns=1)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(report, range(8)))
    counts = statistics.of("loan", "1")
    assert (counts.rows, counts.success) == (8000, Duration(4000, 12000))
