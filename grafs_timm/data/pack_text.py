"""Pack a text file into webdataset shards of ``KEY.txt``, which `text.load_text` reads as it reads the file.

A sample is a story, where the text marks their ends by ``<|endoftext|>``, else some paragraphs. Each keeps what follows it, so
that the samples joined are the text byte by byte; they stay in its order, and the tail is what is held out.
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
from .pack import SHARD_SIZE, Shards, alone, check_free, check_sizes, even, shard_stem, written_beside
from .text_source import find_file, read_file
from .tokens import END

_STORY = re.compile(rf".*?{re.escape(END)}\s*|.+".encode(), re.DOTALL)
_PARAGRAPH = re.compile(rb".*?\n\s*\n|.+", re.DOTALL)
_LEAST = 1024  # bytes of paragraphs a sample: a tar spends as much on each


@dataclass(frozen=True)
class TextPacking:
    """``shard_size`` samples a shard at most; the last samples, ``hold_out`` of the text's bytes, become ``test`` (0: none)."""

    shard_size: int = SHARD_SIZE
    hold_out: float = 0.0


def pack_text(source: str, out: Path, how: TextPacking | None = None, quiet: bool = False) -> int:
    """Pack a .txt or .txt.gz file into the folder ``out``; returns the number of samples. The same text makes the same bytes.

    Errors of the file as `text_source.read_parts`; DataError for an ``out`` that isn't empty or a ``hold_out`` that leaves a
    part without a sample; RunError where ``out`` can't be written, which leaves it as it was.
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
                writer = Shards(folder, shard_stem(out, split), even(len(own), how.shard_size))
                for sample in tqdm(own, disable=quiet or None, unit="sample", desc=f"{out.name} {split}"):
                    writer.add(None, "txt", sample)
                infos[split] = writer.close(split)
            write_json(folder / "_info.json", {"name": out.name, "splits": infos})
            open_dataset(folder)  # what can't be opened is no data set
    return len(samples)


def parted(content: bytes) -> list[bytes]:
    """A text in samples, which joined are the text."""
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
