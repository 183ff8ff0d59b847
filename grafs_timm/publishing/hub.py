"""Write a folder in the layout of the Hugging Face hub: an activation, or a model with it, for people outside this repository.

README.md            the model card, with the hub's YAML header
config.json          timm's, so that ``timm.create_model("local-dir:FOLDER")`` builds the model, and our record of the function
activation.json      the zoo entry (or genotype) itself; `shelf.add_activation` reads it
model.safetensors    weights, where there are any, bound to that same function
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from torch import nn

from ..activations.activation import FoundActivation
from ..activations.named import Activation
from ..errors import GrafsError, RunError, WeightsError, first_line, shortened
from ..models import shelf
from ..models.binding import Bound, activation_of, activations_at
from ..models.replace import replace_activations
from ..models.weights import create_from, describe, load_pretrained, read_record, save_pretrained
from ..utils.files import write_json, write_whole
from ..utils.suggest import nearest
from ..zoo import lookup as zoo
from ..zoo import outside
from ..zoo.entry import Contents
from ..zoo.model_config import CONFIG, NOT_MODEL_ARGS, read_config

README = "README.md"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


@dataclass(frozen=True)
class Source:
    """What a folder is about: the function, its entry's ``contents`` and ``path`` where it has one."""

    activation: Activation
    contents: Contents | None = None
    path: Path | None = None

    @classmethod
    def of(cls, activation: Any) -> Source:
        """From whatever names an activation, an entry's file too. GrafsError for timm's own, which is published already."""
        if isinstance(activation, (str, Path)) and _is_entry(activation):
            activation = shelf.add_activation(activation)
        found = zoo.resolve(activation)
        if found.genotype is None:
            raise GrafsError(f"{found.name} is timm's own activation: everyone has it; publish a found one")
        entry = activation if isinstance(activation, zoo.Entry) else zoo.names().get(found.name)
        if entry is None or entry.genotype.sha256 != found.sha256:
            return cls(found)
        contents: Contents | None = getattr(entry, "contents", None)
        return cls(entry.activation, contents, entry.path)

    @property
    def name(self) -> str:
        return self.activation.name

    def to_dict(self) -> dict[str, Any]:
        """The entry, or the genotype where there is none, as JSON values."""
        if self.contents is not None:
            return self.contents.to_dict()
        assert self.activation.genotype is not None
        return self.activation.genotype.to_dict(derived=True)


def _is_entry(activation: str | Path) -> bool:
    return Path(activation).is_dir() or outside.is_entry(activation)


def publish(
    activation: Any,
    folder: str | Path,
    model: str | None = None,
    weights: str | Path | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> Path:
    """Write the folder as `write` does, with the card beside the entry, or a short one where there is none.

    Args:
        activation: whatever names one, or an entry's file.
        folder: to write; it may not exist yet.
        model: a timm architecture, by default the one that the function was searched on.
        weights: a folder of ``save_pretrained`` or a .safetensors file.
        model_args: of a .safetensors file's model.
    """
    source = Source.of(activation)
    beside = source.path.with_suffix(".md") if source.path else None
    if beside is not None and beside.is_file():
        card = beside.read_text(encoding="utf-8")
    else:
        found = "An activation function found by gradient descent"
        card = f"# {source.name}\n\n{found}:\n\n    f(x) = {source.activation.formula}\n"
    return write(folder, activation, card=card, model=model, weights=weights, model_args=model_args)


def write(
    folder: str | Path,
    activation: Any,
    *,
    card: str,
    model: str | None = None,
    weights: str | Path | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> Path:
    """Write the folder; it appears whole or not at all.

    Args:
        folder: to write; it may not exist yet.
        activation: whatever names one, or an entry's file.
        card: Markdown without a header. Pictures beside the entry are copied, other relative links become text.
        model: a timm architecture, by default the one that the function was searched on.
        weights: a folder of ``save_pretrained``, which says how its model is built, or a .safetensors file, for which ``model``
            and ``model_args`` do.
        model_args: plain JSON values.

    Raises:
        RunError: where the folder holds something already.
        WeightsError: where the weights are of another function (naming both) or do not say of which, and for an unknown
            architecture.
    """
    folder, source, arguments = Path(folder), Source.of(activation), dict(model_args or {})
    _require_free(folder)
    built = _built(source, model, weights, arguments)
    _call_by_its_name(built, source)
    with _whole(folder) as scratch:
        if weights is None:
            write_json(scratch / CONFIG, describe(built, activation_of(built), arguments, {}))
        else:
            save_pretrained(built, scratch, arguments)
        write_json(scratch / outside.ENTRY, source.to_dict())
        pictures = _copy_pictures(card, source, scratch)
        header = yaml.safe_dump(_header(source, weights is not None), sort_keys=False, allow_unicode=True)
        use = _use(source, read_config(scratch), folder.name, weights is not None)
        write_whole(scratch / README, f"---\n{header}---\n\n{_without_links(card, pictures).rstrip()}\n\n{use}")
    return folder


# --- the model ---


def _built(source: Source, model: str | None, weights: str | Path | None, arguments: dict[str, Any]) -> nn.Module:
    """The model with the function in it, and the weights; without them on the meta device."""
    if weights is None:
        with torch.device("meta"):
            return _new(source, model, arguments)
    noted = read_record(weights)
    if noted is None:
        raise WeightsError(
            f"{weights} does not say which activation its weights were trained with; save them by grafs_timm.save_pretrained"
        )
    mine = Bound(source.activation, noted.bound.beside)
    if not (mine.sha256 == noted.bound.sha256 if noted.bound.sha256 else noted.bound.computes_as(mine)):
        trained = f"{weights} was trained with {noted.bound}"
        raise WeightsError(f"{trained}, not with {source.activation}: publish the function it has")
    path = Path(str(weights).removeprefix("local-dir:"))
    if not path.is_dir():
        return load_pretrained(_new(source, model, arguments), path)
    there = read_config(path)["architecture"]
    if model not in (None, there) or arguments:
        what = f"model_args {', '.join(arguments)}" if arguments else f"model {model}"
        raise WeightsError(f"{path} says itself how its {there} is built: leave {what} out")
    return create_from(path, pretrained=True)


def _new(source: Source, model: str | None, arguments: dict[str, Any]) -> nn.Module:
    model = model or (source.contents.batches[0].provenance.model if source.contents else None)
    if model is None:
        raise WeightsError(f"{source.name} has no entry that names a model: give one, as --model resnet18")
    if not timm.is_model(model):
        raise WeightsError(f"model: timm has no architecture {model!r}{nearest(model, timm.list_models())}")
    for name in ("act_layer", *NOT_MODEL_ARGS):
        if name in arguments:
            raise WeightsError(
                f"model_args: {name} is not to be given: the folder has its own activation and names no other file"
            )
    try:
        built: nn.Module = timm.create_model(model, **arguments)
    except Exception as error:  # whatever an architecture raises for a value that does not fit it
        raise WeightsError(f"timm cannot build {model} with {shortened(repr(arguments), 300)}: {first_line(error)}") from error
    replace_activations(built, source.activation)
    return built


def _call_by_its_name(model: nn.Module, source: Source) -> None:
    """Weights of a run know their function by the name of a file; here it has the entry's."""
    layer = source.activation.layer
    for place, module in activations_at(model).items():
        if isinstance(module, FoundActivation) and module.genotype.sha256 == source.activation.sha256:
            parent, _, attribute = place.rpartition(".")
            model.get_submodule(parent)._modules[attribute] = layer().train(module.training)


# --- the folder ---


def _require_free(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise RunError(f"{folder} is there already and not empty; name a new folder for the hub")


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder beside, which takes the name of ``folder`` when everything is in it."""
    scratch = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        yield scratch
        scratch.chmod(0o755)
        os.replace(scratch, folder)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _copy_pictures(card: str, source: Source, scratch: Path) -> set[str]:
    """The pictures that lie beside the entry and stand in its card, by their bare names."""
    names = {match[3] for match in _LINK.finditer(card) if match[1]}
    copied = set()
    for name in sorted(names):
        if source.path is None or Path(name).name != name or Path(name).suffix != ".png":
            continue  # nothing that a card names leads out of the entry's folder
        beside = source.path.parent / name
        if beside.is_file():
            write_whole(scratch / name, beside.read_bytes())
            copied.add(name)
    return copied


def _without_links(card: str, kept: set[str]) -> str:
    """Links into the repository lead nowhere from the hub: their text stays."""
    return _LINK.sub(lambda match: match[0] if match[3] in kept else match[2], card)


def _header(source: Source, trained: bool) -> dict[str, Any]:
    """The hub's metadata; data and metric only of an entry, which knows them."""
    batches = source.contents.batches if source.contents else ()
    task = "text-generation" if any(batch.measure == "loss" for batch in batches) else "image-classification"
    tags = ["timm", "grafs-timm", "activation-function", *([task] if trained else [])]
    header: dict[str, Any] = {"library_name": "timm", "tags": tags}
    if source.contents is not None:
        header["license"] = source.contents.licence.lower()
        header["datasets"] = list(dict.fromkeys(batch.provenance.data for batch in batches))
        header["metrics"] = list(dict.fromkeys(batch.measure for batch in batches))
    return header


def _use(source: Source, config: dict[str, Any], folder: str, trained: bool) -> str:
    named = config.get("model_args", {}).get("act_layer")
    argument = ", pretrained=True" if trained else ""
    lines = ["import timm, grafs_timm  # the import makes the zoo's names known to timm", ""]
    if named is None:  # plain timm would build the architecture with its default activation
        lines = ["import grafs_timm", "", f'model = grafs_timm.create_model("local-dir:{folder}"{argument})']
    else:
        if named not in zoo.entries() and source.contents is not None:
            lines.append(f'grafs_timm.add_activation("{folder}", sha256="{source.contents.sha256}")')
        lines.append(f'model = timm.create_model("local-dir:{folder}"{argument})')
    code = "\n".join(lines)
    what = "with these weights" if trained else "untrained"
    return f"## This folder in timm\n\n{config['architecture']} with {source.name}, {what}:\n\n```python\n{code}\n```\n"
