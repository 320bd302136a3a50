"""``stage=report``: a study's runs turned into answers, one self-contained page and its parts."""

import logging
from collections.abc import Callable
from pathlib import Path

from kd.config.schema import Config
from kd.errors import UserError
from kd.report.comparison import maps, methods, verdict
from kd.report.notes import left_out
from kd.report.page import Section, one_line, write_page
from kd.report.sections import all_runs, calibration, classes, costs, curves, disagreements, talk
from kd.report.study import Study, load_study
from kd.training.logging import set_up_logging
from kd.training.results import write_results
from kd.training.run_folder import remove_empty

log = logging.getLogger(__name__)

SECTIONS: list[Callable[[Study, Config], list[Section]]] = [
    verdict, left_out, talk, methods, maps, curves, classes, calibration, disagreements, costs,
    all_runs,
]  # fmt: skip


def build_report(config: Config) -> Path:
    """Write ``outputs/<study>/report/``: ``index.html``, ``report.md``, every figure and table.

    Raises:
        UserError: the study has no complete run.
    """
    set_up_logging(logging.INFO)
    folder = Path(config.output_dir) / config.study
    try:
        study = load_study(folder)
    except UserError:
        remove_empty(folder, levels=2)  # Hydra made them
        raise
    write_results(study.folder, say=False)
    sections = [section for build in SECTIONS for section in build(study, config)]
    target = study.folder / "report"
    write_page(sections, target, config.study)
    log.info("%s", sections[0].text)
    for name, reason in study.refused.items():
        log.info("left out: %s", one_line(f"{name}: {reason}"))
    log.info("report: %s", target / "index.html")
    return target / "index.html"
