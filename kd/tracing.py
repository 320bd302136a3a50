"""Functions of tensors that cost little to call: traced, or compiled."""

import logging
import os
import shutil
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.utils._pytree import tree_leaves

log = logging.getLogger(__name__)

Function = Callable[..., Sequence[Tensor]]


def traced(function: Function, arguments: tuple) -> Function:
    """``function`` as the plain operations that it consists of, one after the other.

    What ``torch.func`` costs at every call is paid once: a step of few small tensors takes a third
    of its time. The results are the same, bit for bit.

    Args:
        function: takes tensors, and containers of tensors, and gives several.
        arguments: for which, or others of the same shapes, it is to work.
    """
    module = make_fx(function)(*arguments)
    module.graph.eliminate_dead_code()
    for node in module.graph.nodes:
        if isinstance(node.target, OpOverload):
            # torch.add(a, b) takes half the time that torch.ops.aten.add.Tensor(a, b) takes.
            name = node.target._opname
            node.target = getattr(torch, name, getattr(Tensor, name, node.target))
    module.graph.set_codegen(CodeGen())  # takes and gives tensors in a row: no containers
    module.recompile()
    return lambda *arguments: module.forward(*tree_leaves(arguments))


def can_compile() -> bool:
    """Whether there is a C++ compiler, which ``torch.compile`` needs."""
    return bool(os.environ.get("CXX") or shutil.which("g++"))


def compiled(function: Function, arguments: tuple) -> Function | None:
    """``function`` as a program made by the C++ compiler; None where that fails.

    Args:
        function: as for :func:`traced`.
        arguments: likewise.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    program = torch.compile(function, dynamic=False)
    try:
        program(*arguments)
    except Exception as error:  # whatever it lacks here: the traced function needs nothing
        log.info("not compiled: %s", str(error).strip().split("\n")[0])
        return None
    return program
