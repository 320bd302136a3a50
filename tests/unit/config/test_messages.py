"""Errors of the machine in words: no memory, no room on the disk."""

import errno
import itertools
import os

import pytest

from kd.config.messages import explain, is_disk_full


def chained(*errors: BaseException) -> BaseException:
    """The first error, which came of the second, and so on."""
    for effect, cause in itertools.pairwise(errors):
        effect.__cause__ = cause
    return errors[0]


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    ],
)
def test_out_of_memory_says_what_to_make_smaller(error):
    said = explain(chained(ValueError("while training"), error))
    assert all(key in said for key in ("data.batch_size", "model.hidden", "trainer.group_mb"))
    assert "\n" not in said


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(n, os.strerror(n), "f") for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    ],
)
def test_a_full_disk_is_a_line(error):
    whole = chained(RuntimeError("in the end"), error)
    assert is_disk_full(whole)
    said = explain(whole)
    assert said.startswith("no room left on the device (")
    assert ("(f)" in said) == isinstance(error, OSError)
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied", "f"))
