"""``stage=report``: a study's runs turned into answers, one self-contained page and its parts."""

import logging
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from kd.comparison import maps, methods, verdict
from kd.config import Config, validate
from kd.logs import set_up_logging
from kd.page import Section, write_page
from kd.results import Study, load_study, write_results
from kd.sections import all_runs, calibration, classes, costs, curves, disagreements, talk

log = logging.getLogger(__name__)

SECTIONS: list[Callable[[Study, Config], list[Section]]] = [
    verdict, talk, methods, maps, curves, classes, calibration, disagreements, costs, all_runs,
]  # fmt: skip


def report(cfg: DictConfig) -> Path:
    """Write ``outputs/<study>/report/``: ``index.html``, ``report.md``, every figure and table.

    Raises:
        UserError: the study has no complete run.
    """
    config = validate(cfg)
    set_up_logging(logging.INFO)
    study = load_study(Path(config.output_dir) / config.study)
    write_results(study.folder)
    sections = [section for build in SECTIONS for section in build(study, config)]
    target = study.folder / "report"
    write_page(sections, target, config.study)
    log.info("%s", sections[0].text)
    log.info("report: %s", target / "index.html")
    return target / "index.html"
