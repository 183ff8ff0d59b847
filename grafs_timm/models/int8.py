"""Turn an activation into 256 entries for 8-bit inference: any function at the price of a look-up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..activations.activation import FormulaActivation
from ..errors import GrafsError, TensorError
from ..kernels import lookup
from ..utils import compiled
from ..utils.layout import flat, undisturbed, unflat
from ..zoo import lookup as zoo


class QuantisationError(GrafsError, ValueError):
    """A scale or zero point is impossible, or a graph has no place for a table; names it."""


@dataclass(frozen=True)
class Int8Table:
    """Hold an activation as 256 entries; made by `int8_table`.

    Args:
        entries: int8 or uint8 [256]: entry i is the output where the bits of the input, as a number from 0 to 255, are i.
        input_scale, output_scale: The size of a step.
        input_zero_point, output_zero_point: The whole number that stands for 0.
        max_error, mean_error: |table − f| over the 256 inputs in output steps; above 0.5 only where the output saturates.
    """

    entries: Tensor = field(repr=False, compare=False)
    input_scale: float
    output_scale: float
    input_zero_point: int
    output_zero_point: int
    max_error: float
    mean_error: float

    @property
    def signed(self) -> bool:
        """Return whether inputs and outputs are int8, not uint8."""
        return self.entries.dtype == torch.int8

    def __call__(self, x: Tensor) -> Tensor:
        """Look x up.

        Args:
            x: Of any shape on the CPU: int8 or uint8 as the table is, or quantised per tensor (qint8, quint8) with the
                table's scale and zero point.

        Returns:
            x's shape; of x's dtype, or quantised with the output's scale and zero point.

        Raises:
            TensorError: x has another dtype, scale or zero point.
        """
        if x.is_quantized:
            self._check_scale(x)
            codes = self(x.int_repr())
            return torch._make_per_tensor_quantized_tensor(codes, self.output_scale, self.output_zero_point)
        if x.dtype != self.entries.dtype or x.device.type != "cpu":
            raise TensorError(f"an int8 table of {self.entries.dtype} on the CPU cannot look up {x.dtype} on {x.device}")
        values, layout = flat(x)
        fast, plain = lambda: lookup.compiled(values, self.entries), lambda: lookup.plain(values, self.entries)
        return unflat(compiled.attempt("a look-up", fast, plain), x.shape, layout)

    def _check_scale(self, x: Tensor) -> None:
        if x.qscheme() not in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            raise TensorError(f"an int8 table takes tensors quantised per tensor, got {x.qscheme()}")
        own = (self.input_scale, self.input_zero_point)
        if not math.isclose(x.q_scale(), own[0], rel_tol=1e-6) or x.q_zero_point() != own[1]:
            got = f"{x.q_scale():g} and {x.q_zero_point()}"
            raise TensorError(f"the table is for scale {own[0]:g} and zero point {own[1]}, x has {got}; make a table for those")


def int8_table(
    activation: Any,
    input_scale: float,
    output_scale: float,
    input_zero_point: int = 0,
    output_zero_point: int = 0,
    signed: bool = True,
) -> Int8Table:
    """Compute the 256 entries of an activation between two quantised tensors.

    An input q stands for x = input_scale·(q − input_zero_point); the entry is f(x)/output_scale + output_zero_point, computed
    in float64, rounded to the nearest (ties to even) and saturated at the ends of the dtype.

    Args:
        activation: A name, genotype, published function, class of either, or a module such as those of a model.
        input_scale, output_scale: Above 0 and finite.
        input_zero_point, output_zero_point: Within −128 … 127, or 0 … 255 without ``signed``.
        signed: Whether inputs and outputs are int8; else uint8.

    Returns:
        The table, with its error against f.

    Raises:
        QuantisationError: A scale or zero point is out of range, or f is not finite where the input reaches.
        UnknownNameError: There is no activation of that name.

    >>> table = int8_table("golu", 0.05, 0.05)
    >>> table(torch.tensor([-100, 0, 100], dtype=torch.int8))
    tensor([ 0,  0, 99], dtype=torch.int8)
    >>> table.max_error <= 0.5
    True
    """
    low, high = (-128, 127) if signed else (0, 255)
    for name, scale in (("input_scale", input_scale), ("output_scale", output_scale)):
        if not (isinstance(scale, (int, float)) and math.isfinite(scale) and scale > 0):
            raise QuantisationError(f"{name}: expected a finite number above 0, got {scale!r}; calibrate on data that vary")
    for name, point in (("input_zero_point", input_zero_point), ("output_zero_point", output_zero_point)):
        if isinstance(point, bool) or not isinstance(point, int) or not low <= point <= high:
            kind = "int8; pass signed=False for uint8" if signed else "uint8; pass signed=True for int8"
            raise QuantisationError(f"{name}: expected a whole number from {low} to {high} for {kind}; got {point!r}")
    function = _function(activation)
    with undisturbed(), torch.no_grad():
        codes = torch.arange(256, device="cpu").to(torch.uint8).view(torch.int8 if signed else torch.uint8)
        exactly = function(input_scale * (codes.double() - input_zero_point)) / output_scale + output_zero_point
        if not exactly.isfinite().all():
            where = float(input_scale * (codes[~exactly.isfinite()][0].double() - input_zero_point))
            raise QuantisationError(f"input_scale: f is not finite at {where:g}, which {input_scale!r} reaches; lower it")
        entries = exactly.round().clamp(low, high)
        error = (entries - exactly).abs()
        return Int8Table(
            entries.to(codes.dtype), float(input_scale), float(output_scale), input_zero_point, output_zero_point,
            float(error.max()), float(error.mean()),
        )  # fmt: skip


def _function(activation: Any) -> Callable[[Tensor], Tensor]:
    layer = activation if isinstance(activation, nn.Module) else zoo.resolve(activation).layer()
    if isinstance(layer, FormulaActivation):
        return layer.function.within(torch.finfo(torch.float32).max)
    return layer
