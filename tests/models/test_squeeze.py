"""Squeeze-and-excitation is known by what it does, whoever wrote it, and what only looks like it is not taken for it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grafs_timm.errors import GrafsError
from grafs_timm.models.replace import replace_activations
from grafs_timm.models.surgery import find_sites

C = 16


class SELayer(nn.Module):
    """As it is copied from repository to repository."""

    def __init__(self, channel: int = C, reduction: int = 4) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channel, channel // reduction, bias=False), nn.ReLU(inplace=True),
            nn.Linear(channel // reduction, channel, bias=False), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        return x * self.fc(self.avg_pool(x).view(b, c)).view(b, c, 1, 1).expand_as(x)


class Functional(nn.Module):
    """Pooled and gated by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.act, self.up = nn.Conv2d(C, 4, 1), nn.SiLU(), nn.Conv2d(4, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.act(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()


class WithNorm(nn.Module):
    """MobileNetV3 as it is rewritten: with a norm inside, a hard gate, one Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, C, 1, bias=False), nn.BatchNorm2d(C), nn.Hardsigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.se(x)


class ChannelAttention(nn.Module):
    """CBAM's: two pools, one MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Conv2d(C, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, C, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc(F.adaptive_avg_pool2d(x, 1)) + self.fc(F.adaptive_max_pool2d(x, 1)))


class OfTokens(nn.Module):
    """Over a sequence, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(C, 4), nn.GELU(), nn.Linear(4, C))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mlp(x.mean(1, keepdim=True)).sigmoid()


class OfFrames(nn.Module):
    """Of a video."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.act = nn.AdaptiveAvgPool3d(1), nn.ReLU()
        self.down, self.up = nn.Conv3d(C, 4, 1), nn.Conv3d(4, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.act(self.down(self.pool(x)))).sigmoid()


class OfSound(nn.Module):
    """Of a wave, as speaker recognition has it."""

    def __init__(self) -> None:
        super().__init__()
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool1d(1), nn.Conv1d(C, 4, 1), nn.ReLU(), nn.Conv1d(4, C, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.se(x)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "SELayer": SELayer, "functions": Functional, "with norms": WithNorm, "two pools": ChannelAttention, "tokens": OfTokens,
    "frames": OfFrames, "sound": OfSound, "a Sequential": lambda: WithNorm().se, "as wide inside": lambda: SELayer(8, 1),
}  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_left_and_named_unless_asked_for(kind: str, device: str) -> None:
    with torch.device(device):
        model = nn.Sequential(nn.Conv2d(3, C, 3), nn.ReLU(), KINDS[kind]())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = copy.deepcopy(model)
    report = replace_activations(model, "gelu")
    assert report.replaced == 1
    assert type(model[1]).__name__ == "GELU"
    assert "squeeze-excite" in {reason for _, reason in report.left}
    assert all(device == "meta" or torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert replace_activations(other, "gelu", also=["squeeze_excite"]).replaced == 2


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def mlp(*widths: int) -> list[nn.Module]:
    (first, narrow, last) = widths
    return [nn.Linear(first, narrow), nn.ReLU(), nn.Linear(narrow, last)]


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "an autoencoder": lambda: nn.Sequential(*mlp(C, 4, C), nn.Sigmoid()),
    "an adapter": lambda: Residual(nn.Sequential(*mlp(C, 4, C))),
    "a wide MLP": lambda: nn.Sequential(*mlp(C, 64, C)),
    "a predictor after a pool": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *mlp(C, 4, C)),
    "a classifier after a pool": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *mlp(C, 4, 10), nn.Sigmoid()),
    "a bottleneck of 1×1": lambda: Residual(nn.Sequential(nn.Conv2d(C, 4, 1), nn.ReLU(), nn.Conv2d(4, C, 1))),
    "a gate of each position": lambda: nn.Sequential(nn.Conv2d(C, 4, 1), nn.ReLU(), nn.Conv2d(4, C, 1), nn.Sigmoid()),
    "two linear layers": lambda: nn.Sequential(*mlp(C, C, C)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_only_looks_like_it_is_replaced(kind: str) -> None:
    assert replace_activations(OTHERS[kind](), "gelu").replaced == 1


@pytest.mark.parametrize(
    ("name", "own", "inside"),
    [
        ("efficientnet_b0", 33, 16), ("efficientnet_v2_s", 72, 30), ("mobilenet_v3_small", 24, 9),
        ("mobilenet_v3_large", 32, 8), ("regnet_y_400mf", 49, 16), ("mnasnet0_5", 35, 0), ("resnet18", 9, 0), ("swin_t", 12, 0),
    ],
)  # fmt: skip
def test_torchvisions_models_keep_theirs(name: str, own: int, inside: int) -> None:
    models = pytest.importorskip("torchvision.models")
    reasons = [reason for *_, reason in find_sites(models.get_model(name))]
    assert (reasons.count(None), reasons.count("squeeze-excite")) == (own, inside)


def test_the_regnet_of_transformers_keeps_its_own() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4, layer_type="y")
    report = replace_activations(transformers.RegNetModel(config), "gelu")
    assert [reason for _, reason in report.left].count("squeeze-excite") == 2
    assert report.replaced == 1 + 2 * 3


@pytest.mark.parametrize("architecture", ["seresnet18", "efficientnet_b0", "regnety_002", "legacy_seresnet18", "ghostnet_050"])
def test_timms_are_the_same_by_name_and_by_what_they_do(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from grafs_timm.models import surgery

    model = timm.create_model(architecture)
    by_name = list(find_sites(model))
    monkeypatch.setitem(surgery.KINDS, "squeeze_excite", ())
    assert [place[:3] for place in find_sites(model) if place[3] is None] == [p[:3] for p in by_name if p[3] is None]


def test_a_network_of_nothing_else_says_why() -> None:
    with pytest.raises(GrafsError, match="squeeze-excite"):
        replace_activations(SELayer(), "gelu")
