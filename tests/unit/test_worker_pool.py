"""Native workers: the same bits as without them, and a way out of every job, pool and process."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests import forests
from tests.gil import seen_at_work
from xai_service import _treeshap
from xai_service._treeshap import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xai_service.types import Float32Array

N = 6
FOREVER_S = 120.0  # far beyond what anything here takes
RNG = np.random.default_rng(11)


def explainer_of(trees: int, depth: int, variant: str = "") -> _treeshap.PathDependentExplainer:
    forest = forests.forest([forests.random_tree(RNG, N, depth) for _ in range(trees)], N)
    return _treeshap.PathDependentExplainer(forest, variant=variant)


FAST = explainer_of(20, 6)
SLOW = explainer_of(100, 9, "scalar-f64")  # some milliseconds a row
ROWS = RNG.normal(size=(1000, N)).astype(np.float32)
ENDLESS = np.zeros((200_000, N), np.float32)  # of SLOW: minutes, unless cancelled


def started(job: _treeshap.ExplainJob) -> _treeshap.ExplainJob:
    while job.started_ns == 0:
        assert not job.wait(0.001), "it should have taken minutes"
    return job


@pytest.fixture
def busy() -> Iterator[tuple[WorkerPool, Callable[[], None]]]:
    """A pool whose one worker is held up, and the function that lets it go."""
    pool = WorkerPool(1)
    blocker = started(SLOW.submit(pool, ENDLESS))
    yield pool, blocker.cancel
    blocker.cancel()
    assert blocker.wait(FOREVER_S)


def test_it_is_busy_while_every_worker_is_at_work(busy: tuple[WorkerPool, Callable[[], None]]) -> None:
    pool, let_go = busy
    assert pool.busy
    let_go()
    end = time.monotonic() + FOREVER_S
    while pool.busy:
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_the_same_bits_for_any_threads_and_rows(threads: int) -> None:
    pool = WorkerPool(threads)
    assert pool.threads == threads
    for n in (1, 2, 63, 64, 65, 255, 1000):
        job = FAST.submit(pool, ROWS[:n], deferred=bool(n % 2))
        assert job.wait(FOREVER_S)
        assert not job.cancelled
        assert 0 < job.started_ns <= job.finished_ns
        assert job.result().shape == (n, N, 1)
        assert job.variant == FAST.variant_for(n)
        assert job.result().tobytes() == FAST.explain(ROWS[:n]).tobytes()


def test_many_jobs_at_once_from_many_threads() -> None:
    pool = WorkerPool(4)
    failures: list[str] = []

    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            begin, size = int(rng.integers(900)), int(rng.integers(1, 100))
            job = FAST.submit(pool, ROWS[begin : begin + size], deferred=bool(rng.integers(2)))
            if rng.random() < 0.3:
                job.cancel()
            if not job.wait(FOREVER_S):
                failures.append("not over")
            elif not job.cancelled and job.result().tobytes() != FAST.explain(ROWS[begin : begin + size]).tobytes():
                failures.append("other bits")

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_cancelled_while_running() -> None:
    pool = WorkerPool(3)
    for deferred in (False, True):
        job = started(SLOW.submit(pool, ENDLESS, deferred=deferred))
        assert not job.cancelled
        with pytest.raises(RuntimeError, match="not over yet"):
            job.result()
        job.cancel()
        assert job.wait(FOREVER_S)
        assert job.cancelled
        assert job.finished_ns >= job.started_ns
        with pytest.raises(RuntimeError, match="cancelled"):
            job.result()
    assert_works(pool)


def assert_works(pool: WorkerPool) -> None:
    job = FAST.submit(pool, ROWS[:9])
    assert job.wait(FOREVER_S)
    assert job.result().tobytes() == FAST.explain(ROWS[:9]).tobytes()


def test_cancelled_while_queued(busy: tuple[WorkerPool, Callable[[], None]]) -> None:
    pool, let_go = busy
    queued, other = FAST.submit(pool, ROWS), FAST.submit(pool, ROWS)
    queued.cancel()
    queued.cancel()
    assert not queued.wait(0)
    assert (queued.started_ns, queued.finished_ns, queued.cancelled) == (0, 0, False)
    let_go()
    assert queued.wait(FOREVER_S)
    assert queued.cancelled
    with pytest.raises(RuntimeError, match="cancelled"):
        queued.result()
    assert other.wait(FOREVER_S)
    assert other.result().tobytes() == FAST.explain(ROWS).tobytes()


def test_cancelled_jobs_leave_no_memory_behind() -> None:
    done = run("""
import time
def resident(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
fast = _treeshap.PathDependentExplainer(forests.forest(trees, 3))
pool = _treeshap.WorkerPool(2)
def cancel_some():
    for i in range(40):  # 7 MB each
        job = (fast, explainer)[i % 2].submit(pool, endless, deferred=i % 3 == 0)
        while i % 4 and not job.started_ns: job.wait(0.0001)
        job.cancel()
        assert job.wait(60)
        assert job.cancelled
cancel_some()
before = resident()
for _ in range(3): cancel_some()
assert resident() < before + (30 << 20), (before, resident())
print("fine")
""")
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


# Variant by variant, the time from the request to stop until the worker is free; bench/stop_latency.py measures it.
def test_every_plan_stops_soon_and_is_none_the_worse_for_it() -> None:
    rng = np.random.default_rng(5)
    forest = forests.forest([forests.random_tree(rng, N, 10) for _ in range(100)], N)
    plans: list[_treeshap.PathDependentExplainer | _treeshap.InterventionalPlan | _treeshap.InteractionsPlan] = [
        *(_treeshap.PathDependentExplainer(forest, variant=name) for name in ("scalar-f64", "rows-f32", "row-f32")),
        _treeshap.InterventionalPlan(forest, ROWS[:100]),
        _treeshap.InterventionalPlan(forest, ROWS[:100], 0),
        _treeshap.InteractionsPlan(forest),
    ]
    pool = WorkerPool(1)
    for plan in plans:
        took, expected = [], plan.explain(ROWS[:3]).tobytes()
        for _ in range(5):
            job = started(plan.submit(pool, ENDLESS[:20_000]))
            asked = time.monotonic_ns()
            job.cancel()
            assert job.wait(FOREVER_S)
            assert job.cancelled
            took.append((job.finished_ns - asked) / 1e6)
            assert plan.explain(ROWS[:3]).tobytes() == expected
        assert min(took) < 20, took  # ms; 0.2 is what it should be on a machine of one's own


def test_cancelling_what_is_over_changes_nothing() -> None:
    pool = WorkerPool(1)
    job = FAST.submit(pool, ROWS)
    assert job.wait(FOREVER_S)
    job.cancel()
    assert not job.cancelled
    assert job.result().shape == (1000, N, 1)


def test_dropping_a_handle_cancels_its_job() -> None:
    pool = WorkerPool(1)
    for _ in range(3):
        started(SLOW.submit(pool, ENDLESS))  # and dropped: minutes of work, were they not cancelled
    SLOW.submit(pool, ENDLESS)
    gc.collect()
    assert_works(pool)


def test_a_job_owns_all_it_needs() -> None:
    """Rows, explainer and pool may change or go while it runs."""
    rows = ROWS.copy()
    explainer = explainer_of(20, 6)
    expected = explainer.explain(rows)
    pool = WorkerPool(2)
    job = explainer.submit(pool, rows)
    rows[:] = np.nan
    del explainer, rows
    gc.collect()
    assert job.wait(FOREVER_S)
    result = job.result()
    del job, pool
    gc.collect()
    assert result.tobytes() == expected.tobytes()


def test_rows_are_copied_when_submitted(busy: tuple[WorkerPool, Callable[[], None]]) -> None:
    pool, let_go = busy
    rows = ROWS.copy()
    job = FAST.submit(pool, rows)
    rows[:] = np.nan
    let_go()
    assert job.wait(FOREVER_S)
    assert job.result().tobytes() == FAST.explain(ROWS).tobytes()


def test_live_jobs_go_before_deferred_ones(busy: tuple[WorkerPool, Callable[[], None]]) -> None:
    pool, let_go = busy
    deferred = [FAST.submit(pool, ROWS, deferred=True) for _ in range(2)]
    live = [FAST.submit(pool, ROWS) for _ in range(2)]
    let_go()
    jobs = [*live, *deferred]
    assert all(job.wait(FOREVER_S) for job in jobs)
    for before, after in itertools.pairwise(jobs):  # with one worker, one after the other
        assert before.finished_ns <= after.started_ns


def test_a_live_job_overtakes_a_deferred_one_under_way() -> None:
    pool = WorkerPool(1)
    deferred = started(SLOW.submit(pool, ENDLESS, deferred=True))
    live = FAST.submit(pool, ROWS)
    assert live.wait(FOREVER_S)
    assert deferred.finished_ns == 0
    assert deferred.started_ns < live.started_ns
    deferred.cancel()
    assert deferred.wait(FOREVER_S)
    assert deferred.finished_ns >= live.finished_ns


def test_waiting() -> None:
    pool = WorkerPool(1)
    job = started(SLOW.submit(pool, ENDLESS))
    for timeout in (0, 0.0, -1.0, float("-inf"), float("nan"), 1e-9, 0.001):
        assert not job.wait(timeout)
    job.cancel()
    assert job.wait(float("inf"))
    assert job.wait(0)
    with pytest.raises(TypeError):
        job.wait(None)  # type: ignore[arg-type]


def test_destroying_a_pool_ends_its_jobs() -> None:
    pool = WorkerPool(2)
    running = started(SLOW.submit(pool, ENDLESS))
    queued = [FAST.submit(pool, ROWS, deferred=bool(i % 2)) for i in range(20)]
    del pool
    gc.collect()
    for job in (running, *queued):
        assert job.wait(0)
    assert running.cancelled


def test_many_pools() -> None:
    for threads in (1, 2, 5) * 30:
        pool = WorkerPool(threads)
        job = FAST.submit(pool, ROWS[:3])
        if threads == 1:
            assert job.wait(FOREVER_S)
        del pool


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31 - 1])
def test_thread_counts_out_of_range(threads: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 1024 threads"):
        WorkerPool(threads)


@pytest.mark.parametrize("threads", [2**31, 1.5, None, "2"])
def test_thread_counts_that_are_none(threads: Any) -> None:
    with pytest.raises(TypeError):
        WorkerPool(threads)


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        (ROWS[:0], ValueError, "at least one row"),
        (ROWS[:, :2].copy(), ValueError, r"rows must be float32 \(n, 6\)"),
        (ROWS[0], ValueError, r"rows must be float32 \(n, 6\)"),
        (np.frombuffer(b"\0" * (N * 4 + 1), np.float32, count=N, offset=1).reshape(1, N), ValueError, "aligned"),
        (ROWS.astype(np.float64), TypeError, "float32"),
        (ROWS[::2], TypeError, "C order"),
        (np.asfortranarray(ROWS), TypeError, "C order"),
        (ROWS.tolist(), TypeError, "incompatible"),
        (None, TypeError, "incompatible"),
    ],
)
def test_rows_that_cannot_be_submitted(rows: Float32Array, error: type[Exception], says: str) -> None:
    pool = WorkerPool(1)
    with pytest.raises(error, match=says):
        FAST.submit(pool, rows)
    assert_works(pool)


def test_pools_that_are_none() -> None:
    with pytest.raises(TypeError):
        FAST.submit(None, ROWS)  # type: ignore[arg-type]


def test_waiting_and_destroying_drop_the_gil(busy: tuple[WorkerPool, Callable[[], None]]) -> None:
    pool, _ = busy
    job = FAST.submit(pool, ROWS)
    assert seen_at_work(lambda: job.wait(0.002))
    assert not seen_at_work(lambda: job.cancelled)  # the method can tell

    def make_and_destroy() -> None:
        WorkerPool(4)

    assert seen_at_work(make_and_destroy)


def run(script: str) -> subprocess.CompletedProcess[str]:
    setup = """
import gc, os, resource, sys
import numpy as np
from tests import forests
from xai_service import _treeshap
rng = np.random.default_rng(0)
trees = [forests.random_tree(rng, 3, 9) for _ in range(100)]
explainer = _treeshap.PathDependentExplainer(forests.forest(trees, 3), variant="scalar-f64")
rows = rng.normal(size=(50, 3)).astype(np.float32)
endless = np.zeros((200_000, 3), np.float32)
"""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", setup + script], capture_output=True, text=True, timeout=100, check=False
    )


def test_a_forked_child_is_told_and_ends() -> None:
    done = run("""
pool = _treeshap.WorkerPool(2)
running = explainer.submit(pool, endless)
while not running.started_ns: running.wait(0.001)
child = os.fork()
if child == 0:
    try:
        explainer.submit(pool, rows)
    except RuntimeError as error:
        assert "fork" in str(error), error
    else:
        raise SystemExit(1)
    own = _treeshap.WorkerPool(2)
    job = explainer.submit(own, rows)
    assert job.wait(60)
    assert job.result().tobytes() == explainer.explain(rows).tobytes()
    running.cancel()
    del pool, running, own, job
    gc.collect()
    sys.exit(7)  # through the interpreter's own shutdown
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
running.cancel()
assert running.wait(60)
job = explainer.submit(pool, rows)
assert job.wait(60)
print("fine")
""")
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_the_interpreter_ends_with_jobs_under_way() -> None:
    done = run("""
pool = _treeshap.WorkerPool(2)
jobs = [explainer.submit(pool, endless, deferred=bool(i % 2)) for i in range(8)]
while not jobs[0].started_ns: jobs[0].wait(0.001)
cycle = [pool, jobs]
cycle.append(cycle)
print("over")
""")
    assert (done.stdout, done.returncode) == ("over\n", 0), done.stderr


def test_running_out_of_threads_is_an_error_not_an_end() -> None:
    done = run("""
pool = _treeshap.WorkerPool(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), resource.RLIM_INFINITY))  # stacks of some twenty threads
try:
    _treeshap.WorkerPool(1024)
except RuntimeError:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    job = explainer.submit(pool, rows)
    assert job.wait(60)
    print("refused")
""")
    assert (done.stdout, done.returncode) == ("refused\n", 0), done.stderr
