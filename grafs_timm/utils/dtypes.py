"""List the dtypes that activations take, and raise the error for others."""

from __future__ import annotations

from typing import NoReturn

import torch
import torch.nn.functional as F

from ..errors import TensorError

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def refuse(what: str, dtype: torch.dtype, device: torch.device) -> NoReturn:
    """Raise TensorError for a dtype that is not in ``DTYPES``, with the message that torch's GELU has for it."""
    known = ", ".join(str(one).removeprefix("torch.") for one in DTYPES)
    try:
        F.gelu(torch.empty(1, dtype=dtype, device=device))
        said = ""
    except NotImplementedError as error:
        said = f" ({str(error).splitlines()[0][:120]})"
    except RuntimeError:  # an internal assertion of torch, which would not help
        said = ""
    raise TensorError(f"{what} takes floating point tensors ({known}), got {dtype}{said}: convert it with x.float() first")
