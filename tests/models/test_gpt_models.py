"""The GPTs: their sizes, their one activation a block, and that they are timm models like the others."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import grafs_timm
from grafs_timm.errors import GrafsError
from grafs_timm.models import gpt_models, surgery
from grafs_timm.models.weights import load_pretrained, save_pretrained

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'grafs-timm[gpt]'")


def tokens(*shape: int, below: int = 256) -> torch.Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", gpt_models.SIZES)
def test_sizes_counted_by_hand(name):
    depth, heads, width = gpt_models.SIZES[name]
    with torch.device("meta"):
        model = timm.create_model(name, vocab_size=1000)
    # a block: two normalisations, attention's four matrices, an MLP of four times the width and back, with biases
    block = 2 * 2 * width + 4 * (width + 1) * width + (width + 1) * 4 * width + (4 * width + 1) * width
    assert sum(p.numel() for p in model.parameters()) == (1000 + 256) * width + depth * block + 2 * width
    assert width / heads == 64
    assert model.lm.lm_head.weight is model.lm.transformer.wte.weight
    rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.2}


def test_names_are_registered_without_importing_transformers():
    code = (
        "import sys, timm, grafs_timm.models.small_models as m; print(timm.list_models('gpt_*'), 'transformers' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout
    assert said.strip() == "['gpt_mini', 'gpt_small', 'gpt_tiny'] False"


def test_logits_at_every_position_and_none_looks_ahead():
    torch.manual_seed(0)
    model = timm.create_model("gpt_mini", context=16).eval()
    x = tokens(2, 16)
    logits = model(x)
    assert logits.shape == (2, 16, 256)
    assert logits.dtype == torch.float32
    changed = x.clone()
    changed[:, 10] = (x[:, 10] + 1) % 256
    again = model(changed)
    assert torch.equal(logits[:, :10], again[:, :10])
    assert not torch.allclose(logits[:, 10:], again[:, 10:], atol=1e-3)
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, 16, 192)
    assert model(x[:, :5]).shape == (2, 5, 256)


def test_starts_at_the_loss_of_guessing_and_learns():
    torch.manual_seed(0)
    model = timm.create_model("gpt_mini", context=32, dropout=0.0)
    x = tokens(4, 33)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(256.0).log().item(), abs=0.2)
    assert losses[-1] < 3
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("act_layer", "kind"), [(None, "GELU"), ("silu", "SiLU"), (nn.Tanh, "Tanh"), ("relu", "ReLU")])
def test_takes_a_class_or_a_name(act_layer, kind):
    model = timm.create_model("gpt_mini", context=8, act_layer=act_layer)
    assert [type(block.mlp.act).__name__ for block in model.lm.transformer.h] == [kind] * 3
    assert model(tokens(1, 8)).isfinite().all()


@pytest.mark.parametrize("name", gpt_models.SIZES)
def test_one_place_a_block_is_replaced(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    places = [place for place, _, _, reason in surgery.find_sites(model) if reason is None]
    assert places == [f"lm.transformer.h.{block}.mlp.act" for block in range(gpt_models.SIZES[name][0])]
    report = grafs_timm.replace_activations(model, "silu")
    assert (report.replaced, report.total, report.left) == (len(places), len(places), [])
    assert all(type(block.mlp.act) is nn.SiLU for block in model.lm.transformer.h)


def test_a_zoo_name_reaches_every_block():
    name = grafs_timm.list_activations()[0]
    by_name = timm.create_model("gpt_mini", act_layer=name)
    model = grafs_timm.create_model("gpt_mini", activation=name)
    assert model.activation_report.replaced == model.activation_report.total == 3
    model.load_state_dict(by_name.state_dict())
    assert torch.equal(model.eval()(tokens(1, 8)), by_name.eval()(tokens(1, 8)))


def test_weights_are_saved_tied_and_come_back(tmp_path):
    model = timm.create_model("gpt_mini", context=8, vocab_size=300, act_layer="silu").eval()
    save_pretrained(model, tmp_path / "w", {"context": 8})
    other = timm.create_model(f"local-dir:{tmp_path / 'w'}", pretrained=True).eval()
    assert other.lm.lm_head.weight is other.lm.transformer.wte.weight
    x = tokens(2, 8, below=300)
    assert torch.equal(model(x), other(x))
    third = timm.create_model("gpt_mini", context=8, vocab_size=300, act_layer="silu").eval()
    assert torch.equal(load_pretrained(third, tmp_path / "w")(x), model(x))


def test_num_classes_is_the_vocabulary():
    assert timm.create_model("gpt_mini", num_classes=300, in_chans=1).vocab_size == 300
    assert timm.create_model("gpt_mini", num_classes=300, vocab_size=300).get_classifier().out_features == 300
    with pytest.raises(ValueError, match="vocab_size=256 and num_classes=10 mean the same number"):
        timm.create_model("gpt_mini", num_classes=10, vocab_size=256)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_chans": 3}, "tokens, which have no channels"),
        ({"context": 0}, "context is 1 token or more, got 0"),
        ({"vocab_size": 0}, "1 token or more, got 0"),
        ({"dropout": 1.0}, "below 1, got 1"),
        ({"features_only": True}, "gpt_mini has no feature maps"),
    ],
)
def test_what_can_not_be(settings, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("gpt_mini", **settings)


def test_there_are_no_published_weights():
    with pytest.raises(RuntimeError, match="No pretrained weights exist for gpt_mini"):
        timm.create_model("gpt_mini", pretrained=True)


def test_input_that_is_no_text():
    model = timm.create_model("gpt_mini", context=8)
    with pytest.raises(ValueError, match="9 tokens are more than this model's context of 8"):
        model(tokens(1, 9))
    with pytest.raises(ValueError, match=r"expected token numbers int64 \[B,T\], got torch.float32 \[2, 3, 8, 8\]"):
        model(torch.zeros(2, 3, 8, 8))


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(GrafsError, match=r"a GPT model needs transformers: pip install 'grafs-timm\[gpt\]'"):
        timm.create_model("gpt_mini")
