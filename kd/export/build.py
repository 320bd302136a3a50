"""``stage=export``: from a trained run to the files that a product needs, each of them checked."""

import logging
from importlib.util import find_spec
from pathlib import Path

from kd.config.schema import Config
from kd.errors import UserError
from kd.export.subject import Chosen, choose, load
from kd.files import lock, replacing_folder
from kd.training.logging import set_up_logging
from kd.training.run_folder import LOCKS, remove_empty

log = logging.getLogger(__name__)

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def build_export(config: Config) -> list[Path]:
    """Write ``outputs/<study>/export/<name>/`` for every network that ``export.run`` names.

    Args:
        config: valid.

    Returns:
        the folders.

    Raises:
        UserError: there is no such network, it cannot be exported, or a file of it would answer
            other than the network does. Nothing is written then.
    """
    set_up_logging(logging.INFO)
    try:
        if missing := [name for name in NEEDED if find_spec(name) is None]:
            raise UserError(
                f"stage=export: needs {', '.join(missing)}; pip install 'kd[export]', or in a "
                "checkout pip install -e '.[export]'"
            )
        return [export_one(chosen, config) for chosen in choose(config)]
    finally:
        remove_empty(Path(config.output_dir) / config.study, levels=2)  # made by Hydra


def export_one(chosen: Chosen, config: Config) -> Path:
    """Export one network; its folder is there when all is checked."""
    from kd.export.pack import pack  # the packages that it needs are there

    target = chosen.study / "export" / chosen.name
    with lock(chosen.study / LOCKS / "export.lock"):
        log.info("exports %s", chosen.run.folder if chosen.run else chosen.checkpoint)
        try:
            with replacing_folder(target) as folder:
                said = pack(load(chosen, config), config, folder)
        finally:
            remove_empty(target.parent, levels=1)
    for line in said:
        log.info("%s", line)
    log.info("export: %s", target)
    return target
