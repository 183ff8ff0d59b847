"""Functions of one number: operations, genotypes, formulas, modules and facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import timm  # noqa: F401  first: with timm the zoo's names are registered, by modules of these rooms

from ..utils.lazy import names_from

if TYPE_CHECKING:
    from .activation import FoundActivation as FoundActivation
    from .activation import PublishedActivation as PublishedActivation
    from .activation import activation_class as activation_class
    from .facts import Facts as Facts
    from .genotype import Gene as Gene
    from .genotype import Genotype as Genotype
    from .genotype import random_genotype as random_genotype
    from .published import Published as Published
    from .similarity import same_function as same_function

__getattr__, __dir__, __all__ = names_from(
    __name__,
    {
        "activation": "FoundActivation PublishedActivation activation_class",
        "facts": "Facts",
        "genotype": "Gene Genotype random_genotype",
        "published": "Published",
        "similarity": "same_function",
    },
)
