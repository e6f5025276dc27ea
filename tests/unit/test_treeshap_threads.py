"""`TreeExplainer(n_jobs=…)`: the same bits from any number of threads, through forks, and a way out by Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from tests import forests
from tests.gil import seen_at_work
from xai_service import _treeshap, treeshap
from xai_service.cpus import usable_cpus
from xai_service.treeshap import TreeExplainer

N = 5
RNG = np.random.default_rng(12)
TREES = [forests.random_tree(RNG, N, 5) for _ in range(20)]
DEEP = [*TREES, forests.random_tree(RNG, N, 30, chain=True)]
ROWS = RNG.normal(size=(3000, N)).astype(np.float32)
ROWS[::7, 1] = np.nan


def explainer(n_jobs: int | None, trees: Any = TREES, **more: Any) -> TreeExplainer:
    return TreeExplainer(forests.onnx_model(forests.ensemble_attributes(trees, N), N), n_jobs=n_jobs, **more)


@pytest.mark.parametrize("background", [None, ROWS[:30]], ids=["path-dependent", "interventional"])
@pytest.mark.parametrize("trees", [TREES, DEEP], ids=["shallow", "deep"])
def test_the_same_bits_for_any_number_of_threads(trees: Any, background: Any) -> None:
    alone = explainer(None, trees, background=background)
    for n_jobs in (1, 2, 3, -1):
        split = explainer(n_jobs, trees, background=background)
        for n in (0, 1, 2, 7, 8, 9, 255, 256, 257, 3000):
            assert split.shap_values(ROWS[:n]).tobytes() == alone.shap_values(ROWS[:n]).tobytes()


def test_the_same_interaction_values_for_any_number_of_threads() -> None:
    alone, split = explainer(1), explainer(3)
    for n in (1, 2, 50, 200):
        assert split.shap_interaction_values(ROWS[:n]).tobytes() == alone.shap_interaction_values(ROWS[:n]).tobytes()


def test_rows_are_split_across_the_pools_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not by the calling thread: a pool of none but held-up workers shows it."""
    pool = _treeshap.WorkerPool(2)
    monkeypatch.setattr(treeshap, "_shared_pool", lambda threads: pool if threads == 2 else None)
    slow = _treeshap.PathDependentExplainer(forests.forest(TREES * 20, N), variant="scalar-f64")
    blocker = slow.submit(pool, np.zeros((200_000, N), np.float32))
    done = threading.Event()

    def work() -> None:
        explainer(2).shap_values(ROWS)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not done.wait(0.3)
    explainer(1).shap_values(ROWS)  # in this thread, whatever the workers do
    blocker.cancel()
    assert done.wait(60)
    thread.join()


def test_explainers_share_a_pool_of_each_size() -> None:
    two = treeshap._shared_pool(2)
    assert treeshap._shared_pool(2) is two
    assert two.threads == 2
    assert treeshap._shared_pool(3).threads == 3


@pytest.mark.parametrize(
    ("n_jobs", "threads"),
    [(None, 1), (1, 1), (5, 5), (1024, 1024), (-1, usable_cpus()), (-2, max(1, usable_cpus() - 1)), (-99999, 1)],
)
def test_n_jobs_counts_as_joblib_does(n_jobs: int | None, threads: int) -> None:
    assert explainer(n_jobs)._threads == threads


@pytest.mark.parametrize("n_jobs", [0, 1025, 2**40])
def test_n_jobs_out_of_range(n_jobs: int) -> None:
    with pytest.raises(ValueError, match=f"n_jobs is {n_jobs}"):
        explainer(n_jobs)


def test_the_rows_may_change_once_the_values_are_there() -> None:
    """The workers read the caller's rows without a copy, so none may still be at it."""
    rows, split = ROWS.copy(), explainer(3)
    expected = split.shap_values(ROWS)
    for _ in range(20):
        rows[:] = ROWS
        values = split.shap_values(rows)
        rows[:] = np.nan
        assert values.tobytes() == expected.tobytes()


def test_waiting_for_the_workers_drops_the_gil() -> None:
    split = explainer(2)
    assert seen_at_work(lambda: split.shap_values(ROWS))


def run(script: str) -> subprocess.CompletedProcess[str]:
    setup = f"""
import os, signal, sys, threading, time
import numpy as np
from tests import forests
from xai_service import _treeshap
from xai_service.treeshap import TreeExplainer
rng = np.random.default_rng(0)
def explainer(trees, depth, **more):
    trees = [forests.random_tree(rng, {N}, depth) for _ in range(trees)]
    return TreeExplainer(forests.onnx_model(forests.ensemble_attributes(trees, {N}), {N}), **more)
rows = rng.normal(size=(1000, {N})).astype(np.float32)
"""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", setup + script], capture_output=True, text=True, timeout=100, check=False
    )


def test_a_forked_child_makes_a_pool_of_its_own() -> None:
    """Also while the parent's workers are busy, and a grandchild of the child's."""
    done = run("""
fast, slow = explainer(20, 5, n_jobs=2), explainer(50, 9, n_jobs=2)
expected = fast.shap_values(rows).tobytes()
busy = threading.Thread(target=lambda: slow.shap_values(np.repeat(rows, 3, axis=0)))
busy.start()
codes = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        assert fast.shap_values(rows).tobytes() == expected
        assert fast.shap_values(rows[:1]).shape == (1, 5)
        grandchild = os.fork()
        if grandchild == 0:
            assert fast.shap_values(rows).tobytes() == expected
            sys.exit(3)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) + 4)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
busy.join()
assert fast.shap_values(rows).tobytes() == expected
print(set(codes))
""")
    assert (done.stdout, done.returncode) == ("{7}\n", 0), done.stderr


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("method", ["shap_values", "shap_interaction_values"])
def test_ctrl_c_ends_the_work_and_leaves_everything_usable(n_jobs: int, method: str) -> None:
    done = run(f"""
slow = explainer(50, 8, n_jobs={n_jobs})
expected = slow.{method}(rows[:40]).tobytes()
endless = np.repeat(rows, 400, axis=0)
for _ in range(2):
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    try:
        slow.{method}(endless)  # many seconds
    except KeyboardInterrupt:
        took = time.monotonic() - begun
    assert took < 3, took
    assert slow.{method}(rows[:40]).tobytes() == expected
print("fine")
""")
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_a_signal_handler_that_returns_does_not_disturb_the_work() -> None:
    done = run("""
slow = explainer(50, 8, n_jobs=2)
many = np.repeat(rows, 8, axis=0)
expected, seen = slow.shap_values(many).tobytes(), []
signal.signal(signal.SIGALRM, lambda *_: seen.append(time.monotonic()))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
assert slow.shap_values(many).tobytes() == expected
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(seen) > 0)
""")
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
