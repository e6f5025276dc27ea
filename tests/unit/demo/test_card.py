"""What the demo states of its model is true of its data, and packing takes it."""

from __future__ import annotations

from xai_service.demo import data
from xai_service.demo.card import card
from xai_service.pack.card import read_statements


def test_the_demos_card() -> None:
    names = [feature.name for feature in data.FEATURES]
    stated = read_statements(card(0.8, 500), None, names)
    assert list(stated.features) == sorted(names)
    assert {facts.protected for facts in stated.features.values()} == {False}
    assert not data.PROTECTED.keys() & set(names)
    assert (stated.metrics[0].value, stated.metrics[0].dataset) == (0.8, "500 applications held out")
    assert stated.training_data is not None
    assert stated.training_data.lineage is not None
    assert f"{len(data.PROTECTED)} columns that tell who someone is" in stated.training_data.lineage
