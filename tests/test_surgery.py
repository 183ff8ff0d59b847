"""Replacement in real timm models, and the report of it."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from grafs_timm.errors import GrafsError
from grafs_timm.surgery import find_sites
from grafs_timm.zoo import replace_activations

GATED = {
    "format": "grafs-cell/1", "u1": {"op": "silu"}, "u2": {"op": "scale", "gamma": 0.5221}, "b1": {"op": "gate"},
    "u3": {"op": "asinh"}, "u4": {"op": "gelu"}, "b2": {"op": "add"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "sites"),
    [
        ("resnet18", 17),
        ("resnet50", 49),
        ("resnetv2_50", 49),
        ("vit_tiny_patch16_224", 12),
        ("test_vit", 6),
        ("deit_tiny_patch16_224", 12),
    ],
)
def test_resnets_and_vits_take_it_everywhere(architecture: str, sites: int) -> None:
    model = timm.create_model(architecture, num_classes=3)
    before = [name for name, *_ in find_sites(model)]
    report = replace_activations(model, GATED)
    assert (report.replaced, report.total, report.left) == (sites, sites, [])
    assert before == [name for name, *_ in find_sites(model)]
    assert not any(isinstance(m, (nn.ReLU, nn.GELU)) for m in model.modules())
    assert f"replaced {sites} of {sites}" in str(report)


def test_gates_are_left_and_named() -> None:
    model = timm.create_model("seresnet18", num_classes=3)
    report = replace_activations(model, GATED)
    assert report.left
    assert all(".se" in name and "SEModule" in reason for name, reason in report.left)
    assert "left: " in str(report)
    assert model(torch.randn(1, 3, 64, 64)).isfinite().all()


def test_an_activation_can_be_replaced_again() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    replace_activations(model, GATED)
    replace_activations(model, "leaky_relu")
    assert isinstance(model[1], nn.LeakyReLU)
    assert model[1].inplace is False


def test_the_same_instance_at_two_places_counts_twice() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared)
    assert replace_activations(model, GATED).replaced == 2
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())


def test_mode_and_identity_are_kept() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.GELU()).eval()
    replace_activations(model, GATED)
    assert not model[1].training


def test_no_activation_is_an_error() -> None:
    with pytest.raises(GrafsError, match="no activation module"):
        replace_activations(nn.Linear(2, 2), GATED)
