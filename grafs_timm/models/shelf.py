"""Make zoo entries from outside the package known by name, to timm too, until the process ends."""

from __future__ import annotations

from pathlib import Path

from ..activations import timm_maps
from ..errors import GenotypeError
from ..utils import remote
from ..zoo import lookup as zoo
from ..zoo import outside
from ..zoo.entry import Contents
from . import registry


def add_activation(source: str | Path, sha256: str | None = None) -> zoo.Entry:
    """Make a zoo entry from elsewhere known by its name, to timm too; returns it.

    ``source``: an entry's JSON file, a folder that holds one (as ``activation.json``, the hub's layout, or the only entry of a
    zoo folder), or an https URL of the file. ``sha256``: the entry's own, of its canonical form; a URL needs it, a local source
    is compared where it is given. An entry that is known already, by name and function, is returned as it is. GenotypeError
    names the file and field of what is wrong, both functions where the name is taken, and both hashes where they differ;
    DataError where the source cannot be read.
    """
    if remote.is_url(source):
        return _register([outside.fetched(str(source), sha256)])[0]
    read = [outside.read_file(path) for path in outside.files(Path(source))]
    if len(read) > 1:
        kept = [(contents, path) for contents, path in read if contents.sha256 == sha256]
        if not kept:
            have = ", ".join(contents.name for contents, _ in read)
            wanted = f"no entry with sha256 {sha256}" if sha256 else f"{len(read)} entries"
            raise GenotypeError(f"{source}: holds {wanted}: {have}; name one file, or say grafs_timm.add_activations(folder)")
        read = kept
    outside.require_hash(read[0][0], sha256, str(source))
    return _register(read)[0]


def add_activations(folder: str | Path) -> list[zoo.Entry]:
    """Every entry of a zoo folder (``<family>/<name>.json``) as `add_activation`; all of them or, where one is wrong, none."""
    return _register([outside.read_file(path) for path in outside.files(Path(folder))])


def _register(read: list[tuple[Contents, str]]) -> list[zoo.Entry]:
    """Make all known, each with the source it has in errors; every name is looked at before the first is."""
    known, new = zoo.names(), dict[str, zoo.Entry]()
    for contents, source in read:
        name, entry = contents.name, zoo.Entry.of(contents, source)
        genotype = entry.genotype
        there = known.get(name) or new.get(name)
        if there is not None and there.genotype.sha256 != genotype.sha256:
            raise GenotypeError(
                f"{source}: name: {name} is taken by another function, {there.formula} ({there.genotype.sha256[:8]}) of "
                f"{there.path}; this one is {genotype.text} ({genotype.sha256[:8]}): publish it under another name"
            )
        if there is None and timm_maps.layer(name) is not None:
            raise GenotypeError(
                f"{source}: name: timm has an activation {name!r} of its own; publish this one under another name"
            )
        if there is None:
            new[name] = entry
    if new:
        zoo.add(new)
        registry.register()
    return [zoo.names()[contents.name] for contents, _ in read]
