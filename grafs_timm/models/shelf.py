"""Register zoo entries from outside the package, in this package and timm, until the process ends."""

from __future__ import annotations

from pathlib import Path

from ..activations import timm_maps
from ..errors import GenotypeError
from ..utils import remote
from ..zoo import lookup as zoo
from ..zoo import outside
from ..zoo.entry import Contents
from . import timm_names


def add_activation(source: str | Path, sha256: str | None = None) -> zoo.Entry:
    """Register a zoo entry from outside the package under its name, in timm too.

    Args:
        source: An entry's JSON file; a folder that holds one, as ``activation.json`` (the hub's layout) or as the only entry
            of a zoo folder; or an https URL of the file.
        sha256: The entry's hash, of its canonical form. Required for a URL; compared for a local source where it is given.

    Returns:
        The entry; the known one if the name is registered already with the same function.

    Raises:
        GenotypeError: Something is wrong in the entry (names file and field), the name is taken (names both functions), or
            the hashes differ (names both).
        DataError: The source cannot be read.

    >>> import grafs_timm
    >>> grafs_timm.add_activation(grafs_timm.get_activation("grafs_resnet").path).name
    'grafs_resnet_c10_s2'
    """
    if remote.is_url(source):
        return _register([outside.fetched(str(source), sha256)])[0]
    read = [outside.read_file(path) for path in outside.files(Path(source))]
    if len(read) > 1:
        kept = [(contents, path) for contents, path in read if contents.sha256 == sha256]
        if not kept:
            have = ", ".join(contents.name for contents, _ in read)
            wanted = f"no entry with sha256 {sha256}" if sha256 else f"{len(read)} entries"
            raise GenotypeError(f"{source}: holds {wanted}: {have}; name one file, or call grafs_timm.add_activations(folder)")
        read = kept
    outside.require_hash(read[0][0], sha256, str(source))
    return _register(read)[0]


def add_activations(folder: str | Path) -> list[zoo.Entry]:
    """Register every entry of a zoo folder as `add_activation` does, or none if one of them is wrong.

    Args:
        folder: Holds ``<family>/<name>.json``.

    >>> import grafs_timm
    >>> zoo_folder = grafs_timm.get_activation("grafs_resnet").path.parents[1]
    >>> len(grafs_timm.add_activations(zoo_folder)) == len(grafs_timm.entries())
    True
    """
    return _register([outside.read_file(path) for path in outside.files(Path(folder))])


def _register(read: list[tuple[Contents, str]]) -> list[zoo.Entry]:
    """Register entries, each with its source for errors; all names are checked before the first one is registered."""
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
        timm_names.register()
    return [zoo.names()[contents.name] for contents, _ in read]
