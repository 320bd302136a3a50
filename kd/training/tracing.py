"""Every use of torch's private parts: each saves time, and has a plain way where it is missing.

The plain ways give the same results, up to rounding.
"""

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    from torch._ops import OpOverload
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.graph import CodeGen
    from torch.utils._pytree import tree_leaves
except ImportError:
    make_fx: Any = None
try:
    from torch.optim.adam import adam as adam_function
except ImportError:
    adam_function = None

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
    again, and rounds differently. Where torch cannot trace, ``function`` itself comes back.

    Args:
        function: takes tensors, and containers of tensors, and gives several.
        arguments: for which, or others of the same shapes and strides, it is to work.
        compiles: wants the operations compiled; where that fails, they are as without.
    """
    if compiles:
        try:
            return _compiled(function, arguments)
        except Exception as error:  # whatever it lacks here: the rest needs nothing
            log.info("not compiled: %s", str(error).strip().split("\n")[0])
    if make_fx is None:
        return function
    try:
        module = _operations(function, arguments)
        for node in module.graph.nodes:
            if isinstance(node.target, OpOverload) and node.target.namespace == "aten":
                # torch.add(a, b) takes half the time that torch.ops.aten.add.Tensor(a, b) takes.
                functions: Any = torch._C._VariableFunctions  # pyright: ignore
                name = node.target._opname
                node.target = getattr(
                    functions, name, getattr(torch._C.TensorBase, name, node.target)
                )
        module.recompile()
    except (AttributeError, TypeError) as error:  # another torch's private parts
        log.info("not traced: %s", str(error).strip().split("\n")[0])
        return function
    return lambda *arguments: module.forward(*tree_leaves(arguments))


def _compiled(function: Function, arguments: tuple) -> Function:
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    leaves = tree_leaves(arguments)
    # As many threads as there are to be when it runs, not when it is compiled.
    threads = {"cpp.dynamic_threads": True}
    program: Any = torch._inductor.compile(_operations(function, arguments), leaves, threads)
    program(*leaves)
    return lambda *arguments: program(*tree_leaves(arguments))


def _operations(function: Function, arguments: tuple) -> torch.fx.GraphModule:
    """What ``function`` does with the tensors in ``arguments``, which it takes in a row."""
    module: Any = make_fx(function)(*arguments)
    module.graph.set_codegen(CodeGen())  # without containers, whose unpacking takes time
    module.recompile()
    return module


def wide_product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T``: (rows, width), (columns, width) → (rows, columns).

    On a CPU by oneDNN: torch's own choice there, MKL, is half as fast on some AMD processors.
    """
    if left.device.type == "cpu" and torch.backends.mkldnn.is_available():
        product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
        if product is not None:
            return product(left, right, None, "none", [], "")
    return F.linear(left, right)


@torch.no_grad()
def adam_moves(
    gradient: Tensor,
    moments: Sequence[Tensor],
    taken: Tensor,
    betas: Sequence[float],
    eps: float,
    out: Tensor,
) -> Tensor:
    """Where Adam moves a parameter at a rate of 1 and without decay, in one pass over memory.

    Args:
        gradient: of the parameter.
        moments: the means of gradients and of their squares, which change.
        taken: a scalar, how many steps there are with this one.
        betas: decay of the moments.
        eps: as Adam's.
        out: memory of the parameter's shape.
    """
    beta1, beta2 = betas
    mean, square = moments
    torch._fused_adam_(
        *([out.zero_()], [gradient], [mean], [square], [], [taken]),
        lr=1.0,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=0.0,
        amsgrad=False,
        maximize=False,
    )
    return out


@torch.no_grad()
def optimizer_step(optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor | None]) -> None:
    """A step of the optimiser by gradients in the order of its parameters.

    A parameter whose gradient is None stays as it is. Adam's step is taken straight by the function
    that ``step()`` calls after having spent as much time again.
    """
    (group,) = optimizer.param_groups
    parameters, state = group["params"], optimizer.state
    adam = adam_function if isinstance(optimizer, torch.optim.Adam) else None
    found = [gradient for gradient in gradients if gradient is not None]
    if adam is None or not state or len(found) < len(gradients):  # the first step makes the state
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        return
    states = [state[parameter] for parameter in parameters]
    means, squares, steps = ([s[k] for s in states] for k in ("exp_avg", "exp_avg_sq", "step"))
    # Adam has no decoupled decay in torch before 2.7; AdamW is no Adam there, and steps plainly.
    names = ("fused", "amsgrad", "lr", "weight_decay", "eps", "maximize", "decoupled_weight_decay")
    numbers = {name: group[name] for name in names if name in group}
    beta1, beta2 = group["betas"]
    adam(parameters, found, means, squares, [], steps, beta1=beta1, beta2=beta2, **numbers)
