"""Tokenizers: text as UTF-8 -> token numbers and back, by bytes or by byte pairs (Sennrich et al. 2016).

The byte pairs are GPT-2's: learnt within words, over the 256 bytes, so that any text comes back byte by byte. The mark
``<|endoftext|>`` is one token. They are learnt and applied by the tokenizers library, which is imported only for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, UnknownNameError
from ..utils.files import write_whole
from ..utils.optional import required
from ..utils.suggest import nearest

END = "<|endoftext|>"
NAMES = ("bytes", "bpe")
_PIECE = 1 << 20  # bytes that are tokenised at a time; no token spans two pieces
_LARGEST = 64 << 20  # bytes of a vocabulary file


class Tokenizer(Protocol):
    """``vocab_size`` tokens, numbered from 0."""

    vocab_size: int

    def encode(self, content: bytes) -> NDArray[np.int64]:
        """UTF-8 text -> token numbers [N]."""
        ...

    def decode(self, tokens: Iterable[int]) -> bytes: ...


class Bytes:
    """Each byte is its own token."""

    vocab_size = 256

    def encode(self, content: bytes) -> NDArray[np.int64]:
        return np.frombuffer(content, np.uint8).astype(np.int64)

    def decode(self, tokens: Iterable[int]) -> bytes:
        return bytes(tokens)


class BytePairs:
    """A vocabulary of the tokenizers library; ``text`` is its JSON."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.vocab_size: int = tokenizer.get_vocab_size()

    @property
    def text(self) -> str:
        return str(self._tokenizer.to_str(pretty=True)) + "\n"

    def encode(self, content: bytes) -> NDArray[np.int64]:
        found = [np.array(self._tokenizer.encode(piece).ids, np.int64) for piece in _pieces(content)]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def decode(self, tokens: Iterable[int]) -> bytes:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False)).encode()

    def save(self, path: str | Path) -> Path:
        """Write the vocabulary as JSON, whole, for ``data.text.vocabulary``. RunError where it can't be written."""
        return write_whole(path, self.text)


def check_name(name: str) -> None:
    """UnknownNameError, with the nearest, for no tokenizer's name."""
    if name not in NAMES:
        raise UnknownNameError(f"no tokenizer {name!r}{nearest(name, NAMES)}; the tokenizers: {', '.join(NAMES)}")


def learn(content: bytes, vocab_size: int) -> BytePairs:
    """Byte pairs learnt from UTF-8 text: ``vocab_size`` tokens at most, fewer where the text has no more pairs that recur.

    The same text makes the same vocabulary.
    """
    if vocab_size < 257:
        raise DataError(f"byte pairs begin with the 256 bytes and {END}: a vocabulary of 257 tokens or more, got {vocab_size}")
    library = required("tokenizers", "gpt", "a tokenizer of byte pairs")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=[END], show_progress=False,
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator((part for piece in _pieces(content) for part in piece.split(END)), trainer)
    return BytePairs(tokenizer)


def read(path: str | Path) -> BytePairs:
    """The vocabulary in a file. DataError, naming it, where it is missing, too large or none that the library knows."""
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST:
            raise DataError(f"{file}: {file.stat().st_size} bytes are too many for a vocabulary (at most {_LARGEST})")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file}: the vocabulary cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: no vocabulary: not UTF-8 at byte {error.start}") from None
    library = required("tokenizers", "gpt", "a tokenizer of byte pairs")
    try:
        found = BytePairs(library.Tokenizer.from_str(text))
    except Exception as error:  # the library raises plain Exception
        raise DataError(f"{file}: no vocabulary of the tokenizers library (its tokenizer.json): {error}") from None
    if not found.vocab_size:
        raise DataError(f"{file}: a vocabulary without tokens")
    return found


def _pieces(content: bytes) -> Iterator[str]:
    """The text in pieces of some size that end with a line, so that memory stays in bounds."""
    start = 0
    while start < len(content):
        end = len(content)
        if end - start > _PIECE:
            end = content.find(b"\n", start + _PIECE) + 1 or end
        yield content[start:end].decode()
        start = end
