"""Read and write the files beside a ledger's lines: the resolved recipe, and what the campaign was given to train."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from ..activations.genotype import Genotype
from ..activations.named import Activation
from ..config import strict_yaml
from ..config.recipe import parse_recipe
from ..config.schema import Data, Recipe
from ..errors import GrafsError, RecipeError, RunError
from ..utils import strict_json
from ..utils.files import write_changed
from ..utils.resources import LEDGER
from . import contenders
from .contenders import Contender
from .results import Place

FORMAT = "grafs-campaign/1"
RECIPE, ACTIVATIONS, FURTHER, COST = LEDGER, "activations.json", "recipes", "cost.csv"
_LARGEST = 4 * 2**20  # bytes of activations.json


def data_label(data: Data) -> str:
    """Return what a data section is called in labels and file names.

    >>> from grafs_timm.config.schema import ImageData
    >>> data_label(ImageData(name="text/tinyshakespeare.txt.gz"))
    'tinyshakespeare.txt.gz'
    """
    return contenders.safe(PurePath(data.name).name or data.name)


def resolved(recipe: Recipe) -> Recipe:
    """Fill in everything that a campaign needs: held-out data, both splits measured, the further models and data sets in full.

    Args:
        recipe: with a ``campaign`` section.

    Raises:
        RecipeError: where it has no such section, or no data to select by.
    """
    own = recipe.campaign
    if own is None:
        raise RecipeError("campaign: this recipe has no such section; a campaign needs one (campaign: {} takes the defaults)")

    def section(data: Data) -> Data:
        data = recipe.data.model_copy(update={"name": data.name}) if data.model_fields_set == {"name"} else data
        hold = own.held_out and not data.holds_out
        return data.model_copy(update={"validation_images": own.held_out}) if hold else data

    home = section(recipe.data)
    if not home.holds_out:
        raise RecipeError("campaign.held_out: a campaign selects by held-out images; set this, or data.validation_images")
    places = tuple(place.model_copy(update={"data": section(place.data)}) for place in own.places)
    names = [Place(recipe.model, data_label(home)), *(Place(each.model, data_label(each.data)) for each in places)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecipeError(f"campaign.places: {twice[0]} is there twice, and lines are told apart by model and data set alone")
    changes = {
        "data": home, "campaign": own.model_copy(update={"places": places}),
        "evaluate": recipe.evaluate.model_copy(update={"measure_both": True}),
    }  # fmt: skip
    return recipe.model_copy(update=changes)


def write(folder: Path, recipe: Recipe, given: Mapping[str, Contender], closed: bool) -> None:
    """Write recipe.yaml, then activations.json; equal files stay as they are.

    Args:
        folder: the ledger.
        recipe: resolved.
        given: the activations to train, by label.
        closed: whether nothing may be added to the campaign.
    """
    about = {
        "format": FORMAT,
        "closed": closed,
        "activations": {
            label: {"kind": each.kind, "genotype": each.genotype.to_dict() if each.genotype else None}
            for label, each in given.items()
        },
    }
    for name, text in ((RECIPE, recipe.to_yaml()), (ACTIVATIONS, json.dumps(about, indent=1, ensure_ascii=False) + "\n")):
        write_changed(folder / name, text)


def read_recipe(path: Path) -> Recipe:
    """Read the recipe in a file of the folder. RunError where it is none."""
    try:
        return parse_recipe(strict_yaml.read(path), str(path))
    except GrafsError as error:
        raise RunError(f"{path} is not a recipe: {error}") from error


def read_activations(path: Path) -> tuple[dict[str, Contender], bool]:
    """Read activations.json.

    Returns:
        What the campaign was given to train, by label, and whether the campaign is closed.

    Raises:
        RunError: where the file is damaged.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"larger than {_LARGEST // 2**20} MB")
        about: Any = strict_json.parse(path.read_bytes())
        if about["format"] != FORMAT:
            raise ValueError(f"format is {about['format']!r}, this version reads {FORMAT!r}")
        return {label: _candidate(label, each) for label, each in about["activations"].items()}, about["closed"] is True
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, GrafsError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) and not isinstance(error, GrafsError) else error
        raise RunError(f"{path} is damaged: {what}") from error


def _candidate(label: str, about: Mapping[str, Any]) -> Contender:
    if label != contenders.safe(label) or about["kind"] not in ("found", "random", "baseline"):
        raise ValueError(f"{label!r}: not a label, or kind {about['kind']!r} is none of found, random, baseline")
    genotype = about["genotype"]
    found = Genotype.from_dict(genotype, label, derived=False) if genotype else None
    return Contender(Activation(label, found, kind=about["kind"]))
