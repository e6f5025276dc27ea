"""Files that are followed while they serve: certificates, and who may call. A bad new content changes nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from xai_service.errors import InvalidSetting, XaiError

_log = logging.getLogger(__name__)
_MAX_BYTES = 4 << 20
_T = TypeVar("_T")


class Followed(Generic[_T]):
    """What was made of some files, made anew when their contents change. Thread-safe.

    Looked at by who asks, at most once in ``every_s``: no thread, and nothing at all while nobody calls. Contents are
    compared, not times, for the files are small and times lie. Files that change one after the other, as a certificate
    and its key do, fit each other at last; until then, and whenever they are refused, the last good ones stand.

    Args:
        what: they are, for the log.
        paths: of the files.
        make: is given their contents, and raises `XaiError` where they are no good.
        every_s: seconds between two looks.

    Raises:
        InvalidSetting: one cannot be read.
        XaiError: what ``make`` raised, at the start.
    """

    def __init__(
        self, what: str, paths: Sequence[Path], make: Callable[[Sequence[bytes]], _T], *, every_s: float = 1.0
    ) -> None:
        self._what = what
        self._paths = tuple(paths)
        self._make = make
        self._every_s = every_s
        self._looking = threading.Lock()
        self._seen: tuple[bytes, ...] | str = self._read()
        self._value = make(self._seen)
        self._look_at = time.monotonic() + every_s

    def current(self) -> _T:
        """Returns what is in force."""
        if time.monotonic() >= self._look_at and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._look_at = time.monotonic() + self._every_s
                self._looking.release()
        return self._value

    def _look(self) -> None:
        try:
            contents = self._read()
        except InvalidSetting as error:
            if self._seen != str(error):  # once, not at every look
                self._seen = str(error)
                _log.error("%s: the earlier ones stay in force: %s", self._what, error)
            return
        if contents == self._seen:
            return
        self._seen = contents
        try:
            self._value = self._make(contents)
        except XaiError as error:
            _log.error("%s: the earlier ones stay in force: %s", self._what, error)
        except Exception:  # noqa: BLE001 (as above, with what a bug needs to be found)
            _log.exception("%s: the earlier ones stay in force", self._what)
        else:
            _log.info("%s: changed, and in force", self._what)

    def _read(self) -> tuple[bytes, ...]:
        return tuple(_read(path) for path in self._paths)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > _MAX_BYTES:
        raise InvalidSetting(f"{path} has more than {_MAX_BYTES >> 20} MiB, which is not what it should hold")
    return content
