"""Load text as tokens on the device, and draw windows of it for language models.

`load_text` reads files or shards, tokenises them and holds out the tail; `TextBatches` draws windows from one part: random ones
for training, consecutive ones for evaluation. As for images, each batch depends on (seed, epoch, step) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..config.schema import Text
from ..errors import DataError
from . import tokens as tokenizing
from .draws import WINDOWS, seeded
from .text_source import Parts, read_parts
from .tokens import BytePairs, Bytes, Tokenizer


@dataclass(frozen=True)
class TextSet:
    """One part of a text as tokens on one device.

    A loss in nats per token times N / ``num_bytes`` is in nats per byte, which is comparable between vocabularies.

    Args:
        tokens: int64 [N], each below ``vocab_size``.
        vocab_size: Tokens in the vocabulary.
        num_bytes: The text's length in UTF-8.
        name: What messages call the text.
        notices: How it was made, a line each, for the caller to report.

    >>> text = TextSet(torch.arange(100), vocab_size=256, num_bytes=100)
    >>> first, second = text.split(0.75)
    >>> len(first), second.tokens[0].item(), second.num_bytes
    (75, 75, 25)
    """

    tokens: Tensor
    vocab_size: int
    num_bytes: int
    name: str = "the text"
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: str | torch.device) -> TextSet:
        """Return the tokens on ``device``."""
        return replace(self, tokens=self.tokens.to(device))

    def split(self, fraction: float) -> tuple[TextSet, TextSet]:
        """Split into a weights part, the first ``fraction`` of the tokens, and an architecture part, the rest.

        ``num_bytes`` is divided in the same proportion.

        Raises:
            DataError: The fraction leaves a part empty.
        """
        at = round(fraction * len(self)) if 0 < fraction < 1 else 0
        if not 0 < at < len(self):
            raise DataError(f"{self.name}: {len(self)} tokens cannot be split at the fraction {fraction}; both parts need some")
        size = round(self.num_bytes * at / len(self))
        parts = ((self.tokens[:at], size), (self.tokens[at:], self.num_bytes - size))
        first, second = (replace(self, tokens=part, num_bytes=count) for part, count in parts)
        return first, second


@dataclass(frozen=True)
class TextParts:
    """The parts of a text, which never overlap, and their tokenizer."""

    train: TextSet
    validation: TextSet
    test: TextSet
    tokenizer: Tokenizer

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary."""
        return self.tokenizer.vocab_size

    @property
    def notices(self) -> tuple[str, ...]:
        """How the tokens were made, a line each."""
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
    """Read a text, tokenise it, and split it into training, validation and test part.

    Args:
        name: A .txt or .txt.gz file, several of them (a sequence, or joined by ``::``), or a data set of shards with KEY.txt.
        how: A recipe's ``data.text``; by default each byte is a token.
        device: Where the tokens are put.
        train_split: The split of a data set to train on.
        test_split: The split of a data set to report.
        save_vocabulary: Write byte pairs that are learnt here to this file. They are learnt from the training part alone,
            unless ``how.vocabulary`` names a file.

    Raises:
        UnknownNameError: There is no such file or data set.
        DataError: The text cannot be read (see `text_source.read_parts`), a part is shorter than one window, or the vocabulary
            file is invalid or larger than ``how.vocab_size``.
        GrafsError: The tokenizers library is missing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "story.txt")
    ...     _ = file.write_text("Once upon a time there was a needle. " * 30)
    ...     text = load_text(file, Text(context=16, held_out=0.2))
    >>> len(text.train), len(text.validation), len(text.test), text.vocab_size
    (888, 111, 111, 256)
    >>> text.tokenizer.decode(text.train.tokens[:4].tolist())
    b'Once'
    """
    how = how or Text()
    tokenizing.check_name(how.tokenizer)
    if save_vocabulary is not None and (how.tokenizer != "bpe" or how.vocabulary):
        raise DataError("save_vocabulary needs byte pairs that are learnt here: set tokenizer=bpe and no vocabulary file")
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
            raise DataError(
                f"{how.vocabulary}: a vocabulary of {found.vocab_size} tokens, {allowed}; set it to {found.vocab_size}"
            )
        return found, ()
    found = tokenizing.learn(parts.train, how.vocab_size)
    few = "" if found.vocab_size == how.vocab_size else f" of {how.vocab_size} asked for: no more pairs recur"
    return found, (
        f"{parts.name}: no vocabulary file given; byte pairs learnt from the {len(parts.train)} bytes of the training part: "
        f"{found.vocab_size} tokens{few}",
    )


def _windows(textset: TextSet, context: int) -> int:
    """Return the number of consecutive windows; every token but the first is predicted. DataError if there are none."""
    count = (len(textset) - 1) // context
    if count < 1:
        raise DataError(
            f"{textset.name}: {len(textset)} tokens are too few for one window of data.text.context={context}, which takes "
            f"{context + 1}; shorten the context, add text, or change data.text.held_out"
        )
    return count


class TextBatches:
    """Windows of a `TextSet`; each batch depends on (seed, epoch, step) alone.

    In training every epoch divides the text into windows from a random start and shuffles them; a smaller last batch is left
    out. In evaluation windows are consecutive from the first token, without overlap; a smaller last batch is kept, and tokens
    at the end that fill no window are not measured.

    Args:
        textset: The text to draw from.
        batch_size: Windows per batch: over all ranks in training, of each rank in evaluation.
        context: Tokens per window.
        seed: Determines starts and order.
        train: Whether to draw windows for training or for evaluation.
        share: This process's rank and the number of ranks. In training each gets an equal part of every batch; in evaluation
            the windows are dealt out in turn, so that all ranks together see each once.

    Raises:
        DataError: The text fills no window, or no batch in training, or batches do not divide equally.

    >>> text = TextSet(torch.arange(100), vocab_size=256, num_bytes=100)
    >>> for x, y in TextBatches(text, 2, context=40, train=False).epoch(0):
    ...     print(x.shape, x[:, 0].tolist(), y[:, 0].tolist())
    torch.Size([2, 40]) [0, 40] [1, 41]
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
        """Return the number of batches in an epoch; in evaluation of this rank's windows."""
        if self.train:
            return self.windows // self.batch_size
        return -(-len(range(self.rank, self.windows, self.ranks)) // self.batch_size)

    def starts(self, epoch: int) -> Tensor:
        """Return where an epoch's windows begin, in order, int64 on the CPU: of all ranks in training, else of this rank."""
        if not self.train:
            return torch.arange(self.rank, self.windows, self.ranks, device="cpu") * self.context
        generator = seeded(self.seed, epoch, 0, WINDOWS)
        room = min(self.context, len(self.textset) - self.windows * self.context)  # starts that the first window may have
        first = torch.randint(room, (), generator=generator, device="cpu")
        return first + torch.randperm(self.windows, generator=generator, device="cpu") * self.context

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (x, y), each int64 [B,T], y one token ahead, from step ``start`` on; B is the rank's part of a batch."""
        tokens = self.textset.tokens
        starts = self.starts(epoch).to(tokens.device)
        within = torch.arange(self.context + 1, device=tokens.device)
        part = self.batch_size // self.ranks if self.train else self.batch_size
        for step in range(start, len(self)):
            begin = step * self.batch_size + (self.rank * part if self.train else 0)
            windows = tokens[starts[begin : begin + part, None] + within]
            yield windows[:, :-1], windows[:, 1:]
