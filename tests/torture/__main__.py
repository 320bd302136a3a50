"""Torture: ``python -m tests.torture --seconds 600 --seed 3``; see docs/trust.md.

Without ``--seconds`` each kind has its few trials, as in CI. A failure says how to repeat it.
"""

import argparse
import functools
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from . import settings, trials
from .harness import warm

# kind: the trial, and how many a round has of it
KINDS = {
    **{f"kill-{name}": (functools.partial(trials.kill, name), 1) for name in trials.COMMANDS},
    **{f"disk-{name}": (functools.partial(trials.full_disk, name), 1) for name in trials.COMMANDS},
    "flip-checkpoint": (trials.flip_checkpoint, 2),
    "flip-predictions": (trials.flip_predictions, 1),
    "flip-metrics": (functools.partial(trials.flip_small, "*/*/metrics.json"), 1),
    "flip-config": (functools.partial(trials.flip_small, "*/*/.hydra/config.yaml"), 1),
    "flip-history": (functools.partial(trials.flip_small, "*/*/history.csv"), 1),
    "flip-table": (trials.flip_table, 1),
    "flip-group": (trials.flip_group, 1),
    "flip-data": (trials.flip_data, 1),
    **{f"race-{name}": (functools.partial(trials.race, name), 1) for name in trials.PAIRS},
    "sweep": (settings.sweep, 5),
    "wrong": (settings.wrong, 60),
}
# Reports take seconds, and tests/integration sweeps every setting: these kinds begin with the
# second round, which CI does not reach.
LATER = {
    "disk-report",
    "disk-search",
    "flip-config",
    "flip-history",
    "kill-teachers",
    "race-alone",
    "race-sweep_report",
    "sweep",
}


def numbers(kinds: list[str], endless: bool) -> Iterator[tuple[str, int]]:
    """Every (kind, number) of one round, or of round after round, the kinds mixed."""
    turn = 0
    while endless or not turn:
        now = [kind for kind in kinds if turn or kind not in LATER]
        todo = [(k, turn * KINDS[k][1] + i) for k in now for i in range(KINDS[k][1])]
        random.Random(turn).shuffle(todo)
        yield from todo
        turn += 1


def attempt(kind: str, seed: int, number: int, folder: Path) -> None:
    """One trial in this process, which ends with it: status 0, or 1 and the reason in a file."""
    code = 1
    try:
        rng = random.Random(f"{kind} {seed} {number}")
        rng.number = number
        folder.mkdir()
        KINDS[kind][0](rng, folder)
        code = 0
    except BaseException:
        folder.with_suffix(".failed").write_text(traceback.format_exc(), errors="backslashreplace")
    finally:
        os._exit(code)


def main() -> None:
    """Run the trials, as many at a time as there are cores."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seconds", type=float, help="for how long new trials begin")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default="", help="kinds that begin so, as kill or kill-report")
    parser.add_argument("--number", type=int, help="this trial of the kind, and its folder is kept")
    args = parser.parse_args()
    kinds = [kind for kind in KINDS if kind.startswith(args.kind)]
    if not kinds:
        parser.error(f"--kind: {args.kind} is none of {', '.join(KINDS)}")
    todo = numbers(kinds, endless=args.seconds is not None)
    if args.number is not None:
        todo = iter([(kind, args.number) for kind in kinds])
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    settings.cases()  # the schema's keys are all known here
    warm()
    root = Path(tempfile.mkdtemp(prefix="torture-")).resolve()
    started, trials_of, failures_of, running = time.monotonic(), Counter(), Counter(), {}
    while True:
        late = args.seconds is not None and time.monotonic() - started > args.seconds
        task = None if late else next(todo, None)
        if task:
            folder = root / f"{task[0]}-{task[1]}"
            pid = os.fork()
            if not pid:
                attempt(task[0], args.seed, task[1], folder)
            running[pid] = (*task, folder)
        if not running:
            break
        if not task or len(running) >= (os.cpu_count() or 1):
            pid, status = os.wait()
            kind, number, folder = running.pop(pid)
            trials_of[kind] += 1
            if status:
                failures_of[kind] += 1
                reason = folder.with_suffix(".failed")
                reason = reason.read_text().strip() if reason.exists() else f"ended by {status}"
                repeat = (
                    f"python -m tests.torture --seed {args.seed} --kind {kind} --number {number}"
                )
                print(f"FAILED {kind} seed {args.seed} number {number}: {repeat}\n{reason}\n")
            if args.number is None:
                shutil.rmtree(folder, ignore_errors=True)
    for kind in kinds:
        print(f"{kind:<18} {trials_of[kind]:>6} trials {failures_of[kind]:>4} failures")
    if args.number is None:
        shutil.rmtree(root, ignore_errors=True)
    else:
        print(f"folder: {root}")
    seconds = time.monotonic() - started
    total, failed = trials_of.total(), failures_of.total()
    print(f"total: {total} trials, {failed} failures, seed {args.seed}, {seconds:.0f} s")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
