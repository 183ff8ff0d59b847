"""Text -> tokens on the device -> windows of tokens, for language models.

`load_text` reads files or shards, tokenises them and holds out a tail; `TextBatches` draws windows from one part: random ones
to train on, consecutive ones to measure. What is drawn depends on (seed, epoch, step) alone, as for images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..config.settings import Text
from ..errors import DataError
from . import tokens as tokenizing
from .draws import WINDOWS, seeded
from .text_source import Parts, read_parts
from .tokens import BytePairs, Bytes, Tokenizer


@dataclass(frozen=True)
class TextSet:
    """One part of a text on one device: ``tokens`` int64 [N], each below ``vocab_size``; ``num_bytes`` the text's length.

    A loss in nats per token times N / ``num_bytes`` is one in nats per byte, which vocabularies can be compared by.
    ``name`` says in messages what this is, ``notices`` what was done to make it, a line each, for the caller to say.
    """

    tokens: Tensor
    vocab_size: int
    num_bytes: int
    name: str = "the text"
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: str | torch.device) -> TextSet:
        return replace(self, tokens=self.tokens.to(device))

    def split(self, fraction: float) -> tuple[TextSet, TextSet]:
        """(weights part, architecture part): the first ``fraction`` of the tokens, and the rest. No window reaches over.

        ``num_bytes`` is divided in the same proportion. DataError for a fraction that leaves a part empty.
        """
        at = round(fraction * len(self)) if 0 < fraction < 1 else 0
        if not 0 < at < len(self):
            raise DataError(f"{self.name}: {len(self)} tokens can't be split at the fraction {fraction}; both parts need some")
        size = round(self.num_bytes * at / len(self))
        parts = ((self.tokens[:at], size), (self.tokens[at:], self.num_bytes - size))
        first, second = (replace(self, tokens=part, num_bytes=count) for part, count in parts)
        return first, second


@dataclass(frozen=True)
class TextParts:
    """The parts of a text, which never overlap, and the tokenizer they share."""

    train: TextSet
    validation: TextSet
    test: TextSet
    tokenizer: Tokenizer

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def notices(self) -> tuple[str, ...]:
        return self.train.notices


def load_text(
    name: str | Path | Sequence[str | Path],
    how: Text | None = None,
    device: str | torch.device = "cpu",
    *,
    train_split: str = "train",
    test_split: str = "test",
    save_vocabulary: str | Path | None = None,
) -> TextParts:
    """Read, tokenise and part the text ``name``: .txt or .txt.gz files (in order, or joined by ``::``), or shards of KEY.txt.

    ``how`` is a recipe's ``data.text`` (bytes by default). Byte pairs without a vocabulary file are learnt from the training
    part alone, which a notice says, and written to ``save_vocabulary`` if given. Every part must fill one window.

    Errors as `text_source.read_parts`; DataError for a vocabulary file that can't be read or is larger than
    ``how.vocab_size``, and for a part that is shorter than the context; GrafsError where the tokenizers library is missing.
    """
    how = how or Text()
    tokenizing.check_name(how.tokenizer)
    if save_vocabulary is not None and (how.tokenizer != "bpe" or how.vocabulary):
        raise DataError("save_vocabulary is for byte pairs that are learnt here: tokenizer: bpe without a vocabulary file")
    parts = read_parts(name, how.held_out, train_split, test_split)
    tokenizer, notices = _tokenizer(parts, how)
    if save_vocabulary is not None and isinstance(tokenizer, BytePairs):
        tokenizer.save(save_vocabulary)
        notices += (f"vocabulary written to {save_vocabulary}",)
    made = {}
    for part in ("train", "validation", "test"):
        content: bytes = getattr(parts, part)
        tokens = torch.from_numpy(tokenizer.encode(content)).to(device)
        made[part] = TextSet(tokens, tokenizer.vocab_size, len(content), f"{parts.name}, {part} part", notices)
        _windows(made[part], how.context)
    return TextParts(**made, tokenizer=tokenizer)


def _tokenizer(parts: Parts, how: Text) -> tuple[Tokenizer, tuple[str, ...]]:
    if how.tokenizer == "bytes":
        return Bytes(), ()
    if how.vocabulary:
        found = tokenizing.read(how.vocabulary)
        if found.vocab_size > how.vocab_size:
            allowed = f"data.text.vocab_size allows {how.vocab_size}"
            raise DataError(f"{how.vocabulary}: a vocabulary of {found.vocab_size} tokens, {allowed}; say {found.vocab_size}")
        return found, ()
    found = tokenizing.learn(parts.train, how.vocab_size)
    few = "" if found.vocab_size == how.vocab_size else f" of {how.vocab_size} asked for: no more pairs recur"
    return found, (
        f"{parts.name}: no vocabulary file given; byte pairs learnt from the {len(parts.train)} bytes of the training part: "
        f"{found.vocab_size} tokens{few}",
    )


def _windows(textset: TextSet, context: int) -> int:
    """Consecutive windows in a part; each token but the first is predicted. DataError where there is none."""
    count = (len(textset) - 1) // context
    if count < 1:
        raise DataError(
            f"{textset.name}: {len(textset)} tokens are too few for one window of data.text.context={context}, which takes "
            f"{context + 1}; shorten the context, take more text, or another data.text.held_out"
        )
    return count


class TextBatches:
    """Windows of a `TextSet`, the same for the same (seed, epoch, step): (x int64 [B,T], y int64 [B,T]), y one token ahead.

    ``train``: every epoch parts the text anew into windows of ``context`` tokens, from a random start on, and takes them in
    random order; the last batch, were it short, is left out. Else consecutive windows from the first token on, none
    overlapping, the last batch as short as it comes; tokens at the end that fill no window are not measured.

    ``share`` (rank, of how many): in training each rank gets its equal part of every batch; else the windows are dealt out in
    turn, so that all ranks together see each once. DataError where the text fills no window or not one batch, or where batches
    do not divide into equal parts.
    """

    def __init__(
        self,
        textset: TextSet,
        batch_size: int,
        *,
        context: int,
        seed: int = 0,
        train: bool = True,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        rank, ranks = share
        windows = _windows(textset, context)
        if train and batch_size % ranks:
            raise DataError(f"batches of {batch_size} do not divide into {ranks} equal parts")
        if train:  # one fewer, unless it is the only one, leaves room for every random start
            windows = max((len(textset) - context) // context, 1)
        if batch_size < 1 or (train and windows < batch_size):
            raise DataError(f"{textset.name}: {windows} windows of {context} tokens do not fill one batch of {batch_size}")
        self.textset, self.batch_size, self.context, self.seed, self.train = textset, batch_size, context, seed, train
        self.windows, self.rank, self.ranks = windows, rank, ranks

    def __len__(self) -> int:
        """Batches in an epoch, of this rank's windows where they are only measured."""
        if self.train:
            return self.windows // self.batch_size
        return -(-len(range(self.rank, self.windows, self.ranks)) // self.batch_size)

    def starts(self, epoch: int) -> Tensor:
        """int64 on the CPU: where an epoch's windows begin, in order, those of all ranks in training, else this rank's."""
        if not self.train:
            return torch.arange(self.rank, self.windows, self.ranks, device="cpu") * self.context
        generator = seeded(self.seed, epoch, 0, WINDOWS)
        room = min(self.context, len(self.textset) - self.windows * self.context)  # so many places for the first to begin at
        first = torch.randint(room, (), generator=generator, device="cpu")
        return first + torch.randperm(self.windows, generator=generator, device="cpu") * self.context

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(x [B,T], y [B,T]) of every step from ``start`` on; B is the rank's part of a batch."""
        tokens = self.textset.tokens
        starts = self.starts(epoch).to(tokens.device)
        within = torch.arange(self.context + 1, device=tokens.device)
        part = self.batch_size // self.ranks if self.train else self.batch_size
        for step in range(start, len(self)):
            begin = step * self.batch_size + (self.rank * part if self.train else 0)
            windows = tokens[starts[begin : begin + part, None] + within]
            yield windows[:, :-1], windows[:, 1:]
