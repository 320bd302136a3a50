"""Where Hydra looks for the launcher of ``-m``: in a folder of this name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from kd.sweeps.job_configs import compose_jobs, copying


@dataclass
class SweepLauncherConf:
    """Hydra's entry for ``hydra/launcher=sweep``."""

    _target_: str = "hydra_plugins.sweep_launcher.SweepLauncher"
    copy_configs: bool = True


ConfigStore.instance().store(group="hydra/launcher", name="sweep", node=SweepLauncherConf)


class SweepLauncher(Launcher):
    """Trains the students of a sweep together where it can: ``hydra/launcher=sweep``, the default.

    Args:
        copy_configs: has each job's configuration copied from the first one's where they differ in
            values alone; false has Hydra compose each, which takes longer.
    """

    def __init__(self, copy_configs: bool) -> None:
        self.copy_configs = copy_configs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Have the sweeper's check of all jobs and :meth:`launch` compose each but once."""
        loader: Any = hydra_context.config_loader
        self.config, self.loader = config, loader
        if self.copy_configs:
            loader.load_sweep_config = copying(loader)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs.

        Raises:
            UserError: a job's settings are wrong (nothing has run then), or a job failed.
        """
        compose = self.loader.load_sweep_config
        jobs = compose_jobs(compose, self.config, job_overrides, initial_job_idx)
        from kd.sweeps.launcher import launch

        launch(jobs)
        return [
            JobReturn(
                words, status=JobStatus.COMPLETED, _return_value=job.outcome.metrics["val/acc"]
            )
            for words, job in zip(job_overrides, jobs, strict=True)
        ]
