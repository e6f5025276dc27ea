"""A model explained against a background, asked over the wire: the method is in the reply and in the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.conftest import serving
from xai_service.client import Client
from xai_service.pack import pack
from xai_service.treeshap import TreeExplainer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Loans


def test_interventional_explanations_are_served_and_recorded(loans: Loans, tmp_path: Path) -> None:
    background = loans.features.iloc[:100]
    bundle = pack(
        loans.booster, loans.features.iloc[:1500], name="loan", out=tmp_path / "models", background=background
    )
    explainer = TreeExplainer(bundle / "model.onnx", background)
    rows = loans.held_out.iloc[:20]
    with serving(tmp_path / "models", tmp_path / "ledger.sqlite") as server, Client(server.addresses[0]) as client:
        reply = client.predict(rows, "loan")
        assert reply.method.algorithm == "interventional_treeshap"
        np.testing.assert_array_equal(reply.attributions[:, :, 0], explainer.shap_values(rows))
        np.testing.assert_array_equal(reply.base_values, [explainer.expected_value])
        recorded = client.decision(reply.decision_ids[3])
        assert recorded.explanation.method.algorithm == "interventional_treeshap"
        np.testing.assert_array_equal(recorded.explanation.attributions, reply.attributions[3])
        late = client.predict(rows, "loan", latency_budget_ms=1e-3)
        assert late.statuses[0].name in ("DEFERRED", "COMPLETE")  # the latter where prediction took as long
        one = client.explanation(late.decision_ids[0], wait_s=30)
        np.testing.assert_array_equal(np.squeeze(one.attributions), np.squeeze(reply.attributions[0]))
