"""Name an activation: the one value that zoo, models, comparisons and published folders share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ..errors import UnknownNameError
from . import published, timm_maps
from .activation import activation_class
from .genotype import Genotype

Kind = Literal["found", "random", "baseline"]


@dataclass(frozen=True)
class Activation:
    """Hold an activation function and its name.

    Args:
        name: A zoo name, timm's lower-case name, a file's stem or the label of a comparison.
        genotype: The function of a found activation or a random cell; None for timm's own and for a bare record.
        module: The module class, where it is not the one that ``genotype``, the published function of that name or timm's
            factory gives.
        sha256: The genotype's hash; given alone where only a record of the function is left.
        kind: "found", "random" or "baseline". Default: "found" with a hash, "baseline" without.

    >>> gelu = Activation("gelu")
    >>> gelu.kind, gelu.layer().__class__.__name__, str(gelu)
    ('baseline', 'GELU', 'gelu')
    """

    name: str
    genotype: Genotype | None = None
    module: Callable[..., nn.Module] | None = None
    sha256: str | None = None
    kind: Kind | None = None

    def __post_init__(self) -> None:
        sha256 = self.genotype.sha256 if self.genotype else self.sha256
        object.__setattr__(self, "sha256", sha256)
        object.__setattr__(self, "kind", self.kind or ("found" if sha256 else "baseline"))

    def __str__(self) -> str:
        return f"{self.name} ({self.sha256[:8]})" if self.sha256 else self.name

    @property
    def formula(self) -> str:
        """Return the text of the function, or the name where it is not known as data."""
        function = self.genotype or getattr(self.module, "function", None)
        return function.text if function else self.name

    @property
    def layer(self) -> Callable[..., nn.Module]:
        """Return the module class, which needs no arguments.

        Raises:
            UnknownNameError: Only the name or hash of the function is known.
        """
        if self.module is not None:
            return self.module
        if self.genotype is not None:
            return activation_class(self.genotype, self.name)
        if self.sha256 is not None:
            raise UnknownNameError(f"of {self} only the name and hash are known, not the formula")
        layer: Callable[..., nn.Module] | None = timm_maps.layer(self.name)
        if layer is None and published.is_known(self.name):
            layer = activation_class(published.get_published(self.name), self.name)
        if layer is None:
            raise UnknownNameError(f"timm has no activation {self.name!r}")
        return layer
