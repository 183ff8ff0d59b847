"""Images and text: data sets, shards, batches, augmentation, packing and checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import names_from

if TYPE_CHECKING:
    from .datasets import open_dataset as open_dataset
    from .images import Batches as Batches
    from .images import ImageSet as ImageSet
    from .images import load_split as load_split
    from .info import DatasetInfo as DatasetInfo
    from .streaming import Stream as Stream
    from .text import TextBatches as TextBatches
    from .text import TextSet as TextSet
    from .text import load_text as load_text

__getattr__, __dir__, __all__ = names_from(
    __name__,
    {
        "datasets": "open_dataset",
        "images": "Batches ImageSet load_split",
        "info": "DatasetInfo",
        "streaming": "Stream",
        "text": "TextBatches TextSet load_text",
    },
)
