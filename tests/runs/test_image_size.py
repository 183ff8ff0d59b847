"""What a model that refuses the size of its images advises makes it take them."""

from __future__ import annotations

import re

import pytest
from tiny_runs import SETTINGS, call, recipe

from grafs_timm.config.recipe import load_recipe
from grafs_timm.errors import RecipeError
from grafs_timm.runs.image_size import advice
from grafs_timm.runs.training import make_model

MODELS = [
    ("vit_tiny_patch16_224", {}, 32, "model_kwargs.img_size=32"),
    ("swin_tiny_patch4_window7_224", {}, 64, "model_kwargs.img_size=64"),
    ("mixer_s32_224", {}, 64, "model_kwargs.img_size=64"),
    ("vit_tiny_patch16_224", {"img_size": 64}, 32, "model_kwargs.img_size=32"),
    ("vit_tiny_patch16_224", {}, 8, "data.image_size=224"),  # less than a patch
    ("inception_v3", {}, 32, "data.image_size=128"),  # of convolutions, with a least size
]


@pytest.mark.parametrize(("model", "kwargs", "size", "key"), MODELS)
def test_the_advice_is_right(model: str, kwargs: dict[str, int], size: int, key: str) -> None:
    chosen = recipe(model=model, model_kwargs=kwargs)
    with pytest.raises(RecipeError, match=f"does not take images of 3×{size}×{size}: ") as caught:
        make_model(chosen, 10, (3, size, size), "cpu")
    (setting,) = re.findall(r"--set (\S+)$", str(caught.value))
    assert setting == key
    name, value = setting.split("=")
    if name == "data.image_size":
        make_model(chosen, 10, (3, int(value), int(value)), "cpu")
    else:
        settled = load_recipe("resnet_digits", (setting, f"model={model}"), {})
        make_model(settled, 10, (3, size, size), "cpu")


def test_images_that_are_not_square() -> None:
    chosen = recipe(model="vit_tiny_patch16_224")
    with pytest.raises(RecipeError, match=r"--set model_kwargs.img_size=\[32,48\]$"):
        make_model(chosen, 10, (3, 32, 48), "cpu")
    settled = load_recipe("resnet_digits", ("model_kwargs.img_size=[32,48]", "model=vit_tiny_patch16_224"), {})
    make_model(settled, 10, (3, 32, 48), "cpu")


def test_a_search_of_another_size_names_its_own_key() -> None:
    own = SETTINGS["search"] | {"model_kwargs": {"img_size": 64}}
    with pytest.raises(RecipeError, match=r"--set search.model_kwargs.img_size=32$"):
        make_model(recipe(model="vit_tiny_patch16_224", search=own).for_search, 10, (3, 32, 32), "cpu")
    own = SETTINGS["search"] | {"image_size": 8}
    with pytest.raises(RecipeError, match=r"--set data.image_size=224, and search.image_size likewise$"):
        make_model(recipe(model="levit_128s", search=own).for_search, 10, (3, 8, 8), "cpu")


def test_what_has_another_cause_gets_no_advice() -> None:
    assert advice(recipe(model="test_resnet"), {"num_classes": 10, "in_chans": 1}, (1, 8, 8)) == ""
    with pytest.raises(RecipeError, match="does not take") as caught:
        make_model(recipe(model="test_resnet", model_kwargs={"layers": []}), 10, (1, 8, 8), "cpu")
    assert "--set" not in str(caught.value)


def test_on_the_command_line(tmp_path) -> None:
    said = call("train", "resnet_digits", "--model", "vit_tiny_patch16_224", "--set", "data.image_size=32",
                "--activation", "relu", "--quiet", "--out", tmp_path / "run")  # fmt: skip
    assert said.exit_code == 1
    assert said.stderr.endswith("; build it for them: --set model_kwargs.img_size=32\n")
