"""Functions turned into modules leave a model's outputs as they were."""

import copy

import pytest
import timm
import torch

from grafs_timm.errors import GrafsError
from grafs_timm.models import functional
from grafs_timm.models.surgery import find_sites


@pytest.mark.parametrize(
    ("architecture", "sites"), [("mobilevitv2_050", 34), ("dm_nfnet_f0", 52), ("nf_resnet26", 25), ("resnetv2_50d_frn", 51)]
)
def test_the_same_outputs(architecture, sites):
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=3).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        functional.expose(model)
        assert torch.allclose(model(x), before, atol=1e-6)
        assert torch.allclose(copy.deepcopy(model)(x), before, atol=1e-6)
    assert sum(reason is None for *_, reason in find_sites(model)) == sites


def test_weights_keep_their_names():
    model = timm.create_model("mobilevitv2_050")
    before = list(model.state_dict())
    functional.expose(model)
    assert list(model.state_dict()) == before


def test_cross_attention_says_what_it_lacks():
    model = timm.create_model("mobilevitv2_050")
    functional.expose(model)
    attention = next(m for m in model.modules() if isinstance(m, functional.ActivatedLinearSelfAttention))
    x = torch.randn(1, attention.embed_dim, 4, 4)
    with pytest.raises(GrafsError, match="cross-attention"):
        attention(x, x)
