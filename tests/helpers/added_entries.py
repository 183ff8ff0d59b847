"""Zoo entries from outside the package: made, changed, written and forgotten again."""

import json

import pytest
from timm.layers import create_act

from grafs_timm.activations.genotype import Genotype
from grafs_timm.zoo import lookup as zoo

NAME = "grafs_resnet_outside1"

MAPS = ("_ACT_LAYER_DEFAULT", "_ACT_LAYER_ME", "_ACT_FN_DEFAULT", "_ACT_FN_ME")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing added stays: neither in the zoo nor in timm's maps."""
    monkeypatch.setattr(zoo, "_added", {})
    for key in MAPS:
        monkeypatch.setattr(create_act, key, dict(getattr(create_act, key)))


def other(made, name=NAME):
    """Another function under that name."""
    genotype = Genotype.from_dict(
        {
            "format": "grafs-cell/1", "u1": {"op": "identity"}, "u2": {"op": "scale", "gamma": 1.5}, "b1": {"op": "gate"},
            "u3": {"op": "relu"}, "u4": {"op": "identity"}, "b2": {"op": "max"},
        }
    )  # fmt: skip
    own = genotype.to_dict(derived=True)
    batch = made.batches[0]
    found = {"genotype": genotype.to_dict(), "sha256": genotype.sha256, "formula": genotype.text}
    searches = tuple(each.model_copy(update=found) if each.chosen else each for each in batch.searches)
    batches = (batch.model_copy(update={"searches": searches}),)
    return made.model_copy(update={"genotype": own, "name": name, "batches": batches}).sealed()


def put(contents, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
    return path
