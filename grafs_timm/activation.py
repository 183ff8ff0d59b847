"""A found activation as an nn.Module class that a timm model takes like nn.GELU."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .formula import Genotype


class _KeepInputOnly(torch.autograd.Function):
    """Eager training keeps x alone and forms the intermediate tensors again in backward, as GELU does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, genotype: Genotype) -> Tensor:
        ctx.save_for_backward(x)
        ctx.genotype = genotype
        return genotype(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.genotype(x)
        # a cell may be constant in x: then it hands back no gradient at all
        (slope,) = torch.autograd.grad(y, x, grad, materialize_grads=True) if y.requires_grad else (torch.zeros_like(x),)
        return slope, None


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
        if torch.is_grad_enabled() and x.requires_grad and not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            return _KeepInputOnly.apply(x, self.genotype)
        return self.genotype(x)

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
