"""``stage=report``: turns a study's runs into one self-contained page and its parts."""

import logging
import webbrowser
from pathlib import Path

from kd.config.schema import Config
from kd.errors import UserError
from kd.report import comparison, compression, factors, hints, search, sections
from kd.report.embedded import embed
from kd.report.headline import make_footer, make_headline
from kd.report.maps import draw_for_page
from kd.report.page import write_page
from kd.report.study import load_study
from kd.training.logging import set_up_logging
from kd.training.run_folder import remove_empty, write_results

log = logging.getLogger(__name__)

# In the order of the page. Each takes the study and the configuration of the report.
SECTIONS = [
    comparison.show_verdict, hints.show_hints, comparison.show_left_out, search.show_search,
    sections.show_talk, factors.show_factors, comparison.show_methods, comparison.show_maps,
    sections.show_curves, sections.show_classes, sections.show_calibration,
    sections.show_disagreements, sections.show_costs, compression.show_compression,
    sections.show_runs,
]  # fmt: skip


def build_report(config: Config) -> Path:
    """Write ``outputs/<study>/report/``: ``index.html``, ``report.md``, every figure and table.

    Args:
        config: names the study and the folder of its outputs; valid.

    Returns:
        The path of ``index.html``.

    Raises:
        UserError: the study has no complete run.
    """
    set_up_logging(logging.INFO)
    folder = Path(config.output_dir) / config.study
    try:
        study = load_study(folder, config.trust_code)
    except UserError:
        remove_empty(folder, levels=2)  # made by Hydra
        raise
    write_results(study.folder, say=False)
    shown = [section for show in SECTIONS for section in show(study, config)]
    target = study.folder / "report"
    drawn = draw_for_page(study)
    for section in shown:
        section.drawing += drawn.get(section.slug, "")
    frame = {
        "headline": make_headline(study, config),
        "footer": make_footer(study, config),
        "data": embed(study),
    }
    write_page(shown, target, config.study, frame)
    for line in (line for section in shown for line in section.said):
        log.info("%s", line)
    page = target / "index.html"
    if config.open and not webbrowser.open(page.resolve().as_uri()):
        log.warning("open=true: no browser is found; open the page yourself")
    log.info("report: %s", page)
    return page
