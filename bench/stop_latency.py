"""How soon a worker is free once its job is cancelled, for each plan and variant, on forests from small to hostile.

    python bench/stop_latency.py [--rounds 200]

The job is cancelled at a random moment of its first milliseconds. What is measured is the time from the request to the
job's end on its worker, by one clock: 200 µs is what the service counts on. Also what a hand-off to a worker costs:
a row that takes next to nothing, here and there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if __package__ in (None, ""):  # started as a file: the folder above is where `xai_service` is
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from xai_service import _treeshap
from xai_service._treeshap import InteractionsPlan, InterventionalPlan, PathDependentExplainer, WorkerPool
from xai_service.types import Float32Array

FEATURES = 20
BAR_US = 200.0
FORESTS = {"500×d6": (500, 6), "100×d12": (100, 12), "1×d17": (1, 17), "1×d20, a million leaves": (1, 20)}
Plan = PathDependentExplainer | InterventionalPlan | InteractionsPlan


def full_trees(trees: int, depth: int, rng: np.random.Generator) -> _treeshap.Forest:
    """Trees that are full to the depth, with random splits: node i's children are 2 i + 1 and 2 i + 2."""
    size, splits = 2 ** (depth + 1) - 1, 2**depth - 1
    is_split = np.arange(size) < splits
    cover = rng.integers(1, 50, (trees, size)).astype(np.float64)
    for level in reversed(range(depth)):
        own = np.arange(2**level - 1, 2 ** (level + 1) - 1)
        cover[:, own] = cover[:, 2 * own + 1] + cover[:, 2 * own + 2]
    n = trees * size
    base = np.repeat(np.arange(trees, dtype=np.int64) * size, size)
    in_tree, split = np.tile(np.arange(size, dtype=np.int64), trees), np.tile(is_split, trees)
    leaves = np.flatnonzero(~split)
    return _treeshap.Forest(
        n_features=FEATURES,
        n_outputs=1,
        tree_begin=np.arange(trees + 1, dtype=np.int64) * size,
        kind=split.astype(np.uint8),
        feature=np.where(split, rng.integers(0, FEATURES, n), 0),
        threshold=np.where(split, rng.normal(size=n), 0),
        nan_left=np.zeros(n, np.uint8),
        left=np.where(split, base + 2 * in_tree + 1, 0),
        right=np.where(split, base + 2 * in_tree + 2, 0),
        cover=cover.ravel(),
        weight_begin=np.concatenate([[0], np.cumsum(~split)]).astype(np.int64),
        weight_output=np.zeros(len(leaves), np.int64),
        weight=rng.normal(size=len(leaves)),
        base=np.zeros(1),
    )


def plans(forest: _treeshap.Forest, background: Float32Array) -> Iterator[tuple[str, Plan]]:
    """Each plan that serves the forest."""
    for variant in ("scalar-f64", "rows-f32", "row-f32"):
        try:
            yield variant, PathDependentExplainer(forest, variant=variant)
        except ValueError as error:
            print(f"  {variant}: {error}")
    tables = InterventionalPlan(forest, background)
    if tables.n_trees_by_table:
        yield "interventional, tables", tables
    yield "interventional, walk", InterventionalPlan(forest, background, 0)
    yield "interactions", InteractionsPlan(forest)


def latencies_us(
    plan: Plan, pool: WorkerPool, rows: Float32Array, rounds: int, rng: np.random.Generator
) -> list[float]:
    """From the request to stop until the worker is free, in µs; rounds that were over before are left out."""
    took = []
    for _ in range(rounds):
        job = plan.submit(pool, rows)
        while job.started_ns == 0 and not job.wait(0):
            pass
        until = time.monotonic_ns() + int(rng.uniform(0, 3e6))
        while time.monotonic_ns() < until:
            pass
        asked = time.monotonic_ns()
        job.cancel()
        job.wait(600.0)
        if job.cancelled:
            took.append((job.finished_ns - asked) / 1e3)
    return took


def hand_off(rounds: int) -> None:
    """Prints what one row of one split costs in the calling thread and on a worker, which slept or not."""
    rng = np.random.default_rng(0)
    plan, pool = PathDependentExplainer(full_trees(1, 1, rng)), WorkerPool(1)
    row = rng.normal(size=(1, FEATURES)).astype(np.float32)

    def there() -> None:
        job = plan.submit(pool, row)
        job.wait(60.0)
        job.result()

    for name, work, pause_s in (
        ("in the calling thread", lambda: plan.explain(row), 0.0),
        ("on a worker, at once again", there, 0.0),
        ("on a worker that slept 1 ms", there, 0.001),
    ):
        took = []
        for _ in range(rounds):
            time.sleep(pause_s) if pause_s else None
            begun = time.perf_counter_ns()
            work()
            took.append((time.perf_counter_ns() - begun) / 1e3)
        p50, p99 = np.percentile(took, [50, 99])
        print(f"  {name:<28} p50 {p50:7.1f} µs   p99 {p99:7.1f} µs   min {min(took):7.1f} µs")


def main() -> None:
    """Prints a line for each forest and plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="cancellations of each (default 200)")
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, FEATURES)).astype(np.float32)
    print("hand-off of one trivial row:")
    hand_off(5 * rounds)
    for title, (trees, depth) in FORESTS.items():
        print(f"{title}: time until the worker is free")
        for name, plan in plans(full_trees(trees, depth, rng), rows[:100]):
            # Few rows for the one-row variant would be over too soon, so it gets them all, forced.
            took = latencies_us(plan, WorkerPool(1), rows, rounds, rng)
            if took:
                p50, p99 = np.percentile(took, [50, 99])
                flag = "" if p99 <= BAR_US else f"   BEYOND {BAR_US:.0f}"
                print(f"  {name:<28} p50 {p50:7.1f} µs   p99 {p99:7.1f} µs   max {max(took):7.1f} µs{flag}")


if __name__ == "__main__":
    main()
