"""The bill of materials is valid by the official schema, which cyclonedx-python-lib brings, and true to the card."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from xai_service.console.mlbom import cyclonedx
from xai_service.model.bundle import Bundle

if TYPE_CHECKING:
    from pathlib import Path

    from xai_service.model.manifest import Manifest

SHA = "98" * 32


def valid(manifest: Manifest) -> dict[str, Any]:
    """The document, once the schema found nothing wrong with it."""
    document = cyclonedx(manifest, SHA)
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    assert error is None, str(error)[:2000]
    references = [part["bom-ref"] for part in _components(document)]
    assert len(set(references)) == len(references)
    for dependency in document["dependencies"]:
        assert {dependency["ref"], *dependency.get("dependsOn", [])} <= set(references)
    return document


def _components(document: dict[str, Any]) -> list[dict[str, Any]]:
    metadata = document["metadata"]
    return [metadata["component"], *metadata["tools"]["components"], *document["components"]]


def properties(component: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in component["properties"]}


@pytest.mark.parametrize("kind", ["stated", "unstated", "hostile"])
def test_it_is_valid(kind: str, request: pytest.FixtureRequest) -> None:
    valid(request.getfixturevalue(kind))


def test_a_version_stays_a_version_in_a_package_url(unstated: Manifest) -> None:
    document = valid(dataclasses.replace(unstated, made_by={"xgboost": "3.2+cpu?repository_url=evil#x"}))
    urls = [part["purl"] for part in document["components"] if part["type"] == "library"]
    assert urls == ["pkg:pypi/xgboost@3.2%2Bcpu%3Frepository_url%3Devil%23x"]


def test_the_judge_can_refuse(stated: Manifest) -> None:
    document = cyclonedx(stated, SHA)
    document["metadata"]["component"]["modelCard"]["modelParameters"]["approach"] = {"type": "guessing"}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is not None


def test_a_real_bundle(loan_repository: Path) -> None:
    manifest = Bundle.load(loan_repository / "loan" / "1").manifest
    document = valid(manifest)
    assert document["metadata"]["component"]["hashes"][0]["content"] == manifest.files["model.onnx"].sha256
    names = {part["name"] for part in document["components"] if part["type"] == "library"}
    assert names == manifest.made_by.keys() - {"xai-service"}


def test_the_model_is_described(stated: Manifest) -> None:
    model = valid(stated)["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "loan", "7")
    assert model["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert model["supplier"] == {"name": "Credit Risk, Example Bank", "contact": [{"name": "risk@bank.example"}]}
    assert model["licenses"] == [{"license": {"name": "Proprietary"}}]
    card = model["modelCard"]
    assert card["modelParameters"]["approach"] == {"type": "supervised"}
    assert card["modelParameters"]["task"] == "binary classification"
    assert card["considerations"]["useCases"] == ["Mortgages for people."]
    assert card["considerations"]["technicalLimitations"][0] == "Not to be used for: Loans to businesses."
    assert card["considerations"]["ethicalConsiderations"] == [{"name": "Protected attribute: age"}]
    metric = card["quantitativeAnalysis"]["performanceMetrics"][0]
    assert metric == {"type": "AUC", "value": "0.8125", "slice": "held out, women"}
    assert properties(card)["xai:hyper-parameter:learning_rate"] == "0.02"
    assert "xai:hyper-parameter:seed" not in properties(card)
    assert properties(model)["xai:feature:income:monotonicity"] == "1"
    assert properties(model)["xai:code_is_dirty"] == "true"


def test_data_are_components(stated: Manifest) -> None:
    document = valid(stated)
    data = {part["bom-ref"]: part for part in document["components"] if part["type"] == "data"}
    assert list(data) == ["data:training", "data:packed-rows", "data:background"]
    assert data["data:training"]["hashes"][0]["content"] == "cd" * 32
    assert properties(data["data:packed-rows"])["xai:row_count"] == "12345"
    assert "little-endian float32" in properties(data["data:packed-rows"])["xai:digest"]
    parameters = document["metadata"]["component"]["modelCard"]["modelParameters"]
    assert [one["ref"] for one in parameters["datasets"]] == list(data)


def test_libraries_are_what_it_depends_on(stated: Manifest) -> None:
    document = valid(stated)
    library = next(part for part in document["components"] if part["name"] == "xgboost")
    assert (library["type"], library["purl"]) == ("library", "pkg:pypi/xgboost@3.2.0")
    model = document["dependencies"][0]
    assert model["ref"] == "model:loan@7"
    assert {"pypi:onnx@1.23.2", "pypi:xai-service@0.1.0", "data:training"} <= set(model["dependsOn"])


def test_the_same_manifest_gives_the_same_document(stated: Manifest) -> None:
    assert cyclonedx(stated, SHA) == cyclonedx(stated, SHA)
    other = cyclonedx(stated, "97" * 32)
    assert other["serialNumber"] != cyclonedx(stated, SHA)["serialNumber"]


def test_nothing_is_made_up(unstated: Manifest) -> None:
    model = valid(unstated)["metadata"]["component"]
    assert not {"supplier", "licenses", "description"} & model.keys()
    assert "useCases" not in model["modelCard"]["considerations"]
    assert "modelArchitecture" not in model["modelCard"]["modelParameters"]
