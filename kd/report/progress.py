"""A bar in the terminal while a large study is read and scored."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

FEW = 50  # items, which take no time to speak of

Item = TypeVar("Item")


def watched(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Yield the items; show how many are done in a terminal, where they are many."""
    console = Console(stderr=True)
    hidden = len(items) < FEW or not console.is_terminal
    return iter(track(items, what, console=console, transient=True, disable=hidden))
