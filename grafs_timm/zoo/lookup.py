"""Found activations by name: read and check the entries, resolve whatever names an activation.

An entry is ``zoo/<family>/<name>.json``. ``grafs_<family>_<id>`` names one entry, ``grafs_<family>`` the one of the family that
has the alias. Wherever an activation is asked for, a zoo name, a timm name (``gelu``), the path of a genotype file,
its parsed dict and a Genotype are interchangeable.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..activations import formula, timm_maps
from ..activations.activation import FoundActivation
from ..activations.formula import Genotype
from ..activations.named import Activation
from ..errors import GenotypeError, GrafsError, UnknownNameError
from ..utils import resources, strict_json
from ..utils.suggest import nearest

if TYPE_CHECKING:
    from .entry import Contents, Metric, Provenance, Search

_FORMAT = "grafs-zoo/2"  # as in `entry`, which takes a tenth of a second to import
USUAL = ("relu", "gelu", "silu", "elu", "leaky_relu")  # the paper's baselines
_WRITTEN = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "elu": "ELU", "leaky_relu": "LeakyReLU", "hard_swish": "Hardswish"}


@dataclass(frozen=True)
class Entry:
    """One zoo entry. What a name needs is read at once, ``contents`` and what is taken from it when it is asked for.

    ``alias``: ``grafs_<family>`` loads it. ``recommended``: it is shown to be better than ``default``, the family's default
    activation, where it was searched.
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
        """«not shown to be better than GELU», for a user who loads it by name; None for a recommended one."""
        return None if self.recommended else f"not shown to be better than {_WRITTEN.get(self.default, self.default)}"

    @functools.cached_property
    def contents(self) -> Contents:
        """The whole file, checked. GenotypeError naming the field where something in it does not fit."""
        from . import entry_file

        return entry_file.read(self.path)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What was measured: a row for each activation at each place, of all batches."""
        return tuple(row for batch in self.contents.batches for row in batch.metrics)

    @property
    def searches(self) -> tuple[Search, ...]:
        """Every search of every batch, the losers too."""
        return tuple(search for batch in self.contents.batches for search in batch.searches)

    @property
    def provenance(self) -> Provenance:
        """Of the search that found it first."""
        return self.contents.batches[0].provenance

    @classmethod
    def read(cls, path: Path) -> Entry:
        """What the name needs. GenotypeError, naming the file and the field, where the file is not an entry."""
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
        """The entry of contents that are checked already; it keeps them, whatever its file holds later."""
        genotype = Genotype.from_dict(contents.genotype, source=f"{contents.name}: genotype", derived=False)
        entry = cls(
            Activation(contents.name, genotype), contents.family, alias=False, recommended=contents.recommended,
            default=contents.batches[0].usual, path=Path(source),
        )  # fmt: skip
        entry.__dict__["contents"] = contents
        return entry


@functools.cache
def entries() -> dict[str, Entry]:
    """All entries of the package's zoo by name, the one with the alias first in each family."""
    read = [Entry.read(path) for path in sorted(resources.folder("zoo").glob("*/grafs_*.json"))]
    alias: dict[str, Entry] = {}
    for entry in read:
        if entry.alias and (first := alias.setdefault(entry.family, entry)) is not entry:
            raise GenotypeError(f"{entry.path}: one entry a family has the alias, not both {first.name} and {entry.name}")
    return {entry.name: entry for entry in sorted(read, key=lambda e: (e.family, not e.alias, e.name))}


_added: dict[str, Entry] = {}  # from outside the package


def add(new: Mapping[str, Entry]) -> None:
    """Make entries from outside the package known by name."""
    _added.update(new)


def names() -> dict[str, Entry]:
    """Every name the zoo answers to: entries, ``grafs_<family>`` for the one with the alias, and what was added."""
    known = {f"grafs_{e.family}": e for e in entries().values() if e.alias}
    return known | entries() | _added


def list_activations(pattern: str = "*") -> list[str]:
    """Zoo names that match a shell pattern, such as ``grafs_vit*``."""
    return [name for name in names() if fnmatch.fnmatch(name, pattern.lower())]


def get_activation(name: str) -> Entry:
    """The entry of a zoo name. UnknownNameError with the nearest names."""
    known = names()
    try:
        return known[name.lower()]
    except KeyError:
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
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        return Activation(activation.__name__, module=activation)
    if isinstance(activation, Path) or (isinstance(activation, str) and (activation.endswith(".json") or "/" in activation)):
        from . import outside  # whose schema takes a tenth of a second to import

        if outside.is_entry(activation):
            return resolve(Entry.of(outside.read(activation), activation))
        return Activation(Path(activation).stem, formula.load(activation, derived=True))
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
    if timm_maps.layer(name) is not None:
        return Activation(name)
    known = dict.fromkeys([*names(), *timm_maps.own_names()])
    raise UnknownNameError(f"no activation {name!r}{nearest(name, known)}; or give the path of a genotype.json")


def known_as(genotype: Genotype, names: Iterable[str] | None = None) -> str | None:
    """Which of ``names`` is the same function up to an outer and an inner scale, if one is.

    By default of the usual activations, relu2 and the zoo's entries. None for a function that is not finite everywhere.
    """
    named = ((name, resolve(name)) for name in names or (*USUAL, "relu2", *entries()))
    return next((name for name, other in named if _same(genotype, other.genotype or other.layer)), None)


@functools.cache
def _same(genotype: Genotype, other: Genotype | Callable[..., nn.Module]) -> bool:
    try:
        return formula.same_function(genotype, other if isinstance(other, Genotype) else other())
    except ValueError:  # not finite everywhere
        return False


def act_layer(activation: Any) -> Callable[..., nn.Module]:
    """The module class of an activation, for timm's ``act_layer=`` argument."""
    return resolve(activation).layer
