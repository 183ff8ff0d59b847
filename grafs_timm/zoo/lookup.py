"""Look activations up by name: read the zoo's entries, and resolve whatever names an activation.

An entry is ``zoo/<family>/<name>.json``. ``grafs_<family>_<id>`` names one entry, ``grafs_<family>`` the family's entry with
the alias. A zoo name, a published function's ("golu"), a timm name ("gelu"), the path of a genotype file, its parsed dict and a
Genotype are interchangeable.
"""

from __future__ import annotations

import fnmatch
import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..activations import genotype as genotypes
from ..activations import published, similarity, timm_maps
from ..activations.activation import FoundActivation, activation_class, is_own
from ..activations.genotype import Genotype
from ..activations.named import Activation
from ..activations.published import Published
from ..errors import GenotypeError, GrafsError, GrafsWarning, UnknownNameError
from ..utils import resources, strict_json
from ..utils.suggest import nearest

if TYPE_CHECKING:
    from .entry import Contents, Metric, Provenance, Search

_FORMAT = "grafs-zoo/2"  # as in `entry`, which takes a tenth of a second to import
USUAL = ("relu", "gelu", "silu", "elu", "leaky_relu")  # the paper's baselines
_WRITTEN = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "elu": "ELU", "leaky_relu": "LeakyReLU", "hard_swish": "Hardswish"}


@dataclass(frozen=True)
class Entry:
    """One zoo entry. ``contents`` is read when it is asked for.

    Attributes:
        name: ``grafs_<family>_<id>``.
        family: The architecture family it was searched for.
        genotype: The function.
        alias: Whether ``grafs_<family>`` loads it.
        recommended: Whether it is shown to be better than ``default`` on the model and data set of its search.
        default: The family's default activation.

    >>> entry = get_activation("grafs_resnet")
    >>> entry.name, entry.default
    ('grafs_resnet_c10_s2', 'relu')
    """

    activation: Activation
    family: str
    alias: bool
    recommended: bool
    default: str
    path: Path

    @property
    def name(self) -> str:
        return self.activation.name

    @property
    def genotype(self) -> Genotype:
        assert self.activation.genotype is not None
        return self.activation.genotype

    @property
    def formula(self) -> str:
        return self.activation.formula

    @property
    def notice(self) -> str | None:
        """Return "not shown to be better than GELU", for a user who loads it by name; None for a recommended one."""
        return None if self.recommended else f"not shown to be better than {_WRITTEN.get(self.default, self.default)}"

    @functools.cached_property
    def contents(self) -> Contents:
        """Return the whole file, checked. GenotypeError naming the field where something in it does not fit."""
        from . import entry_file

        return entry_file.read(self.path)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Return the results of all batches: a row for each activation, model and data set."""
        return tuple(row for batch in self.contents.batches for row in batch.metrics)

    @property
    def searches(self) -> tuple[Search, ...]:
        """Return every search of every batch, selected or not."""
        return tuple(search for batch in self.contents.batches for search in batch.searches)

    @property
    def provenance(self) -> Provenance:
        """Return the provenance of the search that found it first."""
        return self.contents.batches[0].provenance

    @classmethod
    def read(cls, path: Path) -> Entry:
        """Read what the name needs. GenotypeError, naming the file and the field, where the file is not an entry."""
        try:
            data = strict_json.read(path)
        except (OSError, ValueError, RecursionError) as error:
            raise GenotypeError(f"{path}: not a zoo entry: {error}") from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            from . import entry_file

            entry_file.check_format(data, str(path))
        name, family = data.get("name"), data.get("family")
        if family != path.parent.name or name != path.stem or not name.startswith(f"grafs_{family}_"):
            raise GenotypeError(f"{path}: name must be grafs_{path.parent.name}_<id> and the file's own, got {name!r}")
        for key in ("alias", "recommended"):
            if not isinstance(data.get(key), bool):
                raise GenotypeError(f"{path}: {key} must be true or false, got {data.get(key)!r}")
        batches = data.get("batches")
        first = batches[0] if isinstance(batches, list) and batches else None
        default = first.get("usual") if isinstance(first, dict) else None
        if not isinstance(default, str):
            raise GenotypeError(f"{path}: batches[0].usual must be the name of an activation, got {default!r}")
        # the hash is checked; formula and LaTeX are for readers, and comparing them would load sympy at import
        genotype = Genotype.from_dict(data.get("genotype"), source=f"{path}: genotype", derived=False)
        return cls(Activation(name, genotype), family, data["alias"], data["recommended"], default, path)

    @classmethod
    def of(cls, contents: Contents, source: str | Path) -> Entry:
        """Make the entry of contents that are checked already; it keeps them, whatever its file holds later."""
        genotype = Genotype.from_dict(contents.genotype, source=f"{contents.name}: genotype", derived=False)
        entry = cls(
            Activation(contents.name, genotype), contents.family, alias=False, recommended=contents.recommended,
            default=contents.batches[0].usual, path=Path(source),
        )  # fmt: skip
        entry.__dict__["contents"] = contents
        return entry


@functools.cache
def entries() -> dict[str, Entry]:
    """Return all entries of the package's zoo by name, the one with the alias first in each family.

    >>> "grafs_resnet_c10_s2" in entries()
    True
    """
    read = [Entry.read(path) for path in sorted(resources.folder("zoo").glob("*/grafs_*.json"))]
    alias: dict[str, Entry] = {}
    for entry in read:
        if entry.alias and (first := alias.setdefault(entry.family, entry)) is not entry:
            raise GenotypeError(f"{entry.path}: one entry a family has the alias, not both {first.name} and {entry.name}")
    return {entry.name: entry for entry in sorted(read, key=lambda e: (e.family, not e.alias, e.name))}


_added: dict[str, Entry] = {}  # from outside the package


def add(new: Mapping[str, Entry]) -> None:
    """Register entries from outside the package by name."""
    _added.update(new)


def names() -> dict[str, Entry]:
    """Return every name of the zoo: entries, ``grafs_<family>`` for the one with the alias, and what `add` added."""
    known = {f"grafs_{e.family}": e for e in entries().values() if e.alias}
    return known | entries() | _added


def list_activations(pattern: str = "*") -> list[str]:
    """Return the zoo's names that match a shell pattern.

    >>> list_activations("grafs_resnet*")
    ['grafs_resnet', 'grafs_resnet_c10_s2']
    """
    return [name for name in names() if fnmatch.fnmatch(name, pattern.lower())]


def get_activation(name: str) -> Entry:
    """Return the entry of a zoo name, in upper or lower case.

    Raises:
        UnknownNameError: There is none; the message has the nearest names.

    >>> get_activation("grafs_vit").family
    'vit'
    """
    known = names()
    try:
        return known[name.lower()]
    except KeyError:
        if published.is_known(name):
            why = f"{name!r} is a published function, not an entry of the zoo; use grafs_timm.get_published({name!r})"
            raise UnknownNameError(why) from None
        raise UnknownNameError(f"no activation {name!r} in the zoo{nearest(name.lower(), known)}") from None


def resolve(activation: Any) -> Activation:
    """Find the activation that a name, file, dict, class, entry or genotype stands for.

    Raises:
        UnknownNameError: There is none of that name; the message has the nearest names.
        GenotypeError: A file or dict describes none; the message has the field.

    >>> resolve("grafs_resnet").sha256 == resolve("grafs_resnet_c10_s2").sha256
    True
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, Entry):
        return activation.activation
    if isinstance(activation, Mapping):
        activation = Genotype.from_dict(activation, derived=True)
    if isinstance(activation, Genotype):
        return Activation("found", activation)
    if isinstance(activation, type) and issubclass(activation, FoundActivation):
        return Activation(activation.activation_name, activation.genotype, activation)
    if isinstance(activation, Published):
        return Activation(str(activation), module=activation_class(activation))
    if is_own(activation):
        return Activation(activation.activation_name, module=activation)
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        return Activation(activation.__name__, module=activation)
    if isinstance(activation, Path) or (isinstance(activation, str) and (activation.endswith(".json") or "/" in activation)):
        from . import outside  # whose schema takes a tenth of a second to import

        if outside.is_entry(activation):
            return resolve(Entry.of(outside.read(activation), activation))
        return Activation(Path(activation).stem, genotypes.load(activation, derived=True))
    if isinstance(activation, str):
        return _by_name(activation)
    if isinstance(activation, nn.Module):
        learns = ", whose parameters all places would share" if list(activation.parameters()) else ""
        raise GrafsError(f"an activation is a class, not an object{learns}: give {type(activation).__name__} itself")
    raise UnknownNameError(f"an activation is a name, a genotype file, its dict or a class; got {type(activation).__name__}")


def _by_name(name: str) -> Activation:
    name = name.lower()
    if name in names():
        own = names()[name].activation
        return replace(own, name=name, module=own.layer)  # under an alias the modules still have the entry's own name
    if is_stock(name):
        if published.is_known(name):
            _warn_if_other(name)
        return Activation(name)
    if published.is_known(name):
        function = published.get_published(name)
        if isinstance(function, Genotype):
            return Activation(name, function)
        return Activation(name, module=activation_class(function, name))
    known = dict.fromkeys([*names(), *published.list_published(), *timm_maps.own_names()])
    raise UnknownNameError(f"no activation {name!r}{nearest(name, known)}; or give the path of a genotype.json")


def is_stock(name: str) -> bool:
    """Check whether timm has an activation of its own under that name.

    >>> is_stock("gelu"), is_stock("golu")
    (True, False)
    """
    layer = timm_maps.layer(name)
    return layer is not None and not is_own(layer)


@functools.cache
def _warn_if_other(name: str) -> None:
    """Warn, once, where timm's activation of a published name is another function than the published one."""
    if not is_timms_the_same(name):
        text = published.get_published(name).text
        warnings.warn(
            f"timm's own {name!r}, which is used, is another function than the published one ({text}, "
            f"{published.source(name)}); grafs_timm.get_published({name!r}) is that one",
            GrafsWarning,
            stacklevel=4,
        )


def is_timms_the_same(name: str) -> bool:
    """Check whether timm's activation of that name computes the published function, on [−10, 10] in float64."""
    x = torch.linspace(-10, 10, 2001, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        theirs, ours = timm_maps.layer(name)().double()(x.clone()), published.get_published(name)(x)
    return torch.allclose(theirs, ours, rtol=1e-6, atol=1e-6)


def known_as(genotype: Genotype, names: Iterable[str] | None = None) -> str | None:
    """Return which of ``names`` is the same function up to an outer and an inner scale; None where none is.

    Args:
        names: Default: the five default activations, relu2 and the zoo's entries.
    """
    named = ((name, resolve(name)) for name in names or (*USUAL, "relu2", *entries()))
    return next((name for name, other in named if _same(genotype, other.genotype or other.layer)), None)


@functools.cache
def _same(genotype: Genotype, other: Genotype | Callable[..., nn.Module]) -> bool:
    try:
        return similarity.same_function(genotype, other if isinstance(other, Genotype) else other())
    except ValueError:  # not finite everywhere
        return False


def act_layer(activation: Any, **constants: float) -> Callable[..., nn.Module]:
    """Return the module class of an activation, for timm's ``act_layer=`` argument.

    Args:
        activation: Whatever `resolve` takes.
        **constants: Of a published function, instead of its paper's, such as ``beta`` of ``e_swish``.

    Raises:
        UnknownNameError, GenotypeError: As `resolve`.
        ConstantError: The function has no such constant, or the value is not a finite number.

    >>> import torch
    >>> act_layer("grafs_resnet")()(torch.zeros(2)).shape
    torch.Size([2])
    >>> act_layer("e_swish", beta=1.5)()
    ESwishBeta15(e_swish(beta=1.5))
    """
    if not constants:
        return resolve(activation).layer
    return activation_class(published.get_published(activation, **constants))
