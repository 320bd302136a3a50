"""One thread that rounds as several do: it adds up the parts that they would have computed.

oneDNN's threads share a convolution's images among them, and the gradients of its weights are the
sum of the threads' own; MKL's share the rows of a small product, in blocks of 8. Other products,
and what works element by element, round the same with any number of threads. Where a library
divides its work otherwise, the bits differ: compare them before you rely on it.
"""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

ROWS = 8  # of a product that a thread of MKL takes at a time


@contextmanager
def rounding_as(threads: int, network: nn.Module) -> Generator[None]:
    """Have a network's gradients round as with so many threads, should there be fewer.

    Args:
        threads: how many.
        network: whose convolutions and linear layers compute otherwise for the time.
    """
    changed: list[nn.Module] = []
    if torch.get_num_threads() < threads:
        for layer in network.modules():
            forward = None
            if type(layer) is nn.Conv2d and (form := _form(layer)) is not None:
                forward = partial(_convolve, layer, form, threads)
            elif type(layer) is nn.Linear and layer.out_features < ROWS * threads:
                forward = partial(_product, layer)
            if forward is not None:
                changed.append(layer)
                setattr(layer, "forward", forward)  # noqa: B010, pyright forbids an assignment
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward


def _form(layer: nn.Conv2d) -> tuple | None:
    """What torch's function for gradients takes of a convolution; None where padding is uneven."""
    padding: Any = layer.padding
    if padding == "same":
        around = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        padding = None if any(pixels % 2 for pixels in around) else [n // 2 for n in around]
    elif padding == "valid":
        padding = [0, 0]
    if layer.padding_mode != "zeros" or padding is None:
        return None
    return [*layer.stride], [*padding], [*layer.dilation], False, [0, 0], layer.groups


def _convolve(layer: nn.Conv2d, form: tuple, threads: int, images: Tensor) -> Any:
    return _Convolution.apply(images, layer.weight, layer.bias, form, threads)


def _product(layer: nn.Linear, inputs: Tensor) -> Any:
    return _Product.apply(inputs, layer.weight, layer.bias)


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Any, form: Any, n: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.biased, ctx.form, ctx.threads = bias is not None, form, n
        return torch.convolution(images, weight, bias, *form)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        images, weight = ctx.saved_tensors

        def of(gradient: Tensor, images: Tensor, *wanted: bool) -> tuple:
            like = gradient, images, weight, [len(weight)]
            return torch.ops.aten.convolution_backward(*like, *ctx.form, list(wanted))

        below = of(gradient, images, True, False, False)[0] if ctx.needs_input_grad[0] else None
        shares = zip(*(part.tensor_split(ctx.threads) for part in (gradient, images)), strict=True)
        found = [of(*share, False, True, ctx.biased)[1:] for share in shares if len(share[0])]
        weights, biases = zip(*found, strict=True)
        return below, _sum(weights), _sum(biases) if ctx.biased else None, None, None


class _Product(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Any) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.biased = bias is not None
        return F.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        below = gradient @ weight if ctx.needs_input_grad[0] else None
        weights = torch.cat([part.t() @ inputs for part in gradient.split(ROWS, 1)])
        return below, weights, gradient.sum(0) if ctx.biased else None


def _sum(parts: tuple[Tensor, ...]) -> Tensor:
    total, *more = parts
    for part in more:
        total = total + part
    return total
