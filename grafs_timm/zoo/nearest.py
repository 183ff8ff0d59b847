"""Find the known function that a found one is nearest to, up to the scales that a neighbouring layer absorbs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from ..activations import published
from ..activations.similarity import SAME, distance_of_both
from .lookup import USUAL


@dataclass(frozen=True)
class Nearest:
    """The nearest published function and the nearest stock activation, with their distances.

    Args:
        name: The nearest of the published functions; "" where none can be compared.
        distance: Relative L2 distance under N(0, 1), up to an outer and an inner scale; the larger one of both directions;
            None where there is no nearest one.
        stock: The nearest of ReLU, GELU, SiLU, ELU and LeakyReLU.
        stock_distance: Its distance.

    >>> from grafs_timm.activations.published import get_published
    >>> print(nearest_known(get_published("grafs2024_wrn")))
    that is grafs2024_wrn (distance 0.000); nearest stock activation: gelu (0.114)
    """

    name: str
    distance: float | None
    stock: str
    stock_distance: float | None

    def __str__(self) -> str:
        if self.distance is None:
            return "not comparable with a known function"
        found = f"that is {self.name} (distance " if self.distance <= SAME else f"nearest published: {self.name} ("
        text = f"{found}{self.distance:.3f})"
        if self.name == self.stock:
            return text
        return f"{text}; nearest stock activation: {self.stock} ({self.stock_distance:.3f})"


@functools.cache
def nearest_known(function: Callable[[Tensor], Tensor]) -> Nearest:
    """Find the nearest known function; none can be compared with a constant.

    Args:
        function: A genotype or a published function.
    """
    known = _apart(function, published.list_published())
    stock = {name: apart for name, apart in known.items() if name in USUAL}
    return Nearest(*_refined(function, known), *_refined(function, stock))


def _apart(function: Callable[[Tensor], Tensor], names: Iterable[str]) -> dict[str, float]:
    """Compute coarse distances, which are upper bounds, of those that can be compared."""
    found = {}
    for name in names:
        try:
            found[name] = _distance(function, name, refine=False)
        except ValueError:  # not finite on [−5, 5]
            continue
    return found


def _refined(function: Callable[[Tensor], Tensor], apart: dict[str, float]) -> tuple[str, float | None]:
    if not apart or min(apart.values()) >= 1:
        return "", None
    few = sorted(apart, key=lambda name: apart[name])[:3]  # a coarse distance may be a little too long
    exact = {name: _distance(function, name) for name in few}
    name = min(exact, key=lambda each: exact[each])
    return name, exact[name]


def _distance(function: Callable[[Tensor], Tensor], name: str, refine: bool = True) -> float:
    return distance_of_both(function, published.get_published(name), refine)
