"""A found activation as an nn.Module class that a timm model takes like nn.GELU.

Eager, large tensors go through two fused kernels, f(x) and g·f′(x), the second forming everything again from x: that is
all that is kept for backward. They are made at the first large tensor of each dtype, in a few seconds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import compiled
from .fastmath import DECOMPOSITIONS
from .formula import Genotype
from .layout import flat, unflat


_WORTH_COMPILING = 2**14  # elements; below it the plain formula is as fast on CPU as a call of the compiled one
_WHAT = "a found activation"


def _gradient(genotype: Genotype, x: Tensor, grad: Tensor) -> Tensor:
    """grad·f′(x), from x alone; 0 where the cell is constant in x."""
    return torch.func.vjp(genotype, x)[1](grad)[0]


@functools.cache
def _kernel(function: Callable[..., Tensor], genotype: Genotype, inputs: int, dtype: torch.dtype, device: str) -> Any:
    """``function(genotype, *inputs)`` of 1-d tensors of this dtype, compiled into one loop (CPU) or kernel (CUDA)."""
    fast = DECOMPOSITIONS if device == "cpu" and dtype is not torch.float64 else None
    examples = [torch.zeros(8, dtype=dtype, device=device) for _ in range(inputs)]
    return compiled.traced(functools.partial(function, genotype), *examples, decompositions=fast)


def _run(function: Callable[..., Tensor], genotype: Genotype, *inputs: Tensor) -> Tensor:
    """``function(genotype, *inputs)`` for tensors of one shape: fused where they are large, in the first one's format."""
    inputs = tuple(x.detach() for x in inputs)
    x, device = inputs[0], inputs[0].device.type
    if not x.is_floating_point() or x.numel() < _WORTH_COMPILING or device not in ("cpu", "cuda"):
        return function(genotype, *inputs)

    def fast() -> Tensor:
        first, layout = flat(x)
        rest = [flat(other.contiguous(memory_format=layout))[0] for other in inputs[1:]]
        kernel = _kernel(function, genotype, len(inputs), x.dtype, device)
        with torch.no_grad():
            return unflat(kernel(first, *rest), x.shape, layout)

    return compiled.attempt(_WHAT, fast, lambda: function(genotype, *inputs))


def _is_transformed(x: Tensor) -> bool:
    """Whether x is no plain tensor: a subclass, or one under torch.func's transforms or a tracer's fake of one."""
    return type(x) not in (Tensor, nn.Parameter) or torch._C._functorch.is_functorch_wrapped_tensor(x)


class _KeepInputOnly(torch.autograd.Function):
    """Eager training keeps x alone and forms the intermediate values again in backward, as GELU does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, genotype: Genotype) -> Tensor:
        ctx.save_for_backward(x)
        ctx.genotype = genotype
        return _run(Genotype.__call__, genotype, x.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return _run(_gradient, ctx.genotype, x.detach(), grad), None


class FoundActivation(nn.Module):
    """f(x) of one genotype, elementwise; any shape, float16, bfloat16, float32 or float64, same dtype out.

    Subclasses made by ``activation_class`` carry ``genotype`` and ``activation_name`` and, like every timm activation,
    take ``inplace`` (accepted and without effect: x is needed for backward). Under ``torch.compile`` and export the plain
    formula is seen, so that a compiler can fuse it with its neighbours.
    """

    genotype: ClassVar[Genotype]
    activation_name: ClassVar[str]

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or _is_transformed(x):
            return self.genotype(x)
        if torch.is_grad_enabled() and x.requires_grad:
            return _KeepInputOnly.apply(x, self.genotype)
        return _run(Genotype.__call__, self.genotype, x)

    def extra_repr(self) -> str:
        return f"{self.activation_name}"

    def __reduce__(self) -> tuple[Any, ...]:
        # the class is made at run time: a copy or a pickle carries the genotype as data and makes it anew
        return _rebuild, (self.genotype.to_dict(), self.activation_name), self.__dict__


def _rebuild(genotype: Mapping[str, Any], name: str) -> FoundActivation:
    return activation_class(Genotype.from_dict(genotype), name)()


@functools.cache
def activation_class(genotype: Genotype, name: str = "found") -> type[FoundActivation]:
    """The module class of a genotype: ``activation_class(g)()`` is ready to use; the same arguments give the same class."""
    title = "".join(part.capitalize() for part in re.split(r"\W|_", name) if part) or "Found"
    return type(title, (FoundActivation,), {"genotype": genotype, "activation_name": name, "__module__": __name__})
