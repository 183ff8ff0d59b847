"""View tensors of any memory format as vectors without a copy, and check which tensors have plain memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes


def in_memory(x: Tensor) -> bool:
    """Check whether the numbers of x are at ``x.data_ptr()``, by its shape and strides.

    They are not for subclasses, sparse and nested tensors, tensors of torch.func's transforms, negative views, zeros that
    autograd does not store, and tensors whose storage is freed, elsewhere or not aligned.
    """
    if type(x) not in (Tensor, nn.Parameter) or x.layout is not torch.strided or x.is_nested or x.is_neg():
        return False
    address = _address(x)
    return address is not None and (not x.numel() or (address != 0 and address % x.element_size() == 0))


def is_freed(x: Tensor) -> bool:
    """Check whether x is a plain tensor whose storage was freed; some of torch's operations would read it and crash."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.layout is torch.strided
        and _address(x) == 0
        and x.numel() > 0
        and _is_given_back(x)
    )


def _is_given_back(x: Tensor) -> bool:
    try:
        return not x._is_zerotensor() and not x.untyped_storage().nbytes()
    except (RuntimeError, NotImplementedError):  # it never had a storage
        return False


def _address(x: Tensor) -> int | None:
    """Return ``x.data_ptr()``, 0 where nothing is stored, or None for tensors without storage, such as torch.func's."""
    try:
        return x.data_ptr()
    except RuntimeError:
        return None


def together(x: Tensor, y: Tensor) -> bool:
    """Check whether two tensors are on one device; "cpu" and "cpu:0" are the same."""
    return x.device == y.device or x.device.type == y.device.type == "cpu"


def watched() -> bool:
    """Check whether operations are intercepted by a tracer, a fake tensor mode or a transform of torch.func."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._ops._len_torch_dispatch_stack_pre_dispatch()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Compute constants on the CPU that do not depend on the caller's modes, device and hooks."""
    own = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)  # shields from the caller's hooks
    with torch.device("cpu"), torch.inference_mode(False), _disable_current_modes(), own:
        yield


def flat(x: Tensor) -> tuple[Tensor, torch.memory_format]:
    """View x as [numel] in memory order.

    Returns:
        The vector, without a copy if x is contiguous or channels_last, and x's memory format.
    """
    for layout, dims in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if x.dim() == dims and x.is_contiguous(memory_format=layout):
            return x.as_strided((x.numel(),), (1,)), layout
    return x.contiguous().view(-1), torch.contiguous_format


def unflat(vector: Tensor, shape: torch.Size, layout: torch.memory_format) -> Tensor:
    """View [numel] as a tensor of this shape and memory format, the inverse of `flat`."""
    if layout is torch.contiguous_format:
        return vector.view(shape)
    order = (0, 2, 3, 1) if len(shape) == 4 else (0, 2, 3, 4, 1)
    back = (0, 3, 1, 2) if len(shape) == 4 else (0, 4, 1, 2, 3)
    return vector.view([shape[d] for d in order]).permute(back)
