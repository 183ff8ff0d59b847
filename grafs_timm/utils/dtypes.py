"""Which dtypes an activation takes, and the error for others."""

from __future__ import annotations

from typing import NoReturn

import torch
import torch.nn.functional as F

from ..errors import TensorError

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # what everything here was written for


def refuse(what: str, dtype: torch.dtype, device: torch.device) -> NoReturn:
    """Raise the TensorError for a tensor of a dtype that is not in ``DTYPES``, with the words that GELU has for it."""
    known = ", ".join(str(one).removeprefix("torch.") for one in DTYPES)
    try:
        F.gelu(torch.empty(1, dtype=dtype, device=device))
        said = ""
    except NotImplementedError as error:
        said = f" ({str(error).splitlines()[0][:120]})"
    except RuntimeError:  # one of torch's own assertions, which would help nobody
        said = ""
    raise TensorError(f"{what} takes floating point tensors ({known}), got {dtype}{said}: convert it with x.float() first")
