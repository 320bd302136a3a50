"""kd from Python: what a notebook calls, with the words of the command line."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from kd._startup import importing
from kd.config.command_line import check
from kd.config.composing import compose_words, composing
from kd.config.naming import run_name
from kd.config.showing import print_config
from kd.config.validation import validate
from kd.errors import UserError
from kd.sweeps.job_configs import compose_jobs, copying

if TYPE_CHECKING:
    import pandas as pd


def run(*words: str) -> dict[str, Any]:
    """Train, test and save one network, unless that is done already.

    Args:
        words: of the command line, as in ``run("stage=student", "seed=1")``.

    Returns:
        the metrics of the run, those of its ``metrics.json``.

    Raises:
        UserError: the words, the data, the teacher or the folder do not allow it.
    """
    with composing():
        cfg = compose_words(check(list(words)))
        config = validate(cfg)
        print_config(config)
        if config.stage == "report":
            raise UserError("stage=report: is no run; kd.load_study reads a study")
        with importing():
            from kd.training.run import execute
        folder = Path(config.output_dir, config.study, run_name(config, cfg.hydra.overrides.task))
        return execute(config, folder.absolute(), cfg.hydra).metrics


def sweep(*words: str) -> pd.DataFrame:
    """Train the students of a sweep, together where they can be.

    Args:
        words: of the command line, as in ``sweep("stage=distill", "kd.T=1,2,5", "seed=0,1,2")``.

    Returns:
        one row per job of this sweep: ``run``, its folder below the study, and its metrics.

    Raises:
        UserError: the words are wrong (nothing has run then), or a job failed.
    """
    with composing():
        overrides = OverridesParser.create().parse_overrides(check(["-m", *words])[1:])
        of_hydra, of_task = (
            [_values(o) for o in overrides if o.is_hydra_override() == hydra]
            for hydra in (True, False)
        )
        first = compose_words([word for (word,) in of_hydra])
        loader = copying(GlobalHydra.instance().config_loader())
        jobs = compose_jobs(loader, first, list(itertools.product(*of_task)))
        with importing():
            import pandas as pd

            from kd.sweeps.launcher import launch
        launch(jobs)
    return pd.DataFrame([{"run": job.name, **job.outcome.metrics} for job in jobs])


def _values(override: Override) -> list[str]:
    """A word for every value that an override sweeps over."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
