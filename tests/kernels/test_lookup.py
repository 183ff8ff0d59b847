"""Look-ups by bit pattern: the compiled loops are torch's own indexing, and refuse what they would misread."""

from __future__ import annotations

import pytest
import torch

from grafs_timm.errors import TensorError
from grafs_timm.kernels import lookup


@pytest.mark.parametrize("count", [0, 1, 7, 8, 63, 64, 65, 4097, 2**16 + 3])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bfloat16, torch.float16], ids=str)
def test_both_forms_are_indexing(dtype: torch.dtype, count: int) -> None:
    whole, entries = (torch.int16, 65536) if dtype.itemsize == 2 else (torch.uint8, 256)
    info = torch.iinfo(whole)
    x = torch.randint(info.min, info.max + 1, (count,), dtype=whole).view(dtype)
    table = torch.randint(info.min, info.max + 1, (entries,), dtype=whole)
    expected = table[(x.view(whole).long() + entries) % entries]
    assert torch.equal(lookup.compiled(x, table), expected)
    assert torch.equal(lookup.plain(x, table), expected)


@pytest.mark.parametrize("form", [lookup.compiled, lookup.plain])
def test_a_table_of_another_width_is_refused(form: object) -> None:
    for x, table in [
        (torch.zeros(3), torch.zeros(256, dtype=torch.uint8)),
        (torch.zeros(3, dtype=torch.float16), torch.zeros(256, dtype=torch.uint8)),
        (torch.zeros(3, dtype=torch.uint8), torch.zeros(255, dtype=torch.uint8)),
    ]:
        with pytest.raises(TensorError, match="256"):
            form(x, table)  # type: ignore[operator]


def test_a_strided_table_is_refused() -> None:
    with pytest.raises(TensorError, match="without gaps"):
        lookup.compiled(torch.zeros(3, dtype=torch.uint8), torch.zeros(512, dtype=torch.uint8)[::2])
