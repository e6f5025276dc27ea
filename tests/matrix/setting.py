"""One line of the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.matrix.oracles import Case

PACKED = "packed"


@dataclass(frozen=True)
class Setting:
    """One way to train, or to hand over, a model.

    Attributes:
        library: as people write it.
        name: what is set; unique within the library.
        train: returns the model on real data, in well under a second.
        refused: why it is refused, as the docs say it; empty where it is packed.
        says: regular expression for the refusal's message.
        stock_wrong: whether the library's usual converter makes of it, without an error, a model that answers
            otherwise, in at least one version tried.
        by_brute_force: whether no library explains it as it is, so that brute force must.
    """

    library: str
    name: str
    train: Callable[[], Case]
    refused: str = ""
    says: str = ""
    stock_wrong: bool = False
    by_brute_force: bool = False

    @property
    def result(self) -> str:
        """As the docs say it."""
        return f"refused: {self.refused}" if self.refused else PACKED


WRONG = "usual converter wrong"
BRUTE = "by brute force"


def settings(library: str, *rows: tuple[Any, ...]) -> Iterator[Setting]:
    """Yields a library's settings: each row is name, train, refused and says where it is refused, and marks."""
    for name, train, *more in rows:
        refusal = [one for one in more if one not in (WRONG, BRUTE)]
        yield Setting(library, name, train, *refusal, stock_wrong=WRONG in more, by_brute_force=BRUTE in more)
