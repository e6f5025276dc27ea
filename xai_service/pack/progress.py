"""A bar for packing, which takes from a second to minutes: what notebooks show unless told otherwise."""

from __future__ import annotations

import builtins
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from xai_service.errors import PackRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Tell = Callable[[str, float], None]

_WIDTH = 30


@contextlib.contextmanager
def telling(progress: Any) -> Iterator[Tell]:
    """Gives what is to be told the stage and the share done, 0 to 1, and ends the bar, if there is one.

    Args:
        progress: such a function already; ``True`` for a bar, ``False`` for none, ``None`` for one where somebody
            watches: in a notebook, or at a Python prompt.
    """
    if callable(progress):
        yield progress
        return
    if progress is not None and not isinstance(progress, bool):
        raise PackRefused(f"progress: must be True, False or a function, is {progress!r}")
    if progress is False or (progress is None and not _is_watched()):
        yield lambda _stage, _share: None
        return
    bar = _notebook_bar() or _Line()
    try:
        yield bar.tell
    finally:
        bar.close()


def _is_watched() -> bool:
    """Whether this is an interactive session: a prompt of Python's, or IPython's, whose notebooks are."""
    return hasattr(sys, "ps1") or hasattr(builtins, "get_ipython")


def _notebook_bar() -> _Bar | None:
    """Returns tqdm's bar, a widget in notebooks, where it is installed; most notebooks have it."""
    try:
        import tqdm.auto  # noqa: PLC0415 - no dependency
    except ImportError:
        return None
    return _Bar(tqdm.auto.tqdm(total=100, desc="pack", unit="%", leave=True, bar_format="{l_bar}{bar}| {elapsed}"))


class _Bar:
    """tqdm's, in percent."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def tell(self, stage: str, share: float) -> None:
        """Moves the bar."""
        self._bar.set_description_str(f"pack: {stage}", refresh=False)
        self._bar.update(round(100 * share) - self._bar.n)

    def close(self) -> None:
        """Leaves it as it stands."""
        self._bar.close()


class _Line:
    """One line on stderr, written over and over."""

    def tell(self, stage: str, share: float) -> None:
        """Draws it anew."""
        full = round(_WIDTH * share)
        sys.stderr.write(f"\rpack: {stage:<8} [{'=' * full}{' ' * (_WIDTH - full)}] {share:4.0%}")
        sys.stderr.flush()

    def close(self) -> None:
        """Ends the line."""
        sys.stderr.write("\n")
