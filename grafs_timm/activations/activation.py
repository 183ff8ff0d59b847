"""Turn a function into an nn.Module class that a timm model takes like nn.GELU.

Eager training saves only x for backward, and computes f(x) and g·f′(x) in one pass each over a large tensor: on a CPU by
interpolation (`curve`), on CUDA by two kernels that torch's compiler makes of the formula at the first large tensor of each
dtype. Small tensors, and machines without a compiler, compute the formula operation by operation. With ``table=True`` 16-bit
inference on a CPU looks every element up (`exact`).
"""

from __future__ import annotations

import copyreg
import functools
import re
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..errors import GrafsWarning, TensorError
from ..utils import compiled
from ..utils.layout import flat, in_memory, is_freed, together, unflat, watched
from . import curve, exact, onnx_rules
from .curve import Formula
from .genotype import Genotype
from .published import Published

_LARGE = 2**14  # elements; below it the plain formula is as fast
_NARROW = (torch.float16, torch.bfloat16, torch.float32)  # dtypes that the loops and kernels read


def _forward(formula: Formula, x: Tensor) -> Tensor:
    """Compute f(x), in one pass where x is large."""
    return _in_one_pass(x, None, formula) if _is_large(x) else formula(x)


def _backward(formula: Formula, x: Tensor, g: Tensor) -> Tensor:
    """Compute g·f′(x), in one pass where x is large."""
    return _in_one_pass(x, g, formula) if _is_large(x, g) else curve.gradient(formula, x, g)


def _is_large(x: Tensor, *others: Tensor) -> bool:
    """Check whether x, and the tensors that go with it, are large enough for one pass and of a kind that the loops read."""
    return (
        in_memory(x)  # first: a nested or sparse tensor may have no plain size
        and x.numel() >= _LARGE
        and x.dtype in _NARROW
        and x.device.type in ("cpu", "cuda")
        and all(in_memory(y) and together(x, y) and y.dtype == x.dtype and y.shape == x.shape for y in others)
        and not watched()
    )


def _can_be_looked_up(x: Tensor) -> bool:
    return x.dtype in exact.DTYPES and x.device.type == "cpu" and in_memory(x) and not watched()


def _looked_up(formula: Formula, x: Tensor) -> Tensor:
    """Compute f(x) by the table of all 65,536 numbers of x's dtype."""
    values, layout = flat(x.detach())
    with torch.no_grad():
        return unflat(exact.evaluate(formula, values), x.shape, layout)


def _in_one_pass(x: Tensor, g: Tensor | None, formula: Formula) -> Tensor:
    values, layout = flat(x.detach())
    weights = None if g is None else flat(g.contiguous(memory_format=layout))[0]
    run = curve.evaluate if x.device.type == "cpu" else _by_kernel

    def plain() -> Tensor:
        return formula(values) if weights is None else curve.gradient(formula, values, weights)

    with torch.no_grad():
        result = compiled.attempt("an activation", lambda: run(formula, values, weights), plain)
    return unflat(result, x.shape, layout)


def _by_kernel(formula: Formula, x: Tensor, g: Tensor | None) -> Tensor:
    inputs = (x,) if g is None else (x, g)
    return _kernel(formula, len(inputs), x.dtype, x.device)(*inputs)


@functools.cache
def _kernel(formula: Formula, inputs: int, dtype: torch.dtype, device: torch.device) -> Callable[..., Tensor]:
    """Compile f(x) of one vector, or g·f′(x) of two, of any length, as one kernel."""

    def slope(x: Tensor, g: Tensor) -> Tensor:
        return torch.func.vjp(formula, x)[1](g)[0]

    examples = [torch.zeros(8, dtype=dtype, device=device) for _ in range(inputs)]  # the same tensor twice is traced as one
    return compiled.traced(formula if inputs == 1 else slope, *examples)


def _is_transformed(x: Tensor) -> bool:
    """Check whether x may not be a plain tensor: a subclass, a dual, a tracer's fake, or under a torch.func transform."""
    if forward_ad._current_level >= 0:
        return True  # the formula carries a tangent, the one-pass loops would lose it
    return type(x) not in (Tensor, nn.Parameter) or torch._C._functorch.is_functorch_wrapped_tensor(x)


class _KeepInputOnly(torch.autograd.Function):
    """Save only x for backward and compute intermediate values again, as GELU does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, formula: Formula) -> Tensor:
        ctx.save_for_backward(x)
        ctx.formula = formula
        return _forward(formula, x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: backward itself will be differentiated
            return curve.recorded_gradient(ctx.formula, x, g), None
        return _backward(ctx.formula, x, g), None


_notices: dict[str, str] = {}  # by name: the warning for the first time an activation of that name is made
_told: set[str] = set()


def tell_once(name: str, notice: str) -> None:
    """Warn with ``notice`` when an activation called ``name`` is first made in this process."""
    if name not in _told:
        _notices[name] = notice


class _MadeAtRunTime(type):
    """Metaclass by which pickle recognises the classes made here: timm's models keep the classes they were built from."""


def _class_as_data(made: _MadeAtRunTime) -> str | tuple[Any, ...]:
    function = getattr(made, "function", None)
    if function is None:
        return made.__name__  # the base classes are importable by name
    if isinstance(function, Published):
        return _class_of_published, (function.name, dict(function.constants), made.activation_name)  # type: ignore[attr-defined]
    return _class_from_data, (function.to_dict(), made.activation_name)  # type: ignore[attr-defined]


copyreg.pickle(_MadeAtRunTime, _class_as_data)


class FormulaActivation(nn.Module, metaclass=_MadeAtRunTime):
    """Compute f(x) of one function elementwise; the base of the classes that `activation_class` makes.

    Takes tensors of any shape in float16, bfloat16, float32 or float64 and returns the same shape and dtype. Under
    ``torch.compile``, export and ``torch.jit.script`` it is the plain formula, so that a compiler can fuse it.

    Args:
        inplace: Accepted like any timm activation's, without effect: backward needs x.
        table: For inference in bfloat16 and float16 on a CPU: look every element up in a table of all 65,536 numbers. It takes
            about as long as GELU for large tensors, and each result is f in float64, rounded once. No effect on other dtypes
            and devices, where a gradient is recorded, and in compiled or exported graphs. It can be set at any time.

    Attributes:
        function: The function of the class, as data.
        activation_name: The name that `activation_class` was given.
        table: As above. Not in the ``state_dict``.

    >>> import timm, grafs_timm
    >>> layer = timm.layers.create_act_layer("grafs_resnet")
    >>> isinstance(layer, FormulaActivation)
    True
    >>> layer.table = True
    >>> layer(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.bfloat16
    """

    function: ClassVar[Formula]
    activation_name: ClassVar[str]
    table: bool = False

    if TYPE_CHECKING:  # torch.jit.script accepts no annotation of a function
        _scripted_float16: Callable[[Tensor], Tensor]
        _scripted_bfloat16: Callable[[Tensor], Tensor]
        _scripted_float32: Callable[[Tensor], Tensor]
        _scripted_float64: Callable[[Tensor], Tensor]

    def __init__(self, inplace: bool = False, table: bool = False) -> None:
        super().__init__()
        if table:  # else the class's
            self.table = True
        notice = _notices.pop(self.activation_name, None)
        if notice:
            _told.add(self.activation_name)
            warnings.warn(f"{self.activation_name}: {notice}", GrafsWarning, stacklevel=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x). Raises TensorError where the dtype is not one of the four, or the data of x is not allocated."""
        if torch.jit.is_scripting():  # the four functions come from __prepare_scriptable__
            if x.dtype == torch.float16:
                return self._scripted_float16(x)
            if x.dtype == torch.bfloat16:
                return self._scripted_bfloat16(x)
            if x.dtype == torch.float64:
                return self._scripted_float64(x)
            if x.dtype == torch.float32:
                return self._scripted_float32(x)
            raise TypeError("an activation takes float16, bfloat16, float32 or float64, got another dtype")
        else:
            return self._eager(x)

    @torch.jit.unused
    def _eager(self, x: Tensor) -> Tensor:
        if isinstance(x, torch.fx.Proxy):  # symbolic tracing keeps the module as one call, like torch's own
            traced: Tensor = x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x,), {})
            return traced
        if torch.compiler.is_compiling():
            return self.function(x)
        if torch.jit.is_tracing():
            if torch.onnx.is_in_onnx_export():
                onnx_rules.add()
            return self.function(x)
        if is_freed(x):
            raise TensorError(f"an activation: the data of a tensor of shape {tuple(x.shape)} is not allocated (yet)")
        if _is_transformed(x):
            return self.function(x)
        if torch.is_grad_enabled() and x.requires_grad:
            return _KeepInputOnly.apply(x, self.function)
        if self.table and _can_be_looked_up(x):
            return _looked_up(self.function, x)
        return _forward(self.function, x)

    def extra_repr(self) -> str:
        """Return the activation's name, and whether 16 bits are looked up."""
        return f"{self.activation_name}, table=True" if self.table else self.activation_name

    def __prepare_scriptable__(self) -> FormulaActivation:
        """Return self, ready for ``torch.jit.script``, which puts the returned module into the eager model too."""
        self.__dict__ |= _scripted(self.function)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_scripted_")}


class FoundActivation(FormulaActivation):
    """Compute f(x) of a genotype.

    Attributes:
        genotype: The function of the class.

    >>> import timm, grafs_timm
    >>> timm.layers.create_act_layer("grafs_resnet").genotype.bound is None
    True
    """

    genotype: ClassVar[Genotype]


class PublishedActivation(FormulaActivation):
    """Compute f(x) of a published function.

    >>> import timm, grafs_timm
    >>> timm.layers.create_act_layer("golu").function.row.title
    'GoLU'
    """


def is_own(layer: Any) -> bool:
    """Check whether something is a module class of this package, and not one of timm, torch or transformers.

    >>> from torch import nn
    >>> is_own(PublishedActivation), is_own(nn.GELU)
    (True, False)
    """
    return isinstance(layer, type) and issubclass(layer, FormulaActivation)


@functools.cache
def _scripted(formula: Formula) -> dict[str, Any]:
    """Trace the formula once for each dtype, since the number that it saturates at is a constant of the graph."""
    return {
        f"_scripted_{str(dtype).removeprefix('torch.')}": torch.jit.trace(
            formula.__call__, torch.zeros(8, dtype=dtype, device="cpu"), check_trace=False
        )
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    }


def _class_from_data(genotype: Mapping[str, Any], name: str) -> type[FormulaActivation]:
    return activation_class(Genotype.from_dict(genotype), name)


def _class_of_published(function: str, constants: Mapping[str, float], name: str) -> type[FormulaActivation]:
    return activation_class(Published(function, tuple(constants.items())), name)


def activation_class(function: Formula, name: str | None = None) -> type[FormulaActivation]:
    """Return the module class of a function; equal arguments give the same class.

    Args:
        function: A genotype or a published function.
        name: What ``repr`` and messages call it. Default: "found", or the name of a published function.

    Returns:
        A subclass of `FoundActivation` or `PublishedActivation` that takes only ``inplace`` and ``table``.

    >>> from grafs_timm.activations import random_genotype
    >>> import numpy as np
    >>> layer = activation_class(random_genotype(np.random.default_rng(0)), "mine")
    >>> layer()
    Mine(mine)
    >>> layer()(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """
    return _class(function, name or ("found" if isinstance(function, Genotype) else str(function)))


@functools.cache  # on a function without defaults: the cache tells calls with and without a default apart
def _class(function: Formula, name: str) -> type[FormulaActivation]:
    title = "".join(part.capitalize() for part in re.split(r"\W|_", name) if part) or "Found"
    contents = {"function": function, "activation_name": name, "__module__": __name__}
    base: type[FormulaActivation] = PublishedActivation
    if isinstance(function, Genotype):
        base, contents["genotype"] = FoundActivation, function
    return cast(type[FormulaActivation], _MadeAtRunTime(title, (base,), contents))
