"""Convert UTF-8 text to token numbers and back, by bytes or by byte pairs (Sennrich et al. 2016).

Byte pairs are GPT-2's: learnt within words over the 256 bytes, so that decoding restores any text. ``<|endoftext|>`` is one
token. The tokenizers library, which learns and applies them, is imported only for them.
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
_PIECE = 1 << 20  # bytes tokenised at a time; no token spans two pieces
_LARGEST = 64 << 20  # bytes of a vocabulary file


class Tokenizer(Protocol):
    """A vocabulary of ``vocab_size`` tokens, numbered from 0."""

    vocab_size: int

    def encode(self, content: bytes) -> NDArray[np.int64]:
        """Return the token numbers of UTF-8 text, int64 [N]."""
        ...

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Return the UTF-8 text of token numbers."""
        ...


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
        """Write the vocabulary as JSON, for ``data.text.vocabulary``. RunError if it cannot be written."""
        return write_whole(path, self.text)


def check_name(name: str) -> None:
    """Raise UnknownNameError, with the nearest, for a name that is not a tokenizer's."""
    if name not in NAMES:
        raise UnknownNameError(f"no tokenizer {name!r}{nearest(name, NAMES)}; the tokenizers: {', '.join(NAMES)}")


def learn(content: bytes, vocab_size: int) -> BytePairs:
    """Learn byte pairs from UTF-8 text; the same text gives the same vocabulary.

    Args:
        content: The text.
        vocab_size: The most tokens to learn; fewer if no more pairs recur.

    Raises:
        DataError: ``vocab_size`` is below 257.
        GrafsError: The tokenizers library is missing.
    """
    if vocab_size < 257:
        raise DataError(
            f"byte pairs begin with the 256 bytes and {END}, so the vocabulary must have 257 tokens or more, got {vocab_size}"
        )
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
    """Read a vocabulary file. DataError, naming it, if it is missing, too large or not one of the tokenizers library."""
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST:
            raise DataError(f"{file}: {file.stat().st_size} bytes are too many for a vocabulary (at most {_LARGEST})")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file}: the vocabulary cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a vocabulary: not UTF-8 at byte {error.start}") from None
    library = required("tokenizers", "gpt", "a tokenizer of byte pairs")
    try:
        found = BytePairs(library.Tokenizer.from_str(text))
    except Exception as error:  # the library raises plain Exception
        raise DataError(f"{file}: not a vocabulary of the tokenizers library (its tokenizer.json): {error}") from None
    if not found.vocab_size:
        raise DataError(f"{file}: a vocabulary without tokens")
    return found


def _pieces(content: bytes) -> Iterator[str]:
    """Yield the text in pieces that end with a line, so that memory stays bounded."""
    start = 0
    while start < len(content):
        end = len(content)
        if end - start > _PIECE:
            end = content.find(b"\n", start + _PIECE) + 1 or end
        yield content[start:end].decode()
        start = end
