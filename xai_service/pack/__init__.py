"""Turns a native model into a bundle, or refuses: ``pack(model, X, name="loans", out="models")``.

What happens, file by file::

    rows         the caller's rows as float32, and the features' names
    xgboost      one reader for each library: native model → native.NativeModel
    forest       treelite's trees as arrays, with covers that make sense
    onnx_writer  the one writer: trees → model.onnx
    probes       rows that show a wrong conversion: missing values, values on thresholds
    parity       the gate: ONNX Runtime and the native library must agree on all of them
    publish      names, versions, and a directory that appears whole or not at all
    build        the above, top to bottom

Importing this package needs no machine learning library; `pack` does (``pip install 'xai-service[pack]'``).
"""

from xai_service.pack.build import pack

__all__ = ["pack"]
