"""Hydra's own node of a run's configuration, where it is sent or kept."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any


class Node(dict[str, Any]):
    """A run's node ``hydra`` as a dictionary, which is sent in a tenth of the time."""

    @property
    def overrides(self) -> Any:
        """The words of the run's command, as ``overrides.task``."""
        return SimpleNamespace(**self["overrides"])

    def with_words(self, words: Sequence[str]) -> "Node":
        """The node of a run with other words."""
        return Node(self | {"overrides": {**self["overrides"], "task": [*words]}})
