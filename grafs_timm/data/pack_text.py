"""Pack a text file into webdataset shards of ``KEY.txt``, which `text.load_text` reads as it reads the file.

A sample is a story if the text marks their ends by ``<|endoftext|>``, else some paragraphs. Joined, the samples are the text,
in its order; the tail is held out.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..errors import DataError
from ..utils.files import write_json
from .datasets import open_dataset
from .pack import SHARD_SIZE, alone, check_free, check_sizes, shard_stem, written_beside
from .shard_writer import Shards, even
from .text_source import find_file, read_file
from .tokens import END

_STORY = re.compile(rf".*?{re.escape(END)}\s*|.+".encode(), re.DOTALL)
_PARAGRAPH = re.compile(rb".*?\n\s*\n|.+", re.DOTALL)
_LEAST = 1024  # bytes of paragraphs per sample: a tar adds as much to each


@dataclass(frozen=True)
class TextPacking:
    """How to pack: at most ``shard_size`` samples per shard; the last ``hold_out`` of the text's bytes become ``test``."""

    shard_size: int = SHARD_SIZE
    hold_out: float = 0.0


def pack_text(source: str, out: Path, how: TextPacking | None = None, quiet: bool = False) -> int:
    """Pack a .txt or .txt.gz file; the same text gives the same bytes.

    Args:
        source: The file, its name below ``$GRAFS_TIMM_DATA``, or its URL.
        out: The folder to create.
        how: Size of the shards and of the test split.
        quiet: Show no progress bar.

    Returns:
        The number of samples.

    Raises:
        UnknownNameError: There is no such file.
        DataError: The text cannot be read, ``out`` is not empty, or ``hold_out`` leaves a split without samples.
        RunError: ``out`` cannot be written; it is left as it was.
    """
    how, out = how or TextPacking(), out.resolve()
    check_sizes(how.shard_size, how.hold_out, "sample")
    check_free(source, out)
    samples = parted(read_file(find_file(source)))
    splits = _splits(samples, how.hold_out, source)
    with alone(out):
        check_free(source, out)
        with written_beside(out) as folder:
            infos = {}
            for split, own in splits.items():
                with Shards(folder, shard_stem(out.name, split), even(len(own), how.shard_size)) as writer:
                    for sample in tqdm(own, disable=quiet or None, unit="sample", desc=f"{out.name} {split}"):
                        writer.add(None, "txt", sample)
                    infos[split] = writer.close(split)
            write_json(folder / "_info.json", {"name": out.name, "splits": infos})
            open_dataset(folder)  # checks that it can be opened
    return len(samples)


def parted(content: bytes) -> list[bytes]:
    """Divide a text into samples, which joined are the text."""
    if END.encode() in content:
        return _STORY.findall(content)
    samples, gathered = [], b""
    for paragraph in _PARAGRAPH.findall(content):
        gathered += paragraph
        if len(gathered) >= _LEAST:
            samples.append(gathered)
            gathered = b""
    return [*samples, gathered] if gathered else samples


def _splits(samples: list[bytes], hold_out: float, source: str) -> dict[str, list[bytes]]:
    if not hold_out:
        return {"train": samples}
    ends = list(itertools.accumulate(map(len, samples)))
    keep = sum(end <= (1 - hold_out) * ends[-1] for end in ends)
    if not 0 < keep < len(samples):
        raise DataError(f"{source}: {len(samples)} samples of which {hold_out} are held out leave one part empty")
    return {"train": samples[:keep], "test": samples[keep:]}
