"""A bundle as a bill of materials for machines: CycloneDX 1.6 [1]_, an ML-BOM with the model card in it.

The document is written here, since it is one dictionary; ``cyclonedx-python-lib`` would bring a dozen packages to run
time. In the tests that library judges it by the official schema. The same manifest gives the same document.

.. [1] ECMA-424, https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from xai_service.console.model_card import LIBRARIES, model_card
from xai_service.model.manifest import MANIFEST_FILE, MODEL_FILE
from xai_service.model.provenance import ROWS_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xai_service.model.manifest import Manifest
    from xai_service.model.provenance import RowsDigest

_PREFIX = "xai:"
_SUPERVISED = ("binary_classification", "multiclass_classification", "multilabel_classification", "regression")
_PACKER = "xai-service"


def cyclonedx(manifest: Manifest, manifest_sha256: str) -> dict[str, Any]:
    """Returns the document, as JSON has it.

    Args:
        manifest: as parsed.
        manifest_sha256: of its bytes, as hexadecimal digits. It makes the serial number.
    """
    model = f"model:{manifest.name}@{manifest.version}"
    datasets = list(_datasets(manifest))
    libraries = [_library(name, version) for name, version in sorted(manifest.made_by.items())]
    parts = [one["bom-ref"] for one in (*libraries, *datasets)]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'sha256:{manifest_sha256}')}",
        "version": 1,
        "metadata": {
            "timestamp": manifest.created_at,
            "tools": {"components": [one for one in libraries if one["name"] == _PACKER]},
            "component": _model(manifest, model, [one["bom-ref"] for one in datasets]),
        },
        "components": [
            *(one for one in libraries if one["name"] != _PACKER),
            *datasets,
            _file(MANIFEST_FILE, manifest_sha256),
            *(_file(name, digest.sha256) for name, digest in sorted(manifest.files.items()) if name != MODEL_FILE),
        ],
        "dependencies": [{"ref": model, "dependsOn": parts}, *({"ref": part} for part in parts)],
    }


def _model(manifest: Manifest, reference: str, datasets: list[str]) -> dict[str, Any]:
    said = manifest.provenance
    return {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": manifest.name,
        "version": manifest.version,
        **_stated("description", said.description),
        **({"supplier": {"name": said.owner, **_contact(said.contact)}} if said.owner else {}),
        **({"licenses": [{"license": {"name": said.licence}}]} if said.licence else {}),
        "hashes": [{"alg": "SHA-256", "content": manifest.files[MODEL_FILE].sha256}],
        "modelCard": {
            "modelParameters": _parameters(manifest, datasets),
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(manifest))},
            "considerations": _considerations(manifest),
            "properties": _properties("hyper-parameter:", said.hyper_parameters),
        },
        "properties": _properties("", dict(_facts(manifest))),
    }


def _parameters(manifest: Manifest, datasets: list[str]) -> dict[str, Any]:
    outputs = ("label", "probabilities", "margin") if manifest.classes else ("prediction", "margin")
    trainer = next((LIBRARIES[name] for name in LIBRARIES if name in manifest.made_by), None)
    return {
        **({"approach": {"type": "supervised"}} if manifest.task in _SUPERVISED else {}),
        "task": manifest.task.replace("_", " "),
        "architectureFamily": "tree ensemble",
        **_stated("modelArchitecture", trainer),
        "datasets": [{"ref": one} for one in datasets],
        "inputs": [
            {"format": f"{feature.name} ({'string' if feature.kind == 'string' else 'float32'})"}
            for feature in manifest.features
        ],
        "outputs": [{"format": one} for one in outputs],
    }


def _metrics(manifest: Manifest) -> Iterator[dict[str, Any]]:
    for one in manifest.provenance.metrics:
        where = ", ".join(filter(None, (one.dataset, one.slice)))
        yield {"type": one.name, "value": repr(one.value), **_stated("slice", where or None)}
    for name, value in (("margin", "max_margin_difference"), ("output", "max_output_difference")):
        difference = repr(getattr(manifest.parity, value))
        yield {"type": f"greatest difference of the {name} from the native model", "value": difference}


def _considerations(manifest: Manifest) -> dict[str, Any]:
    said = manifest.provenance
    limits = next(one for one in model_card(manifest, "").sections if one.key == "limits")
    outside = [f"Not to be used for: {said.out_of_scope_use}"] if said.out_of_scope_use else []
    protected = [name for name, facts in said.features.items() if facts.protected]
    return {
        **({"useCases": [said.intended_use]} if said.intended_use else {}),
        "technicalLimitations": [*outside, *limits.text],
        **(
            {"ethicalConsiderations": [{"name": f"Protected attribute: {name}"} for name in protected]}
            if protected
            else {}
        ),
    }


def _datasets(manifest: Manifest) -> Iterator[dict[str, Any]]:
    said = manifest.provenance
    data = said.training_data
    if data is not None:
        facts = {"row_count": data.row_count, "period": data.period, "is_packed_rows": data.is_packed_rows}
        yield _data("data:training", data.name or "training data", data.lineage, data.sha256, facts)
    if said.packed_rows is not None:
        yield _rows("data:packed-rows", "rows given when packing", None, said.packed_rows)
    if said.background is not None:
        yield _rows("data:background", "background", said.background.drawn, said.background.rows)


def _rows(reference: str, name: str, text: str | None, rows: RowsDigest) -> dict[str, Any]:
    facts = {"row_count": rows.row_count, "digest": ROWS_METHODS[rows.method]}
    return _data(reference, name, text, rows.sha256, facts)


def _data(reference: str, name: str, text: str | None, sha256: str | None, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": reference,
        "name": name,
        **_stated("description", text),
        **({"hashes": [{"alg": "SHA-256", "content": sha256}]} if sha256 else {}),
        "data": [{"type": "dataset", "name": name}],
        "properties": _properties("", facts),
    }


def _library(name: str, version: str) -> dict[str, Any]:
    return {
        "type": "application" if name == _PACKER else "library",
        "bom-ref": f"pypi:{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}",
    }


def _file(name: str, sha256: str) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }


def _facts(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    said = manifest.provenance
    yield "schema", manifest.schema
    yield "classes", list(manifest.classes) or None
    yield "threshold", manifest.threshold
    yield "favourable_class", manifest.favourable_class
    yield "latency_budget_ms", manifest.latency_budget_ms
    yield "preprocessing", said.preprocessing
    yield "code_revision", said.code and said.code.revision
    yield "code_is_dirty", said.code and said.code.is_dirty
    for name, facts in said.features.items():
        yield f"feature:{name}:monotonicity", facts.monotonicity
        yield f"feature:{name}:is_monotonicity_proven", facts.is_monotonicity_proven
        yield f"feature:{name}:protected", facts.protected
        yield f"feature:{name}:immutable", facts.immutable


def _properties(prefix: str, values: Any) -> list[dict[str, str]]:
    """Properties hold text: what is no text is written as JSON. What nobody stated is left out."""
    return [
        {"name": f"{_PREFIX}{prefix}{name}", "value": value if isinstance(value, str) else json.dumps(value)}
        for name, value in values.items()
        if value is not None
    ]


def _contact(contact: str | None) -> dict[str, Any]:
    return {"contact": [{"name": contact}]} if contact else {}


def _stated(key: str, value: str | None) -> dict[str, str]:
    return {} if value is None else {key: value}
