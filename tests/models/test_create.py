"""One call for every model, saved ones too."""

from __future__ import annotations

import pytest
import torch

import grafs_timm
from grafs_timm.errors import WeightsError


@pytest.mark.parametrize("architecture", ["test_resnet", "mobilevitv2_050", "test_nfnet", "test_vit"])
def test_a_saved_model_comes_back(tmp_path, architecture):
    torch.manual_seed(0)
    model = grafs_timm.create_model(architecture, "grafs_resnet", num_classes=3).eval()
    grafs_timm.save_pretrained(model, tmp_path / "saved")
    again = grafs_timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    x = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        assert torch.allclose(again(x), model(x), atol=1e-6)
    assert again.activation_report.replaced == model.activation_report.replaced
    assert again.activation_report.left == model.activation_report.left


def test_another_activation_is_refused_with_both_names(tmp_path):
    grafs_timm.save_pretrained(grafs_timm.create_model("test_resnet", "grafs_resnet", num_classes=3), tmp_path / "saved")
    name = f"local-dir:{tmp_path / 'saved'}"
    with pytest.raises(WeightsError, match=r"trained with grafs_resnet_\w+ \(\w{8}\), not with gelu"):
        grafs_timm.create_model(name, "gelu", pretrained=True)
    assert grafs_timm.create_model(name, "gelu").activation_report.by == "gelu"
    assert grafs_timm.create_model(name, "grafs_resnet", pretrained=True).activation_report.by == "grafs_resnet"


@pytest.mark.filterwarnings("ignore:activation='auto'")
def test_the_report_of_a_model_that_keeps_its_activation_says_so() -> None:
    """The zoo's entry for ViTs is not shown to be better, so that nothing is replaced."""
    assert str(grafs_timm.create_model("test_vit").activation_report) == "6 of 6 activations are the default activation"
