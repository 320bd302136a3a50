"""kd from Python: what a notebook calls, with the words of the command line."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from kd.config.command_line import check
from kd.config.composing import compose_words, composing
from kd.config.naming import run_name
from kd.config.schema import OF_STUDIES, Config
from kd.config.showing import print_config
from kd.config.validation import validate
from kd.data.in_python import Images
from kd.errors import UserError
from kd.files import data_dir, replacing
from kd.models._given import GIVEN, hand_over
from kd.sweeps.engines.settings import read_spread
from kd.sweeps.job_configs import Job, compose_jobs, copying

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from kd.report.study import Study

    # A network, what makes one, or its importable name.
    Network: TypeAlias = nn.Module | Callable[[], nn.Module] | str


def run(*words: str) -> dict[str, Any]:
    """Train, test and save one network, unless that is done already.

    Args:
        words: of the command line, as in ``run("stage=student", "seed=1")``.

    Returns:
        the metrics of the run, those of its ``metrics.json``.

    Raises:
        UserError: the words, the data, the teacher or the folder do not allow it.
    """
    return _run(words)[1]


def _run(words: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Do what :func:`run` does, and return the run's folder too."""
    with composing():
        cfg = compose_words(check(list(words)))
        config = validate(cfg)
        print_config(config)
        if config.stage in OF_STUDIES:
            raise UserError(f"stage={config.stage}: is no run; kd.load_study reads a study")
        from kd.training.run import execute

        folder = Path(config.output_dir, config.study, run_name(config, cfg.hydra.overrides.task))
        return folder.absolute(), execute(config, folder.absolute(), cfg.hydra).metrics


def sweep(*words: str) -> pd.DataFrame:
    """Train the students of a sweep, together where they can be.

    Args:
        words: of the command line, as in ``sweep("stage=distill", "kd.T=1,2,5", "seed=0,1,2")``.

    Returns:
        one row per job of this sweep: ``run``, its folder below the study, and its metrics.

    Raises:
        UserError: the words are wrong (nothing has run then), or a job failed.
    """
    import pandas as pd

    return pd.DataFrame([{"run": job.name, **job.outcome.metrics} for job in _sweep(words)])


def _sweep(words: Sequence[str]) -> list[Job]:
    """Do what :func:`sweep` does, and return its jobs."""
    if any(word.startswith("hydra/sweeper=") for word in words):
        raise UserError(
            "hydra/sweeper: is of the command line; kd.sweep takes the values by itself"
        )
    with composing():
        overrides = OverridesParser.create().parse_overrides(check(["-m", *words])[1:])
        of_hydra, of_task = (
            [_values(o) for o in overrides if o.is_hydra_override() == hydra]
            for hydra in (True, False)
        )
        first = compose_words([word for (word,) in of_hydra])
        spread = read_spread(first.hydra.launcher)
        loader = copying(GlobalHydra.instance().config_loader())
        jobs = compose_jobs(loader, first, list(itertools.product(*of_task)))
        from kd.sweeps.spreading import launch

        launch(jobs, spread)
    return jobs


class Trained(NamedTuple):
    """A trained network: its run's folder and metrics, and what names its code."""

    folder: Path
    metrics: dict[str, Any]
    target: str

    def __repr__(self) -> str:
        """Code, folder and accuracy: the metrics would fill a page."""
        accuracy = f"{self.metrics['test/acc']:.4f}"
        return f"Trained({self.target}, {str(self.folder)!r}, test accuracy {accuracy})"

    def network(self) -> Any:
        """Load the trained network, an ``nn.Module`` in evaluation mode."""
        from kd.models.network import Centred
        from kd.training.checkpoint import load_checkpoint

        found = load_checkpoint(self.folder / "model.ckpt", trusted=True)
        return found if isinstance(found, Centred) else found.body


@dataclass(frozen=True)
class Sweep:
    """A sweep of distilled students and their controls, and what came of it."""

    frame: pd.DataFrame = field(repr=False)  # one row per run of this sweep
    study: Study = field(repr=False)

    def __repr__(self) -> str:
        """The study and the verdict."""
        return f"Sweep({str(self.study.folder)!r}, {len(self.frame)} runs, {self.verdict!r})"

    @property
    def verdict(self) -> str:
        """Whether distillation works here, in a word and a sentence."""
        return f"{self.study.verdict.word}: {self.study.verdict.sentence}"

    def report(self, folder: Path | str) -> Path:
        """Write the report into a folder, and return its page."""
        from kd.report.build import build_report

        place = self.study.folder
        config = Config(stage="report", study=place.name, output_dir=str(place.parent))
        shutil.copytree(build_report(config).parent, folder, dirs_exist_ok=True)
        return Path(folder) / "index.html"


def train(
    network: Network,
    data: Images | str,
    *words: str,
    epochs: int = 10,
    seed: int = 0,
    study: str = "main",
    hidden: str | None = None,
) -> Trained:
    """Train a network on the labels, to be a teacher; unless that is done already.

    Args:
        network: an ``nn.Module``, whose weights it begins with; or what makes one, a class or a
            function without arguments, whose weights are drawn from the seed. It maps images
            (batch, channels, height, width) to logits (batch, classes).
        data: of :mod:`kd.data`; or a choice of the command line, such as ``"digits"``.
        words: further settings of the command line, such as ``"optim.lr=0.01"``.
        epochs: of the training.
        seed: of the run.
        study: the set of runs that it belongs to, ``outputs/<study>``.
        hidden: the layer whose output methods take for the hidden representation.

    Raises:
        UserError: the network, the data or the words do not allow it.
    """
    target = hand_over(network)
    of_network = ["model=custom", *_named("model", target, hidden)]
    told = [*of_network, f"seed={seed}", *_told(data, epochs, study), *words]
    return Trained(*_run(["stage=teacher", *told]), target)


def distill(
    student: Network,
    teacher: Trained | nn.Module,
    data: Images | str,
    *words: str,
    method: str = "hinton",
    T: Sequence[float] = (1, 2, 5),
    alpha: Sequence[float] = (0, 0.5),
    seeds: Iterable[int] = range(5),
    epochs: int = 10,
    study: str = "main",
    hidden: str | None = None,
    teacher_hidden: str | None = None,
) -> Sweep:
    """Distil a teacher into students over a sweep, and train their controls.

    Args:
        student: what makes one, a class or a function without arguments, so that each seed has
            weights of its own.
        teacher: of :func:`train`, on the same data; or a trained ``nn.Module``, whose training
            images are not known.
        data, words, epochs, study: as in :func:`train`.
        method: of ``kd=…``, such as ``"dkd"``.
        T: temperatures.
        alpha: weights of the labels, 0 to 1.
        seeds: of the runs.
        hidden: the student's layer that methods take for its hidden representation.
        teacher_hidden: the teacher's.

    Raises:
        UserError: the networks, the data or the words do not allow it, or a run failed.
    """
    if hasattr(student, "state_dict") and not isinstance(student, type):
        raise UserError(
            "student: is one network, with one set of weights for all seeds; give what makes one: "
            "its class, or a function"
        )
    if isinstance(seeds, int):
        raise UserError(f"seeds={seeds}: give a list of seeds, such as range(5)")
    of_teacher = _taught_by(teacher, teacher_hidden)
    swept = [f"kd={method}", *(f"kd.{name}={_list(v)}" for name, v in (("T", T), ("alpha", alpha)))]
    told = [
        "model=custom",
        *_named("model", hand_over(student), hidden),
        *of_teacher,
        *swept,
        f"seed={_list(seeds)}",
        *_told(data, epochs, study),
        *words,
    ]
    distinct = {job.directory: job for job in _sweep(["stage=student,distill", *told])}
    import pandas as pd

    from kd.report.study import load_study

    jobs = list(distinct.values())
    frame = pd.DataFrame([{"run": job.name, **job.outcome.metrics} for job in jobs])
    return Sweep(frame, load_study(jobs[0].study))


def _taught_by(teacher: Trained | nn.Module, layer: str | None) -> list[str]:
    """The words that name a teacher.

    Raises:
        UserError: it is none.
    """
    if isinstance(teacher, Trained):
        place, target = teacher.folder, teacher.target
    elif hasattr(teacher, "state_dict"):
        import torch

        target = hand_over(teacher)
        place = data_dir() / "teachers" / f"{target.removeprefix(GIVEN)}.pt"
        with replacing(place) as beside:
            torch.save(teacher.state_dict(), beside)
    else:
        raise UserError(
            f"teacher: is a {type(teacher).__name__}; give what kd.train returns, or a trained "
            "torch.nn.Module"
        )
    path = f'teacher.checkpoint="{place.absolute()}"'
    return [path, *_named("teacher.model", target, layer)]


def _named(key: str, target: str, layer: str | None) -> list[str]:
    """The words that name a network."""
    return [f"{key}.target={target}", *([] if layer is None else [f"{key}.hidden_layer={layer}"])]


def _told(data: Images | str, epochs: int, study: str) -> list[str]:
    """The words of what all runs of a study share."""
    if not isinstance(data, str | Images):
        raise UserError(
            f"data: is a {type(data).__name__}; give kd.data.arrays(x, y), kd.data.npz(PATH) or "
            "the name of a data set, such as digits"
        )
    words = [f"data={data}"] if isinstance(data, str) else data.words
    return [*words, f"trainer.max_epochs={epochs}", f"study={study}"]


def _list(values: Iterable[float] | float | str) -> str:
    """A sweep's values, or a single one, as one word has them."""
    if isinstance(values, str | int | float):
        return str(values)
    return ",".join(map(str, values))


def _values(override: Override) -> list[str]:
    """A word for every value that an override sweeps over."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
