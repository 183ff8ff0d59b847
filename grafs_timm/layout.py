"""A tensor of any memory format as a vector in the order of its memory, and back: elementwise work needs no copy."""

from __future__ import annotations

import torch
from torch import Tensor


def flat(x: Tensor) -> tuple[Tensor, torch.memory_format]:
    """x as [numel] in the order of its memory, without a copy where it is contiguous or channels_last, and its format."""
    for layout, dims in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if x.dim() == dims and x.is_contiguous(memory_format=layout):
            return x.as_strided((x.numel(),), (1,)), layout
    return x.contiguous().view(-1), torch.contiguous_format


def unflat(vector: Tensor, shape: torch.Size, layout: torch.memory_format) -> Tensor:
    """The reverse of ``flat``: [numel] as a tensor of this shape and format, without a copy."""
    if layout is torch.contiguous_format:
        return vector.view(shape)
    order = (0, 2, 3, 1) if len(shape) == 4 else (0, 2, 3, 4, 1)
    back = (0, 3, 1, 2) if len(shape) == 4 else (0, 4, 1, 2, 3)
    return vector.view([shape[d] for d in order]).permute(back)
