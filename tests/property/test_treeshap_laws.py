"""The kernel against the definition: brute force over subsets, a leaf-by-leaf reference, and Shapley's own axioms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import forests, oracles
from tests.oracles import scale
from xai_service import _treeshap

N = 5
forest_strategy = st.lists(forests.trees(N, max_depth=4), min_size=1, max_size=4)


# The float64 variant to 1e-9 of scale, and the others on every instruction set of this machine to 1e-6.
KERNELS = {
    "scalar-f64": ({"variant": "scalar-f64"}, 1e-9),
    **{
        f"{variant} on {isa}": ({"isa": isa, "variant": variant}, 1e-6)
        for isa in _treeshap.supported_isas()
        for variant in ("rows-f32", "row-f32")
    },
}


def explain(trees, rows, kernel="scalar-f64", players=None):
    explainer = _treeshap.PathDependentExplainer(forests.forest(trees, rows.shape[1], players), **KERNELS[kernel][0])
    return explainer.explain(rows)[:, :, 0], float(explainer.base_values[0])


@settings(max_examples=300, deadline=None)
@given(trees=forest_strategy, row=forests.rows(N), players=forests.players(N))
def test_kernel_reference_and_brute_force_agree(trees, row, players):
    exact, reference = oracles.brute_force(trees, row, players), oracles.reference(trees, row, players)
    np.testing.assert_allclose(reference, exact, rtol=0, atol=1e-9 * scale(trees))
    for kernel, (_, tolerance) in KERNELS.items():
        phi, base = explain(trees, row[None], kernel, players)
        np.testing.assert_allclose(phi[0], exact, rtol=0, atol=tolerance * scale(trees), err_msg=kernel)
        assert base == pytest.approx(oracles.base_value(trees, N), abs=1e-9 * scale(trees))


@settings(max_examples=100, deadline=None)
@given(trees=forest_strategy, row=forests.rows(N))
def test_what_all_leaves_share_costs_no_digits(trees, row):
    """A LightGBM regression's first tree holds the mean of the targets, which may be large beside their differences."""

    def shifted(tree):
        return ("leaf", 2.0**20 + tree[1], tree[2]) if tree[0] == "leaf" else (*tree[:5], *map(shifted, tree[5:]))

    exact = oracles.reference(trees, row)
    for kernel, (_, tolerance) in KERNELS.items():
        phi, _ = explain([shifted(tree) for tree in trees], row[None], kernel)
        np.testing.assert_allclose(phi[0], exact, rtol=0, atol=max(tolerance, 1e-8) * scale(trees), err_msg=kernel)


@settings(max_examples=150, deadline=None)
@given(trees=forest_strategy, row=forests.rows(N))
def test_attributions_add_to_the_margin_and_unused_features_get_none(trees, row):
    phi, base = explain(trees, row[None])
    margin = forests.forest(trees, N).predict(row[None])[0, 0]
    assert margin == pytest.approx(oracles.margin(trees, row), abs=1e-9 * scale(trees))
    assert base + phi.sum() == pytest.approx(margin, abs=1e-9 * scale(trees))

    def features(tree):
        return set() if tree[0] == "leaf" else {tree[1]} | features(tree[5]) | features(tree[6])

    used = set().union(*(features(tree) for tree in trees))
    assert all(phi[0, f] == 0 for f in set(range(N)) - used)


@settings(max_examples=60, deadline=None)
@given(trees=forest_strategy, rows=st.lists(forests.rows(N), min_size=2, max_size=9), data=st.data())
def test_a_rows_bits_do_not_depend_on_its_neighbours_or_on_the_threads(trees, rows, data):
    rows, players = np.array(rows), data.draw(forests.players(N))
    isa, variant = data.draw(st.sampled_from(ISAS)), data.draw(st.sampled_from(["rows-f32", "row-f32"]))
    plan = _treeshap.PathDependentExplainer(forests.forest(trees, N, players), isa=isa, variant=variant)
    together = plan.explain(rows)
    order = np.array(data.draw(st.permutations(range(len(rows)))))
    alone = np.concatenate([plan.explain(rows[i : i + 1]) for i in range(len(rows))])
    job = plan.submit(POOL, rows)
    assert job.wait(60)
    assert together.tobytes() == alone.tobytes() == job.result().tobytes()
    assert plan.explain(rows[order]).tobytes() == together[order].tobytes()


@pytest.mark.parametrize(
    ("depth", "n_features", "chain"), [(35, 60, True), (35, 9, True), (9, 40, False), (120, 150, True)]
)
@pytest.mark.parametrize("grouped", [False, True])
def test_deep_trees_against_the_reference(depth, n_features, chain, grouped):
    rng = np.random.default_rng(depth)
    players = rng.integers(0, n_features // 2, n_features).tolist() if grouped else None
    trees = [forests.random_tree(rng, n_features, depth, chain=chain) for _ in range(2)]
    rows = rng.normal(size=(3, n_features)).astype(np.float32)
    rows[1, ::3] = np.nan
    expected = [oracles.reference(trees, row, players) for row in rows]
    for isa in ISAS:
        explainer = _treeshap.PathDependentExplainer(forests.forest(trees, n_features, players), isa=isa)
        for copies in (1, 8):  # few rows, and many: whichever variant takes such deep trees
            variant = explainer.variant_for(copies * len(rows))
            tolerance = (1e-9 if variant == "scalar-f64" else 1e-6) * scale(trees)
            phi = explainer.explain(np.tile(rows, (copies, 1)))[:, :, 0]
            np.testing.assert_allclose(phi, expected * copies, rtol=0, atol=tolerance, err_msg=f"{variant} on {isa}")
            margins = [oracles.margin(trees, row) for row in rows] * copies
            np.testing.assert_allclose(explainer.base_values[0] + phi.sum(axis=1), margins, rtol=0, atol=tolerance)


POOL = _treeshap.WorkerPool(3)
ISAS = _treeshap.supported_isas()
