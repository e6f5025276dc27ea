"""Messages on terminals and in logs, which quote what files and callers wrote."""

from __future__ import annotations

from xai_service.console.waterfall import UNPRINTABLE


def as_message(text: str) -> str:
    """Returns the text without what could steer a terminal; later lines are indented, so that none passes for another
    message.
    """
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", "\n  ".join(text.splitlines()))
