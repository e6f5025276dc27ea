"""Turns a native model into a bundle, or refuses: ``pack(model, X, name="loans", out="models")``.

What happens, file by file::

    readers         which reader takes the model: one for each library, imported when it is needed
    xgboost …       native model → native.NativeModel, with a treelite model's trees (treelite_trees) or its own
    onnx_file       another converter's file → the same: onnx_graph says what it computes, onnx_ensembles and
                    onnx_opset5 read its tree operator, raw_trees makes trees of it
    additive        linear models, alone or behind a pipeline's steps: the line and the lookups that are served
    asked           any other model: its graph, served as it is (sklearn_asked converts scikit-learn's)
    forest          trees as arrays, with covers that make sense
    rows            the caller's rows as float32, and the features' names
    covers          counted, for a model that carries none
    background      the rows to explain against, where attributions are to be interventional
    onnx_writer     the one writer: trees → model.onnx
    probes          rows that show a wrong conversion: missing values, values on thresholds, categories
    parity          the gate: ONNX Runtime and the native library must agree on all of them
    attributions    and so must the attributions, which must add up; interventional computes them leaf by leaf
    publish         names, versions, and a directory that appears whole or not at all
    build           the above, top to bottom

Importing this package needs no machine learning library; `pack` does (``pip install 'xai-service[pack]'``).
"""

from xai_service.pack.build import pack

__all__ = ["pack"]
