"""Where Hydra looks for the launcher of ``-m``: by the name of this folder."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

from kd.sweeps.launcher import SweepLauncher as Launcher


class SweepLauncher(Launcher):
    """Trains a sweep's students together: ``hydra/launcher=sweep``, the default."""


@dataclass
class SweepLauncherConf:
    """Hydra's entry for ``hydra/launcher=sweep``."""

    _target_: str = "hydra_plugins.sweep_launcher.SweepLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="sweep", node=SweepLauncherConf)
