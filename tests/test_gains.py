"""Gains under a standard normal input."""

import math

import pytest
import torch
from timm.models.nfnet import _nonlin_gamma
from torch import nn

from grafs_timm.errors import GrafsError
from grafs_timm.gains import gain


def test_closed_forms():
    assert gain(nn.Identity()) == pytest.approx(1, abs=1e-9)
    assert gain(nn.ReLU()) == pytest.approx(1 / math.sqrt(0.5 - 0.5 / math.pi), abs=1e-6)
    assert gain(torch.square) == pytest.approx(1 / math.sqrt(2), abs=1e-6)


@pytest.mark.parametrize(("name", "layer"), [("relu", nn.ReLU), ("gelu", nn.GELU), ("silu", nn.SiLU), ("elu", nn.ELU)])
def test_near_timms_sampled_constants(name, layer):
    assert gain(layer()) == pytest.approx(_nonlin_gamma[name], rel=2e-3)


@pytest.mark.parametrize("function", [torch.ones_like, lambda z: z / 0])
def test_no_variance_is_an_error(function):
    with pytest.raises(GrafsError, match="variance"):
        gain(function)
