"""How much memory a student takes, and how much this process may still take."""

import contextlib
import resource
from pathlib import Path

from kd.config.schema import Config
from kd.data.module import EVAL_BATCH
from kd.errors import OutOfMemory
from kd.models.base import CLASSES
from kd.models.network import build_model, count_parameters


def available_bytes() -> int | None:
    """The least of what the machine, the process's container and its own limit leave free.

    Returns:
        bytes; None where the system does not say.
    """
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, StopIteration, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # ValueError: "max", that is without a limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        found.append(limit - used + int(stat.get("inactive_file", 0)))  # a cache makes way
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(OSError, ValueError, IndexError):
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            found.append(limit - pages * resource.getpagesize())
    return max(0, min(found)) if found else None


def student_bytes(config: Config) -> int:
    """About how much memory a student of a group takes, in bytes."""
    parameters = count_parameters(build_model(config.model, seed=0))
    # weights, gradient, Adam's two moments, the weights kept, and those of a group's file
    values = 6 * parameters
    batch = config.data.batch_size * (1 + config.data.augment.extra)
    values += max(batch, EVAL_BATCH) * (4 * config.model.hidden + 8 * CLASSES)
    if config.stage == "distill":
        values += config.kd.cubes * batch**3
    return 4 * values


def refuse_too_large(config: Config, students: int = 1) -> None:
    """Make sure that students fit in the memory that is free, before any of it is taken.

    Raises:
        OutOfMemory: they do not.
    """
    needed, free = students * student_bytes(config), available_bytes()
    if free is None or needed <= free:
        return
    who, advice = f"a group of {students} students", ""
    if students == 1:
        who, advice = "a student", "; make data.batch_size or model.hidden smaller"
    raise OutOfMemory(
        f"{who} needs about {needed / 2**20:.0f} MB and {free / 2**20:.0f} MB are free{advice}"
    )
