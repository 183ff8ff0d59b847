"""Recognise squeeze-and-excitation by what it computes: pool all positions, pass a narrow layer, scale each channel.

This works for any class, and for pooling and gating by modules or functions. A module is a candidate if it has two pointwise
layers C → r → C with r ≤ C; a trial on a copy with other weights decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from . import hooks

_LARGEST = 16  # modules in one; with more it is a network of its own
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_squeeze_excite(module: nn.Module, activations: tuple[type[nn.Module], ...]) -> bool:
    """Check whether a module scales the channels of its input by what it pools from all positions, or returns those scales.

    Args:
        module: Any module, on any device, meta included; it is not changed.
        activations: Classes that the trial replaces by the identity.
    """
    width = _width(module)
    if width is None:
        return False
    try:
        with torch.device("cpu"):
            trial = _with_other_weights(module, activations)
            return any(_gates(trial, x, dim) for x, dim in _inputs(width))
    except Exception:  # any error of a module that takes other inputs or cannot be copied
        return False


def _width(module: nn.Module) -> int | None:
    """Return C if the layers with weights are C → r → C and norms, else None."""
    layers: list[tuple[int, int]] = []
    for count, each in enumerate(module.modules(), 1):
        if count > _LARGEST:
            return None
        if isinstance(each, nn.Linear):
            layers.append((each.in_features, each.out_features))
        elif isinstance(each, _CONVS) and all(size == 1 for size in each.kernel_size):
            layers.append((each.in_channels, each.out_channels))
        elif any(p.dim() > 1 for p in each._parameters.values() if p is not None):
            return None
    if len(layers) != 2:
        return None
    (first, narrow), (narrow_too, last) = layers
    return first if first == last and narrow == narrow_too <= first else None


def _with_other_weights(module: nn.Module, activations: Collection[type[nn.Module]]) -> nn.Module:
    """Make a copy on the CPU with positive, averaging weights, whose gates are neither closed nor saturated."""
    trial = hooks.deepcopy(module).to_empty(device="cpu").float().eval()
    generator = torch.Generator().manual_seed(0)
    for each in trial.modules():
        for name, child in each._modules.items():
            if isinstance(child, tuple(activations)):
                each._modules[name] = nn.Identity()
        for name, buffer in each._buffers.items():
            if buffer is not None:
                buffer.fill_(1 if name == "running_var" else 0)
        for parameter in each.parameters(recurse=False):
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 2
            fresh = torch.rand(parameter.shape, generator=generator, device="cpu") * 2 / fan_in
            parameter.data = fresh if parameter.dim() > 1 else fresh.clamp(min=0.1)
    return trial


def _inputs(width: int) -> Iterator[tuple[Tensor, int]]:
    """Yield (x, its channel dimension)."""
    generator = torch.Generator().manual_seed(1)
    for shape in ((2, width, 3, 3), (2, width, 5), (2, width, 2, 3, 2)):
        yield 0.5 + torch.rand(shape, generator=generator, device="cpu"), 1
    for shape in ((2, 3, 3, width), (2, 5, width)):
        yield 0.5 + torch.rand(shape, generator=generator, device="cpu"), -1


@torch.no_grad()
def _gates(module: nn.Module, x: Tensor, dim: int) -> bool:
    """Check that module(x) is one number per channel, or x times that, and that the first and last position influence it."""
    scale = _scale(module, x, dim)
    if scale is None or not scale.isfinite().all():
        return False
    for place in (0, -1):
        moved = x.movedim(dim, 1).flatten(2).clone()
        moved[:, :, place] += 1.0
        other = _scale(module, moved.view_as(x.movedim(dim, 1)).movedim(1, dim), dim)
        if other is None or torch.allclose(scale, other, rtol=1e-5, atol=1e-7):
            return False
    return True


def _scale(module: nn.Module, x: Tensor, dim: int) -> Tensor | None:
    """Return the scale of each channel, [N, C]; None where the output is something else."""
    try:
        y = module(x)
        if y.shape == x.shape:
            ratios = (y / x).movedim(dim, 1).flatten(2)
            scale = ratios.mean(-1)
            return scale if torch.allclose(ratios, scale[..., None].expand_as(ratios), rtol=1e-4, atol=1e-6) else None
        channels = x.shape[0] * x.shape[dim]
        if y.numel() != channels or module(1000 * x).abs().max() > 4:  # a gate is bounded
            return None
        return y.reshape(len(x), -1)
    except (RuntimeError, ValueError, IndexError, TypeError):  # it takes another shape
        return None
