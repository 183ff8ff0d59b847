"""Every activation that ships trains in its family's small timm model under bf16 autocast, and its card's code runs."""

import os
import re
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from tiny_runs import ROOT

from grafs_timm.data.datasets import open_dataset
from grafs_timm.data.images import load_split
from grafs_timm.zoo import lookup as zoo

SMALL = {  # a small model of timm's for each family, and its settings
    "resnet": ("resnet18", {}),
    "vit": ("vit_tiny_patch16_224", {"img_size": 64}),
    "mlp_mixer": ("mixer_s32_224", {"img_size": 64}),
}
SHARED = Path(os.environ.get("GRAFS_TIMM_DATA", ROOT.parent / "shared" / "data"))
CODE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
ENTRIES = list(zoo.entries())
OF_IMAGES = [name for name, entry in zoo.entries().items() if entry.family != "gpt"]


def build(activation, family):
    torch.manual_seed(0)
    architecture, settings = SMALL[family]
    # timm's mixers take no names
    activation = zoo.act_layer(activation) if family == "mlp_mixer" else activation
    return timm.create_model(architecture, act_layer=activation, num_classes=10, **settings)


def train(model, images, labels, batch, steps, size=64):
    """The loss of each step, under bf16 autocast; no loss and no parameter is ever not finite."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    losses = []
    for step in range(steps):
        chosen = order[torch.arange(step * batch, (step + 1) * batch) % len(order)]
        x = F.interpolate(images[chosen].float() / 255, size=(size, size), mode="bilinear")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x * 2 - 1), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        assert loss.isfinite(), f"step {step}: loss {loss.item()}"
        wrong = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
        assert not wrong, f"step {step}: {wrong}"
    return losses


@pytest.fixture(scope="module")
def digits():
    return load_split(open_dataset("digits"), "train", 64, channels=3)


@pytest.mark.parametrize("family", SMALL)
def test_the_family_has_an_entry_that_its_small_model_takes(family):
    name = zoo.names()[f"grafs_{family}"].name
    places = [module for module in build(f"grafs_{family}", family).modules() if name in type(module).__name__ + repr(module)]
    assert len(places) > 4


@pytest.mark.parametrize("name", OF_IMAGES)
def test_it_trains_in_bf16(name, digits):
    family = zoo.entries()[name].family
    assert family in SMALL, f"set a small model for the family {family}"
    losses = train(build(name, family), digits.images, digits.labels, batch=16, steps=14, size=32 if family == "resnet" else 64)
    assert sum(losses[-5:]) < sum(losses[:5]), losses


@pytest.mark.parametrize("name", [name for name, entry in zoo.entries().items() if entry.family == "gpt"])
def test_a_gpt_trains_in_bf16(name):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    text = torch.tensor(list((ROOT / "docs" / "method.md").read_bytes()))
    model = timm.create_model("gpt_mini", act_layer=name, context=64)
    assert sum(name in type(module).__name__ + repr(module) for module in model.lm.transformer.h) == 3
    optimiser, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(14):
        starts = torch.randint(len(text) - 65, (8, 1)) + torch.arange(65)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(text[starts[:, :-1]])
            loss = F.cross_entropy(logits.flatten(0, 1), text[starts[:, 1:]].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        assert loss.isfinite(), losses
        assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert sum(losses[-5:]) < sum(losses[:5]), losses


@pytest.mark.slow
@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_the_recommended_one_trains_for_an_epoch_of_cifar10(family):
    if not (SHARED / "cifar10" / "_info.json").is_file():
        pytest.skip("CIFAR-10 is not on this machine")
    images = load_split(open_dataset(SHARED / "cifar10"), "train", 5000)
    losses = train(build(f"grafs_{family}", family), images.images, images.labels, batch=50, steps=100)
    assert sum(losses[-20:]) < sum(losses[:20]), losses


@pytest.mark.parametrize("name", ENTRIES)
def test_the_cards_code_runs(name, monkeypatch):
    card = zoo.entries()[name].path.with_suffix(".md")
    assert card.is_file(), f"{name} has no card"
    blocks = CODE.findall(card.read_text(encoding="utf-8"))
    assert blocks, f"{card} shows no Python"
    monkeypatch.chdir(ROOT)
    for block in blocks:
        exec(compile(block, str(card), "exec"), {})  # the repository's own text, as a reader would type it
