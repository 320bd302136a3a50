"""Where Hydra looks for the launcher of ``-m``: in a folder of this name."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from kd.sweeps.engines.settings import Spread, read_spread
from kd.sweeps.job_configs import compose_jobs, copying, make_job

# Not the dataclass itself: what it admits is said in our words.
CONF = {
    "_target_": "hydra_plugins.sweep_launcher.SweepLauncher",
    "copy_configs": True,
    **asdict(Spread()),
}
ConfigStore.instance().store(group="hydra/launcher", name="sweep", node=CONF)


class SweepLauncher(Launcher):
    """Trains the students of a sweep together where it can: ``hydra/launcher=sweep``, the default.

    Args:
        copy_configs: has each job's configuration copied from the first one's where they differ in
            values alone; false has Hydra compose each, which takes longer.
        spread: where its groups train, the settings of ``Spread``.
    """

    def __init__(self, copy_configs: bool, **spread: Any) -> None:
        self.copy_configs, self.spread = copy_configs, spread

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Have the sweeper's check of all jobs and :meth:`launch` compose each but once.

        Raises:
            UserError: a setting of the launcher is wrong.
        """
        self.where = read_spread(self.spread)
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
        from kd.sweeps.spreading import launch

        launch(jobs, self.where)
        return [
            JobReturn(
                words, status=JobStatus.COMPLETED, _return_value=job.outcome.metrics["val/acc"]
            )
            for words, job in zip(job_overrides, jobs, strict=True)
        ]

    def launch_packed(self, lists: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
        """Run a large sweep, whose runs are packed.

        Args:
            lists: for each key the words that it is swept over.

        Raises:
            UserError: a setting is wrong (nothing has run then), or a job failed.
        """
        from kd.sweeps.packing import launch
        from kd.sweeps.ranges import plan_families

        compose = self.loader.load_sweep_config
        launch(
            plan_families(lists, lambda words: make_job(compose(self.config, words))), self.where
        )
        return []
