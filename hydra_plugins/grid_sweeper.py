"""Where Hydra looks for the sweeper of ``-m``: in a folder of this name."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf


@dataclass
class GridSweeperConf(BasicSweeperConf):
    """Hydra's entry for ``hydra/sweeper=grid``."""

    _target_: str = "hydra_plugins.grid_sweeper.GridSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridSweeperConf)


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper, which makes every job beforehand; a large sweep is planned instead."""

    config: Any  # which Hydra says may be None
    hydra_context: Any
    launcher: Any

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs; from ``store.compact_from`` jobs on they are planned, and packed.

        Raises:
            UserError: a job's settings are wrong (nothing has run then), or a job failed.
        """
        ours = self.config.hydra.runtime.choices["hydra/launcher"] == "sweep"
        if not ours or self.max_batch_size is not None:
            return super().sweep(arguments)
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        from kd.config.validation import validate
        from kd.sweeps.job_configs import read_lists

        lists = read_lists(overrides)
        first = loader.load_sweep_config(self.config, [words[0] for words in lists])
        if math.prod(map(len, lists)) < validate(first).store.compact_from:
            return super().sweep(arguments)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")  # as Hydra does
        return self.launcher.launch_packed(lists)
