"""Use the published activation functions: look one up by name, with other constants, as a function, module or formula."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import ConstantError, UnknownNameError
from ..utils import dtypes
from ..utils.suggest import nearest
from .genotype import Genotype
from .published_cells import CELLS, SOURCE
from .published_table import NAMES, TABLE, Row

_WRITTEN = re.compile(r"(\w+)\((.*=.*)\)")


@dataclass(frozen=True)
class Published:
    """A published function with its constants, callable on tensors.

    Args:
        name: A row of the table, or another name of it.
        constants: (name, value) of those that differ from the paper's default.

    Raises:
        UnknownNameError: No such function; names the nearest.
        ConstantError: The function has no such constant, or the value is not a finite number.

    >>> golu = Published("golu")
    >>> golu.text
    'x*exp(-exp(-x))'
    >>> golu(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.0660,  0.0000,  0.6922])
    >>> str(Published("e_swish", (("beta", 1.5),)))
    'e_swish(beta=1.5)'
    """

    name: str
    constants: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UnknownNameError(f"no published activation {self.name!r}{nearest(self.name, list_published())}")
        known = NAMES[self.name].constants
        given = {key: _checked(self.name, key, value, known) for key, value in self.constants}
        object.__setattr__(self, "name", NAMES[self.name].name)
        other = tuple((key, given[key]) for key in known if given.get(key, known[key]) != known[key])
        object.__setattr__(self, "constants", other)
        if other and not self(torch.linspace(-5, 5, 101, dtype=torch.float64, device="cpu")).isfinite().all():
            raise ConstantError(f"{self} is not finite on [−5, 5]; the paper's constants: {dict(known)}")

    @property
    def row(self) -> Row:
        """Return the row of the table, with title, source and claim."""
        return TABLE[self.name]

    @property
    def values(self) -> dict[str, float]:
        """Return every constant by name."""
        return {**self.row.constants, **dict(self.constants)}

    def __str__(self) -> str:
        shown = ",".join(f"{key}={value!r}" for key, value in self.constants)
        return f"{self.name}({shown})" if shown else self.name

    def __call__(self, x: Tensor) -> Tensor:
        """Compute f(x) elementwise.

        Args:
            x: float16, bfloat16, float32 or float64, of any shape.

        Returns:
            f(x), of x's shape and dtype. 16-bit inputs are computed in float32 and rounded once. Inputs and results saturate
            at the dtype's largest number, so that f(±∞) is f there.

        Raises:
            TensorError: x has another dtype.
        """
        if x.dtype not in dtypes.DTYPES:
            dtypes.refuse("an activation", x.dtype, x.device)
        return self.within(torch.finfo(x.dtype).max)(x)

    def within(self, top: float) -> Callable[[Tensor], Tensor]:
        """Return the function for a dtype whose largest number is ``top``, on tensors of any dtype."""

        def function(x: Tensor) -> Tensor:
            wide = x.dtype in (torch.float32, torch.float64)
            inputs = (x if wide else x.float()).clamp(-top, top)
            return self.row.compute(inputs, **self.values).clamp(-top, top).to(x.dtype)

        return function

    @cached_property
    def text(self) -> str:
        """Return the formula as one would type it, such as ``x*exp(-exp(-x))``."""
        from . import formula

        return formula.written(self._expression())

    @cached_property
    def latex(self) -> str:
        """Return the formula in LaTeX, without dollar signs."""
        from . import formula

        return formula.written_latex(self._expression())

    def _expression(self) -> Any:
        from . import formula
        from .ops import LIFTED

        values = {key: formula.number(value) for key, value in self.values.items()}
        return self.row.sympy(formula.namespace(LIFTED), formula.X, **values)


def list_published() -> list[str]:
    """Return every name of a published function, in table order; functions with two names have both.

    >>> len(list_published()) > 60, "golu" in list_published(), "grafs2024_wrn" in list_published()
    (True, True, True)
    """
    return [*NAMES, *CELLS]


def get_published(name: str, **constants: float) -> Published | Genotype:
    """Return the published function of a name; those that the authors of GRAFS found are genotypes.

    Args:
        name: One of `list_published`, in upper or lower case; ``e_swish(beta=1.5)`` has constants in it.
        **constants: Values instead of the paper's defaults.

    Raises:
        UnknownNameError, ConstantError: As `Published`.

    >>> get_published("star_relu").text
    '0.8944*ReLU(x)**2 - 0.4472'
    >>> get_published("grafs2024_wrn").text
    'GELU(x)*sigmoid(ReLU(x))'
    """
    bare, inside = split(name)
    if bare in CELLS:
        if given := {**inside, **constants}:
            raise ConstantError(f"{bare} has no constants, got {', '.join(given)}")
        return CELLS[bare].genotype
    return Published(bare, tuple({**inside, **constants}.items()))


def split(name: str) -> tuple[str, dict[str, float]]:
    """Split ``e_swish(beta=1.5)`` into name and constants. Raises ConstantError where these are not ``key=number``."""
    found = _WRITTEN.fullmatch(name.lower())
    if not found:
        return name.lower(), {}
    constants = {}
    for part in found[2].split(","):
        key, _, value = part.partition("=")
        try:
            constants[key.strip()] = float(value)
        except ValueError:
            raise ConstantError(f"{name}: constants are written as in e_swish(beta=1.5), got {part.strip()!r}") from None
    return found[1], constants


def is_known(name: str) -> bool:
    """Check whether a published function has that name, with or without constants."""
    written = _WRITTEN.fullmatch(name.lower())
    return (written[1] if written else name.lower()) in (NAMES.keys() | CELLS.keys())


def source(name: str) -> str:
    """Return paper, year and arXiv number or DOI of one of `list_published`."""
    return SOURCE if name in CELLS else NAMES[name].source


def _checked(name: str, key: str, value: Any, known: Mapping[str, float]) -> float:
    if key not in known:
        has = f"its constants: {', '.join(known)}" if known else "it has none"
        raise ConstantError(f"{name}: no constant {key!r}{nearest(key, known)}; {has}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConstantError(f"{name}: {key} must be a finite number, got {value!r}; the paper's is {known[key]:g}")
    return float(value)
