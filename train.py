"""The command line: ``python train.py stage=teacher|student|distill|report``; see ``--help``."""

import os
import re
import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from kd import importing
from kd.config.command_line import check
from kd.config.messages import explain
from kd.config.schema import PROJECT, validate
from kd.config.undo import forget, undo


@hydra.main(version_base="1.3", config_path=str(PROJECT / "conf"), config_name="config")
def train(cfg: DictConfig) -> object:
    """One run; Hydra calls this once, or once a job of a sweep."""
    try:
        # torch and Lightning load here: help and typos need neither
        with importing():
            if cfg.stage == "report":
                from kd.report.build import build_report

                return build_report(validate(cfg))
            from kd.training.run import run
        return run(cfg)
    except Exception as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # the launcher notes the failure and goes on with the other jobs
        fail(error)


def fail(error: Exception) -> None:
    """End with status 1: one line for a user's mistake, a traceback for ours."""
    undo()
    message = explain(error)
    if message is None:
        traceback.print_exception(error)
    sys.exit(f"error: {message or str(error) or type(error).__name__}")


def quote_path(word: str) -> str:
    """Quote ``outputs/main/teacher/seed=0/model.ckpt`` or ``größe``: Hydra reads no bare ``=``."""
    key, _, value = word.partition("=")
    odd = "=" in value or re.search(r"[^ -~]", value)
    plain = odd and not re.search(r"['\"\\\[({$]", value)
    one_path = "," not in value or os.path.exists(value)
    return f'{key}="{value}"' if plain and one_path else word


def main() -> None:
    """Run the command line, with Hydra's errors put in our words."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hands errors to us instead of printing them
    forget()
    try:
        sys.argv[1:] = check([quote_path(word) for word in sys.argv[1:]])
        train()
    except KeyboardInterrupt:
        undo()
        sys.exit("interrupted")
    except Exception as error:
        fail(error)


if __name__ == "__main__":
    main()
