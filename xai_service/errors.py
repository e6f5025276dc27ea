"""Every error this package raises on purpose.

::

    XaiError
    ├── InvalidInput            the request is wrong; says which field and what to do
    ├── NotFound
    │   ├── ModelNotFound       no such model or version in the repository
    │   └── DecisionNotFound    no such decision in the ledger
    ├── ModelError              a model or bundle cannot be served or explained
    │   ├── InvalidModel        the file is not a tree ensemble this service can prove it reads rightly
    │   ├── MissingCovers       path-dependent SHAP needs covers and the file has none
    │   ├── BundleMismatch      a file of the bundle is not the one its manifest describes
    │   └── UntrustedBundle     not signed, or not by a key that is trusted
    ├── InvalidKey              a file is not a key that can sign or verify
    ├── InvalidSetting          a file that a setting names cannot be used as what it is named for
    ├── Unauthenticated         who calls is not known
    ├── Forbidden               who calls is known, and may not do this
    ├── PackRefused             the conversion could not be proven equal to the native model
    ├── Overloaded              bounded queues are full; try again later
    ├── BudgetExhausted         the deadline passed before what the caller requires was there
    ├── Unavailable             shutting down, or the ledger cannot store decisions now
    └── InternalError           a bug: a promise of this package does not hold

No transport appears here: `xai_service.wire.status` maps each class to a gRPC status in one table.
"""

from __future__ import annotations

from dataclasses import dataclass


class XaiError(Exception):
    """Base of all errors raised on purpose. The message is meant for the caller to read."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing that is wrong with one field of a request.

    Attributes:
        field: path of the field in the request, such as ``input.data`` or ``input[3, "income"]``.
        description: what is wrong and what to send instead.
    """

    field: str
    description: str


class InvalidInput(XaiError):
    """The request is wrong. ``violations`` lists each wrong field, at most `MAX_VIOLATIONS` of them."""

    MAX_VIOLATIONS = 16

    def __init__(self, *violations: FieldViolation) -> None:
        self.violations = violations[: self.MAX_VIOLATIONS]
        more = len(violations) - len(self.violations)
        text = "; ".join(f"{v.field}: {v.description}" for v in self.violations)
        super().__init__(text + (f"; and {more} more" if more else ""))


class NotFound(XaiError):
    """What was asked for does not exist."""


class ModelNotFound(NotFound):
    """No such model, or no such version of it, in the repository."""


class DecisionNotFound(NotFound):
    """No decision with this id in the ledger."""


class ModelError(XaiError):
    """A model or bundle cannot be served or explained."""


class InvalidModel(ModelError):
    """The file is not a tree ensemble that this package can prove it reads rightly."""


class MissingCovers(ModelError):
    """Path-dependent SHAP needs a cover for each node, and the model file carries none."""


class BundleMismatch(ModelError):
    """A file of the bundle is missing, damaged or not the one that its manifest describes."""


class UntrustedBundle(ModelError):
    """Signed bundles are required and this one is not signed, or not by a key that is trusted."""


class InvalidKey(XaiError):
    """A file is not a key that can sign or verify."""


class InvalidSetting(XaiError):
    """A setting, or a file that one names, cannot be used: certificates, who may call, the configuration itself."""


class Unauthenticated(XaiError):
    """Who calls is not known: no token or certificate was shown, or not one that is listed."""


class Forbidden(XaiError):
    """Who calls is known and has no role that may do this."""


class PackRefused(XaiError):
    """The conversion was not proven equal to the native model, so no bundle was written."""


class Overloaded(XaiError):
    """A bounded queue is full. Nothing was done; try again after ``retry_after_s`` seconds."""

    def __init__(self, message: str, retry_after_s: float = 0.1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BudgetExhausted(XaiError):
    """The deadline passed before a prediction, or an explanation that is required, was there. Nothing was recorded."""


class Unavailable(XaiError):
    """The service is shutting down, or its ledger cannot store decisions now. Nothing of this request was recorded."""


class InternalError(XaiError):
    """A promise of this package does not hold: a bug, worth a report."""
