"""Where Hydra looks for the sweeper of ``-m hydra/sweeper=search``: in a folder of this name."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from kd._startup import importing
from kd.errors import UserError
from kd.search.reading import NEEDED


@dataclass
class SearchSweeperConf:
    """Hydra's entry for ``hydra/sweeper=search``."""

    _target_: str = "hydra_plugins.search_sweeper.SearchSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="search", node=SearchSweeperConf)


class SearchSweeper(Sweeper):
    """Searches for good settings: ``hydra/sweeper=search``."""

    config: Any  # which Hydra says may be None
    launcher: Any

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make the launcher."""
        loader: Any = hydra_context.config_loader
        self.loader, self.config = loader, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Search.

        Raises:
            UserError: the words are wrong, Optuna is missing, or groups would train elsewhere.
        """
        if find_spec("optuna") is None:
            raise UserError(f"hydra/sweeper=search: {NEEDED}")
        with importing():
            from kd.search.loop import search

        ours = self.config.hydra.runtime.choices["hydra/launcher"] == "sweep"
        if ours and (backend := self.config.hydra.launcher.backend) != "local":
            raise UserError(
                f"hydra.launcher.backend={backend}: a search trains in this process; leave it out"
            )
        other = None if ours else self.launcher.launch
        search(arguments, self.loader.load_sweep_config, self.config, other)
