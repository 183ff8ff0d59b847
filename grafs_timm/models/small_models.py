"""Register the small image models for searches with timm: CIFAR ResNets, ViTs and Mixers.

Sources: ``cifar_resnet*``: He, Zhang, Ren, Sun 2015 (arXiv 1512.03385), section 4.2. ``cifar_vit_*``: timm's VisionTransformer
at the sizes of Strack, Safari, Hutter 2024 (arXiv 2408.06820). ``cifar_mixer_*``: timm's MlpMixer (Tolstikhin et al. 2021,
arXiv 2105.01601) at sizes of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from timm.layers import Attention, ClassifierHead, DropPath, calculate_drop_path_rates, create_act_layer
from timm.models import MlpMixer, VisionTransformer, build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from . import gpt_models as gpt_models  # registers gpt_*, which import transformers when they are built

__all__ = ["CifarBlock", "CifarResNet"]  # register_model adds the entry points

LayerType = str | Callable[..., nn.Module]

# mean and std of CIFAR-10's training set
CIFAR: dict[str, Any] = {
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "pool_size": None,
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
    "license": "apache-2.0",
}
_RESNET = CIFAR | {"first_conv": "conv1", "classifier": "head.fc", "pool_size": (8, 8)}
_VIT = CIFAR | {"first_conv": "patch_embed.proj", "classifier": "head", "fixed_input_size": True}
_MIXER = CIFAR | {"first_conv": "stem.proj", "classifier": "head", "fixed_input_size": True}

default_cfgs = generate_default_cfgs(
    {f"cifar_resnet{depth}": dict(_RESNET) for depth in ("8", "20", "20_b", "32", "44", "56", "110")}
    | {f"cifar_vit_{size}": dict(_VIT) for size in ("tiny", "small")}
    | {f"cifar_mixer_{size}": dict(_MIXER) for size in ("tiny", "small")}
)


class CifarBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without parameters: [B,C,H,W] -> [B,width,⌈H/stride⌉,⌈W/stride⌉].

    Where the shape changes, the shortcut takes every ``stride``-th pixel and pads new channels with zeros (option A), or is a
    1×1 convolution with BatchNorm (``projection``, option B).
    """

    def __init__(
        self, in_chans: int, width: int, stride: int, act_layer: LayerType, drop_path: float, projection: bool = False
    ) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, width - in_chans
        self.conv1 = nn.Conv2d(in_chans, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = create_act_layer(act_layer, inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.act2 = create_act_layer(act_layer, inplace=True)
        self.downsample = None
        if projection and (stride > 1 or self.new_channels):
            self.downsample = nn.Sequential(nn.Conv2d(in_chans, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B,C,H,W] to [B,width,⌈H/stride⌉,⌈W/stride⌉]."""
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.stride > 1 or self.new_channels:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], [0, 0, 0, 0, 0, self.new_channels])
        return self.act2(self.drop_path(y) + x)


class CifarResNet(nn.Module):
    """ResNet of 6n+2 layers: three stages of n blocks with 16, 32 and 64 channels, [B,in_chans,H,W] -> [B,num_classes].

    Args:
        depth: 6n+2; ValueError for another number.
        num_classes: Classes; 0 for none.
        in_chans: Channels of the images, which have 8 pixels a side or more.
        act_layer: Name or class of the activation; each of the 6n+1 sites gets its own module.
        global_pool: timm's name of the pooling before the classifier.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block.
        projection: Project where the shape changes (option B), instead of padding with zeros.
    """

    def __init__(
        self,
        depth: int = 20,
        num_classes: int = 10,
        in_chans: int = 3,
        act_layer: LayerType = nn.ReLU,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        projection: bool = False,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"a CIFAR ResNet has 6n+2 layers (8, 14, 20, ...), not {depth}")
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.num_features = self.head_hidden_size = 64
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = create_act_layer(act_layer, inplace=True)
        self.feature_info = [{"num_chs": 16, "reduction": 1, "module": "act1"}]
        drop_paths = calculate_drop_path_rates(drop_path_rate, [blocks] * 3, stagewise=True)
        channels, stages = 16, []
        for stage, width in enumerate((16, 32, 64)):
            layers = []
            for index in range(blocks):
                stride = 2 if stage and not index else 1
                layers.append(CifarBlock(channels, width, stride, act_layer, drop_paths[stage][index], projection))
                channels = width
            stages.append(nn.Sequential(*layers))
            self.feature_info.append({"num_chs": width, "reduction": 2**stage, "module": f"layer{stage + 1}"})
        self.layer1, self.layer2, self.layer3 = stages
        self.head = ClassifierHead(64, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.apply(init_kaiming)

    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one."""
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map [B,in_chans,H,W] to [B,64,⌈H/4⌉,⌈W/4⌉]."""
        x = self.act1(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map [B,64,h,w] to [B,num_classes], or to the pooled [B,64] with ``pre_logits``."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B,in_chans,H,W] to [B,num_classes]."""
        return self.forward_head(self.forward_features(x))


def init_kaiming(module: nn.Module) -> None:
    """Initialise a convolution or linear layer by He et al. 2015 (arXiv 1502.01852), for ReLU."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(module.bias)


class _Attention64(Attention):
    """timm's attention with heads of 64 for any width."""

    def __init__(self, dim: int, num_heads: int = 8, **kwargs: Any) -> None:
        super().__init__(dim, num_heads, attn_head_dim=64, **kwargs)


def _resnet(depth: int, pretrained: bool, option: str = "", **kwargs: Any) -> CifarResNet:
    features = {"out_indices": (0, 1, 2, 3)}
    name = f"cifar_resnet{depth}{option}"
    return build_model_with_cfg(CifarResNet, name, pretrained, depth=depth, feature_cfg=features, **kwargs)


def _vit(name: str, pretrained: bool, **kwargs: Any) -> VisionTransformer:
    features = {"out_indices": 3, "feature_cls": "getter"}
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 512, "attn_layer": _Attention64} | kwargs
    return build_model_with_cfg(VisionTransformer, name, pretrained, feature_cfg=features, **sizes)


def _mixer(name: str, pretrained: bool, **kwargs: Any) -> MlpMixer:
    return build_model_with_cfg(MlpMixer, name, pretrained, **({"img_size": 32, "patch_size": 4} | kwargs))


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-8: n = 1, 0.08 M parameters."""
    return _resnet(8, pretrained, **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20: n = 3, 0.27 M parameters."""
    return _resnet(20, pretrained, **kwargs)


@register_model
def cifar_resnet20_b(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20 with projection shortcuts (option B), 0.27 M parameters."""
    return _resnet(20, pretrained, "_b", projection=True, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32: n = 5, 0.46 M parameters."""
    return _resnet(32, pretrained, **kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-44: n = 7, 0.66 M parameters."""
    return _resnet(44, pretrained, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56: n = 9, 0.85 M parameters."""
    return _resnet(56, pretrained, **kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-110: n = 18, 1.7 M parameters."""
    return _resnet(110, pretrained, **kwargs)


@register_model
def cifar_vit_tiny(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """ViT of depth 4, width 512, 6 heads of 64, MLP of 256, patches of 4×4."""
    return _vit("cifar_vit_tiny", pretrained, **({"depth": 4, "num_heads": 6, "mlp_ratio": 0.5} | kwargs))


@register_model
def cifar_vit_small(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """ViT of depth 6, width 512, 8 heads of 64, MLP of 512, patches of 4×4."""
    return _vit("cifar_vit_small", pretrained, **({"depth": 6, "num_heads": 8, "mlp_ratio": 1.0} | kwargs))


@register_model
def cifar_mixer_tiny(pretrained: bool = False, **kwargs: Any) -> MlpMixer:
    """Mixer of 4 blocks, width 128, patches of 4×4, timm's MLP ratios: 0.5 over patches, 4 over channels."""
    return _mixer("cifar_mixer_tiny", pretrained, **({"num_blocks": 4, "embed_dim": 128} | kwargs))


@register_model
def cifar_mixer_small(pretrained: bool = False, **kwargs: Any) -> MlpMixer:
    """Mixer of 6 blocks, width 192, patches of 4×4, timm's MLP ratios."""
    return _mixer("cifar_mixer_small", pretrained, **({"num_blocks": 6, "embed_dim": 192} | kwargs))
