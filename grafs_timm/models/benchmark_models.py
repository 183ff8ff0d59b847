"""Register the networks of the MLS-Bench task ``dl-activation-function`` with timm, where timm has none of that form.

Its ResNet-20 is ``cifar_resnet20_b`` of `small_models`.

``cifar_vgg16_bn``: VGG-16 with BatchNorm (Simonyan, Zisserman 2014, arXiv 1409.1556, configuration D) for images of 32×32
pixels, with a head of one hidden layer of 512 and dropout. ``cifar_mobilenetv2``: timm's MobileNetV2 (Sandler et al. 2018,
arXiv 1801.04381) with strides for 32×32 pixels: 1 in the stem and in the stage of 24 channels.

The task's template is not public in full: strides of MobileNetV2's stages and the order within VGG's head are assumptions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import SelectAdaptivePool2d, create_act_layer, get_act_layer
from timm.models import EfficientNet, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def
from torch import Tensor, nn

from .small_models import CIFAR, LayerType, init_kaiming

__all__ = ["CifarVgg"]  # register_model adds the entry points

_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # widths; 0 is a pooling by 2
_MOBILENET = [
    ["ds_r1_k3_s1_c16"], ["ir_r2_k3_s1_e6_c24"], ["ir_r3_k3_s2_e6_c32"], ["ir_r4_k3_s2_e6_c64"], ["ir_r3_k3_s1_e6_c96"],
    ["ir_r3_k3_s2_e6_c160"], ["ir_r1_k3_s1_e6_c320"],
]  # fmt: skip

default_cfgs = generate_default_cfgs(
    {
        "cifar_vgg16_bn": CIFAR | {"first_conv": "features.0", "classifier": "fc", "num_classes": 100},
        "cifar_mobilenetv2": CIFAR | {"first_conv": "conv_stem", "classifier": "classifier"},
    }
)


class CifarVgg(nn.Module):
    """VGG-16 with BatchNorm for small images, [B,in_chans,H,W] -> [B,num_classes].

    Args:
        num_classes: Classes; 0 for none.
        in_chans: Channels of the images, which have 32 pixels a side or more.
        act_layer: Name or class of the activation: one after each of 13 convolutions, one in the head.
        global_pool: timm's name of the pooling before the head.
        drop_rate: Dropout in the head.
    """

    def __init__(
        self, num_classes: int = 100, in_chans: int = 3, act_layer: LayerType = nn.ReLU, global_pool: str = "avg",
        drop_rate: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = []
        width = in_chans
        for wanted in _VGG16:
            if not wanted:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(width, wanted, 3, padding=1, bias=False), nn.BatchNorm2d(wanted)]
            layers.append(create_act_layer(act_layer, inplace=True))
            width = wanted
        self.features = nn.Sequential(*layers)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = width
        self.pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.pre_logits = nn.Sequential(
            nn.Linear(width, width), create_act_layer(act_layer, inplace=True), nn.Dropout(drop_rate)
        )  # fmt: skip
        self.fc: nn.Module = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        self.apply(init_kaiming)

    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map [B,in_chans,H,W] to [B,512,⌊H/32⌋,⌊W/32⌋]."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map [B,512,h,w] to [B,num_classes], or to [B,512] with ``pre_logits``."""
        x = self.pre_logits(self.pool(x))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B,in_chans,H,W] to [B,num_classes]."""
        return self.forward_head(self.forward_features(x))


@register_model
def cifar_vgg16_bn(pretrained: bool = False, **kwargs: Any) -> CifarVgg:
    """VGG-16 with BatchNorm, 15 M parameters."""
    return build_model_with_cfg(CifarVgg, "cifar_vgg16_bn", pretrained, feature_cfg={"feature_cls": "getter"}, **kwargs)


@register_model
def cifar_mobilenetv2(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """MobileNetV2 of width 1 for 32×32 pixels, 2.2 M parameters."""
    act_layer = kwargs.pop("act_layer", None) or "relu6"
    sizes = {"block_args": decode_arch_def(_MOBILENET), "stem_size": 32, "num_features": 1280}
    model: EfficientNet = build_model_with_cfg(
        partial(_for_small_images, act_layer=act_layer), "cifar_mobilenetv2", pretrained, **(sizes | kwargs)
    )
    return model


def _for_small_images(act_layer: LayerType, **kwargs: Any) -> EfficientNet:
    model = EfficientNet(act_layer=get_act_layer(act_layer), **kwargs)
    model.conv_stem.stride = (1, 1)
    model.apply(init_kaiming)
    return model
