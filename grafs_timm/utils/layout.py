"""A tensor of any memory format as a vector in the order of its memory, and back: elementwise work needs no copy.

Also which tensors have such a memory at all: a loop that is given an address believes whatever lies there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes


def in_memory(x: Tensor) -> bool:
    """Whether the numbers of x are those at ``x.data_ptr()``, by its shape and strides.

    They are not for subclasses, sparse and nested tensors, tensors of torch.func's transforms, views that stand for their own
    negative, the zeros that autograd does not store, and tensors whose storage is gone, is elsewhere or begins within a number.
    """
    if type(x) not in (Tensor, nn.Parameter) or x.layout is not torch.strided or x.is_nested or x.is_neg():
        return False
    address = _address(x)
    return address is not None and (not x.numel() or (address != 0 and address % x.element_size() == 0))


def is_freed(x: Tensor) -> bool:
    """Whether x is a plain tensor whose storage was given back: some of torch's operations read it all the same, and crash."""
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
    except (RuntimeError, NotImplementedError):  # it never had one
        return False


def _address(x: Tensor) -> int | None:
    """``x.data_ptr()``, 0 where nothing is stored; None for what has no storage, such as tensors of torch.func's transforms."""
    try:
        return x.data_ptr()
    except RuntimeError:
        return None


def together(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors lie on one device; a CPU's may have a number or none."""
    return x.device == y.device or x.device.type == y.device.type == "cpu"


def watched() -> bool:
    """Whether torch hands every operation to someone else first: a tracer, a fake tensor mode, a transform of torch.func."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._ops._len_torch_dispatch_stack_pre_dispatch()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Compute constants, on the CPU and of given dtypes, that are the same wherever they are first asked for."""
    own = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)  # the caller's hooks are for its own tensors
    with torch.device("cpu"), torch.inference_mode(False), _disable_current_modes(), own:
        yield


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
