"""Commands in forked children of a warm process, what disturbs them, and what they leave behind."""

import contextlib
import gc
import importlib
import itertools
import json
import mmap
import os
import pkgutil
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

LIMIT = 300  # seconds until a command counts as hung, and is killed
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}


class Said(NamedTuple):
    """What a command said, how it ended, and how many operations on files it got to."""

    code: int
    out: str
    err: str
    operations: int


def warm() -> None:
    """Import all that a command imports; nothing may compute here, since children are forked."""
    # One thread in every child, and no call that would make a pool for the children to inherit.
    os.environ["OMP_NUM_THREADS"] = "1"
    gc.disable()
    for name in ("torch", "train", "kd", "hydra_plugins.sweep_launcher"):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(sys.modules["kd"].__path__, "kd."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.freeze()
    gc.enable()


def command(folder: Path, *words: str, **fault: int) -> Said:
    """Run ``python train.py …`` in a folder; see :func:`at_once`."""
    return at_once(folder, words, **fault)[0]


def at_once(folder: Path, *commands: tuple[str, ...], pause: float = 0, **fault: int) -> list[Said]:
    """Run commands at the same time.

    Args:
        folder: the working folder of all.
        commands: the words of each.
        pause: seconds between their starts.
        fault: ``kill_at``, the operation on files below ``outputs`` at which a command is killed;
            ``largest``, the size in bytes that no file may exceed, as on a full disk.
    """
    started = []
    for number, words in enumerate(commands):
        time.sleep(pause if number else 0)
        count, out, err = mmap.mmap(-1, 8), os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            _child(folder, words, count, out[1], err[1], **fault)
        os.close(out[1])
        os.close(err[1])
        started.append((pid, os.fdopen(out[0], "rb"), os.fdopen(err[0], "rb"), count))
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda file: file.read(), [f for s in started for f in s[1:3]]))
    ended = []
    for (pid, *files, count), out, err in zip(started, said[::2], said[1::2], strict=True):
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for file in files:
            file.close()
        texts = (text.decode(errors="replace") for text in (out, err))
        ended.append(Said(code, *texts, int.from_bytes(count[:8], "little")))
    return ended


def _child(
    folder: Path,
    words: tuple[str, ...],
    count: mmap.mmap,
    out: int,
    err: int,
    kill_at: int = 0,
    largest: int = 0,
) -> None:
    """Be the command, and never return."""
    code = 1
    try:
        for target, source in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
            os.dup2(source, target)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        # as Python has it: every line at once, and what cannot be encoded in other words
        sys.stderr = os.fdopen(
            2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        signal.alarm(LIMIT)
        os.chdir(folder)
        sys.argv = ["train.py", *words]
        sys.addaudithook(_counting(str(folder / "outputs"), count, kill_at))
        if largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        sys.modules["train"].main()
        code = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _counting(root: str, count: mmap.mmap, kill_at: int) -> Callable[[str, tuple], None]:
    """An audit hook that counts what changes files below ``root``, and kills in time."""
    numbers = itertools.count(1)

    def hook(event: str, args: tuple) -> None:
        counted = args[2] & CHANGES if event == "open" else event in EVENTS
        if not counted or isinstance(args[0], int):
            return
        in_folder = event in ("os.remove", "os.rmdir") and args[1] != -1  # shutil.rmtree's way
        if in_folder or os.path.abspath(os.fsdecode(args[0])).startswith(root):
            number = next(numbers)
            count[:8] = number.to_bytes(8, "little")
            if number == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def check_manners(said: Said, *codes: int) -> None:
    """A command ends with one of these statuses (0 or 1), no traceback, and few lines if refused.

    Raises:
        AssertionError: it does not.
    """
    text = said.out + said.err
    shown = f"status {said.code}: {text[-3000:]}"
    assert said.code in (codes or (0, 1)), shown
    assert "Traceback" not in text, shown
    assert "Logging error" not in text, shown
    if said.code == 1:
        assert 1 <= said.err.strip().count("\n") + 1 <= 3, shown
        assert said.err.strip(), shown


def prepared(root: Path, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that trials copy or compare with, made once."""
    folder = root / "prepared" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name(f"{name}.lock")):
        if not folder.exists():
            half = folder.with_name(f"{name}.half")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            make(half)
            half.rename(folder)
    return folder


def names(folder: Path) -> set[str]:
    """The files below ``outputs``; event files, which bear the time, by one name; without locks."""
    files = [path for path in (folder / "outputs").rglob("*") if path.is_file()]
    found = {str(path.relative_to(folder)) for path in files if ".locks" not in path.parts}
    return {re.sub(r"(events\.out\.tfevents)\.[^/]*$", r"\1", name) for name in found}


def runs(folder: Path) -> dict[str, Path]:
    """The complete runs below ``outputs``, by study, stage and name."""
    found = sorted((folder / "outputs").glob("*/*/*/metrics.json"))
    return {str(path.parent.relative_to(folder)): path.parent for path in found}


def metrics(run: Path) -> dict[str, Any]:
    """``metrics.json`` without what differs from attempt to attempt."""
    text = re.sub(r'"/[^"]*?/outputs/', '"outputs/', (run / "metrics.json").read_text())
    varying = ("time/", "git/", "version/")
    own = {k: v for k, v in json.loads(text).items() if not k.startswith(varying)}
    return {key: value for key, value in own.items() if "sha256" not in key}


def predictions(run: Path) -> dict[str, Any]:
    """The arrays of ``predictions.npz``."""
    import numpy as np

    with np.load(run / "predictions.npz") as file:
        return dict(file)


def weights(run: Path) -> dict[str, Any]:
    """The tensors of ``model.ckpt``."""
    import torch

    return torch.load(run / "model.ckpt", weights_only=True)["state_dict"]


def assert_same(mine: Path, its: Path) -> None:
    """Two folders hold the same files and the same results, to the last bit.

    Raises:
        AssertionError: they do not.
    """
    assert names(mine) == names(its), f"files: {sorted(names(mine) ^ names(its))}"
    for name, run in runs(its).items():
        other = runs(mine)[name]
        one, two = metrics(other), metrics(run)
        differing = {k: (one.get(k), two.get(k)) for k in one | two if one.get(k) != two.get(k)}
        assert not differing, f"{name}: metrics {differing}"
        for read in (predictions, weights):
            arrays, others = read(run), read(other)
            assert arrays.keys() == others.keys(), name
            for key, values in arrays.items():
                same = values.shape == others[key].shape and bool((values == others[key]).all())
                assert same, f"{name}: {key} of {read.__name__} differs"
    for table in (its / "outputs").glob("*/results.csv"):
        rows = (mine / table.relative_to(its)).read_text().count("\n")
        assert rows == table.read_text().count("\n"), "results.csv has other rows"


def page(folder: Path) -> str:
    """The report's page without measured times; empty where there is none.

    Raises:
        AssertionError: it is half a page.
    """
    path = folder / "outputs/main/report/index.html"
    text = path.read_text() if path.exists() else ""
    assert not text or text.rstrip().endswith("</html>"), "half a page"
    return "\n".join(line for line in text.splitlines() if "<td>latency of" not in line)
