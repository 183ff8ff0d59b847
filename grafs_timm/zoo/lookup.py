"""Found activations by name: read and check the entries, resolve whatever names an activation.

An entry is ``zoo/<family>/<name>.json``. ``grafs_<family>_<id>`` names one entry, ``grafs_<family>`` the one of the family that
has the alias. Wherever an activation is asked for, a zoo name, a timm name (``gelu``), the path of a genotype file,
its parsed dict and a Genotype are interchangeable.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..activations import formula, timm_maps
from ..activations.activation import FoundActivation, activation_class
from ..activations.formula import Genotype
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

    name: str
    family: str
    genotype: Genotype
    alias: bool
    recommended: bool
    default: str
    path: Path

    @property
    def formula(self) -> str:
        return self.genotype.text

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
        return cls(name, family, genotype, data["alias"], data["recommended"], default, path)

    @classmethod
    def of(cls, contents: Contents, source: str | Path) -> Entry:
        """The entry of contents that are checked already; it keeps them, whatever its file holds later."""
        genotype = Genotype.from_dict(contents.genotype, source=f"{contents.name}: genotype", derived=False)
        entry = cls(
            contents.name, contents.family, genotype, alias=False, recommended=contents.recommended,
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


@dataclass(frozen=True)
class Resolved:
    """An activation ready for use: ``layer`` is a module class; ``genotype`` and ``sha256`` are None for timm's own."""

    name: str
    layer: Callable[..., nn.Module]
    genotype: Genotype | None = None

    @property
    def sha256(self) -> str | None:
        return self.genotype.sha256 if self.genotype else None

    @property
    def formula(self) -> str:
        return self.genotype.text if self.genotype else self.name


def resolve(activation: Any) -> Resolved:
    """Whatever names an activation -> the activation. UnknownNameError or GenotypeError, with the nearest right names."""
    if isinstance(activation, Resolved):
        return activation
    if isinstance(activation, Entry):
        return Resolved(activation.name, activation_class(activation.genotype, activation.name), activation.genotype)
    if isinstance(activation, Mapping):
        activation = Genotype.from_dict(activation, derived=True)
    if isinstance(activation, Genotype):
        return Resolved("found", activation_class(activation), activation)
    if isinstance(activation, type) and issubclass(activation, FoundActivation):
        return Resolved(activation.activation_name, activation, activation.genotype)
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        return Resolved(activation.__name__, activation)
    if isinstance(activation, Path) or (isinstance(activation, str) and (activation.endswith(".json") or "/" in activation)):
        from . import outside  # whose schema takes a tenth of a second to import

        if outside.is_entry(activation):
            return resolve(Entry.of(outside.read(activation), activation))
        genotype = formula.load(activation, derived=True)
        return Resolved(Path(activation).stem, activation_class(genotype, Path(activation).stem), genotype)
    if isinstance(activation, str):
        return _by_name(activation)
    if isinstance(activation, nn.Module):
        learns = ", whose parameters all places would share" if list(activation.parameters()) else ""
        raise GrafsError(f"an activation is a class, not an object{learns}: give {type(activation).__name__} itself")
    raise UnknownNameError(f"an activation is a name, a genotype file, its dict or a class; got {type(activation).__name__}")


def _by_name(name: str) -> Resolved:
    name = name.lower()
    if name in names():
        entry = names()[name]
        return Resolved(name, activation_class(entry.genotype, entry.name), entry.genotype)
    layer = timm_maps.layer(name)
    if layer is not None:
        return Resolved(name, layer)
    known = dict.fromkeys([*names(), *timm_maps.own_names()])
    raise UnknownNameError(f"no activation {name!r}{nearest(name, known)}; or give the path of a genotype.json")


def known_as(genotype: Genotype) -> str | None:
    """The usual activation or zoo entry that is the same function up to an outer and an inner scale, if there is one."""
    for name in (*USUAL, "relu2", *entries()):
        other = resolve(name)
        if formula.same_function(genotype, other.genotype or other.layer()):
            return name
    return None


def act_layer(activation: Any) -> Callable[..., nn.Module]:
    """The module class of an activation, for timm's ``act_layer=`` argument."""
    return resolve(activation).layer
