"""Functions of tensors that cost little to call: traced, and compiled where that repays."""

import logging
import os
import shutil
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.utils._pytree import tree_leaves

log = logging.getLogger(__name__)

Function = Callable[..., Sequence[Tensor]]


def can_compile() -> bool:
    """Whether there is a C++ compiler."""
    return bool(os.environ.get("CXX") or shutil.which("g++"))


@torch.no_grad()
def traced(function: Function, arguments: tuple, compiles: bool = False) -> Function:
    """``function`` as the plain operations that it consists of, one after the other.

    What ``torch.func`` costs at every call is paid once: a step of small tensors takes a third of
    its time, with the same results to the last bit. Compiled, which takes up to 20 s, it takes less
    again, and rounds differently.

    Args:
        function: takes tensors, and containers of tensors, and gives several.
        arguments: for which, or others of the same shapes and strides, it is to work.
        compiles: wants the operations compiled; where that fails, they are as without.
    """
    leaves = tree_leaves(arguments)
    if compiles:
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        try:
            program = torch._inductor.compile(_operations(function, arguments), leaves)
            program(*leaves)
            return lambda *arguments: program(*tree_leaves(arguments))
        except Exception as error:  # whatever it lacks here: the rest needs nothing
            log.info("not compiled: %s", str(error).strip().split("\n")[0])
    module = _operations(function, arguments)
    for node in module.graph.nodes:
        if isinstance(node.target, OpOverload) and node.target.namespace == "aten":
            # torch.add(a, b) takes half the time that torch.ops.aten.add.Tensor(a, b) takes.
            name, functions = node.target._opname, torch._C._VariableFunctions
            node.target = getattr(functions, name, getattr(torch._C.TensorBase, name, node.target))
    module.recompile()
    return lambda *arguments: module.forward(*tree_leaves(arguments))


def _operations(function: Function, arguments: tuple) -> GraphModule:
    """What ``function`` does with the tensors in ``arguments``, which it takes in a row."""
    module = make_fx(function)(*arguments)
    module.graph.set_codegen(CodeGen())  # without containers, whose unpacking takes time
    module.recompile()
    return module
