"""The command line: ``kd`` and ``python -m kd`` are ``python train.py``; see ``--help``."""

import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

from kd._startup import INTERRUPTED, before_anything, importing

with before_anything():
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from kd.config.command_line import check
    from kd.config.composing import help_page
    from kd.config.messages import explain
    from kd.config.showing import print_config
    from kd.config.undo import forget, undo
    from kd.config.validation import validate
    from kd.files import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def train(cfg: DictConfig) -> object:
    """One run; Hydra calls this once, or with ``hydra/launcher=basic`` once per job of a sweep."""
    hydra_node: Any = HydraConfig.get()
    try:
        config = validate(cfg)
        if hydra_node.job.get("num", 0) == 0:  # of a sweep the first job alone
            print_config(config)
        if config.stage == "report":
            with importing():  # help and typos need no torch
                from kd.report.build import build_report

            return build_report(config)
        if config.stage == "export":
            with importing():
                from kd.export.build import build_export

            return build_export(config)
        if config.stage == "unpack":
            with importing():
                from kd.training.unpack import unpack_chosen

            folder = unpack_chosen(config)
            print(f"unpacked: {folder}")
            return folder
        from kd.training.run import execute

        run = execute(config, Path(hydra_node.runtime.output_dir), hydra_node)
        return run.metrics["val/acc"]  # what other sweepers look for good settings by
    except Exception as error:
        if hydra_node.mode == RunMode.MULTIRUN:
            raise  # the launcher notes the failure and continues with the other jobs
        fail(error)


def fail(error: Exception) -> None:
    """End with status 1: one line for a user's mistake, a traceback for ours."""
    undo()
    message = explain(error)
    if message is None:
        traceback.print_exception(error)
    sys.exit(f"error: {message or str(error) or type(error).__name__}")


class Outlet:
    """An output whose reader may go, as ``head`` does, without harm to what is trained.

    Args:
        stream: that is written to.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        """Whatever else the stream has."""
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text, which nobody reads if the reader is gone."""
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            self._close()
            return len(text)

    def flush(self) -> None:
        """Hand on what has been written."""
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._close()

    def _close(self) -> None:
        """Have the system swallow what comes from now on."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


def main() -> None:
    """Run the command line where a reader of its output may go before the end."""
    out: Any = Outlet(sys.stdout)
    err: Any = Outlet(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            obey()
        finally:
            out.flush()
            err.flush()


def obey() -> None:
    """Run the command line, with Hydra's errors put in our words."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hands errors to us instead of printing them
    forget()
    try:
        words = sys.argv[1:] = check(sys.argv[1:])
        if "--help" in words or "-h" in words:
            print(help_page([word for word in words if "=" in word or word.startswith("~")]))
        else:
            train()
    except KeyboardInterrupt:
        undo()
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if "COMP_LINE" in os.environ:  # a half-typed line, which the shell wants completed
            sys.exit(1)
        fail(error)


if __name__ == "__main__":
    main()
