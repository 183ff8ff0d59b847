"""Keep the ledger of a campaign: a JSON line for each finished search and training, in files that are only ever added to.

A ledger is the set of lines in all ``*.jsonl`` files of one folder, ``zoo/<family>/evidence/<campaign>/``:

recipe.yaml         the campaign's recipe, resolved             activations.json   what it was given to train, as data
<what>.<id>.jsonl   one line each, named after what it holds    ledger.jsonl       all lines of a closed one, ordered by key
recipes/*.yaml      further recipes that lines were made by     cost.csv           timings beside GELU; may be missing

A line's *key* says what was run; the same key again is a *repetition* and is kept. New lines come as new files named by key
and content, so two ledgers that diverged hold no file of one name with two contents: ``git merge`` and ``Campaign.merge``
give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ..activations.genotype import Genotype
from ..config.schema import Recipe
from ..errors import GrafsError, RunError
from ..utils import strict_json
from ..utils.files import write_whole
from ..utils.schema import Listed, Part
from .results import Place

FORMAT = "grafs-ledger/1"
_LARGEST = 64 * 2**20  # bytes of one file
_MOST_FILES = 20_000


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]
Text = Annotated[str, Field(min_length=1, max_length=300)]
Texts = Annotated[dict[Label, Text], Field(max_length=30)]


class Line(Part):
    """One finished search or training.

    Args:
        recipe: sha256 of the resolved recipe that it ran by, reduced to what it depends on.
        function: the genotype's sha256, or the timm name of an activation without one; of a search "search".
        genotype: what a search found, or what was trained.
        model: label of the model.
        data: label of the data set.
        seed: of the run.
        split: what was measured; "both" for the held-out data and the test split.
        log: an entry for each epoch: accuracies in per cent, losses in nats, seconds of the epoch (a search: since its begin).
        held_out: a search's figures of the discretised function.
        date: of the end, in UTC.
    """

    format: Literal["grafs-ledger/1"]
    kind: Literal["search", "training"]
    key: Sha256
    recipe: Sha256
    function: Annotated[str, Field(pattern=r"^([0-9a-f]{64}|[a-z0-9_]{1,60})$")]
    genotype: dict[str, Any] | None
    model: Label
    data: Label
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    split: Literal["test", "validation", "both", "architecture"]
    log: Annotated[tuple[dict[Label, float | int | str], ...], Listed, Field(min_length=1, max_length=100_000)]
    held_out: dict[Label, float | int | str]
    hardware: Texts
    versions: Texts
    commit: Text
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    sha256: Sha256

    def own_key(self) -> str:
        """Return the key that the other fields give."""
        return key(self.kind, self.recipe, self.function, self.model, self.data, self.seed, self.split)

    def text(self) -> str:
        """Return the line as it is in a file, with its end."""
        return _canonical(self.model_dump(mode="json")) + "\n"

    @property
    def result(self) -> str:
        """Return what two lines of one key must share to be the same result: log without seconds, found function, figures."""
        log = [{name: value for name, value in each.items() if name != "seconds"} for each in self.log]
        return _canonical([log, self.held_out, self.genotype])

    @property
    def file_name(self) -> str:
        """Return the name of the file that holds this line alone."""
        short = self.function[:8] if len(self.function) == 64 else self.function
        what = f"{self.model}.{self.data}.s{self.seed}.{short}"
        return f"{what}.{self.key[:8]}-{self.sha256[:12]}.jsonl"

    @property
    def order(self) -> tuple[str, str, str]:
        """Return the sorting key: by key, of one key the earliest first."""
        return self.key, self.date, self.sha256


def key(kind: str, recipe: str, function: str, model: str, data: str, seed: int, split: str) -> str:
    """Return what a run is known by on any machine: the sha256 of these fields of its line.

    Args:
        kind: "search" or "training".
        recipe: sha256.
        function: sha256 or name.
        model: label.
        data: label.
        seed: of the run.
        split: what was measured.

    >>> key("training", "0" * 64, "relu", "cifar_resnet20", "cifar10", 0, "test")[:8]
    '6d1e5eed'
    """
    return hashlib.sha256(_canonical([kind, recipe, function, model, data, seed, split]).encode()).hexdigest()


@dataclass(frozen=True)
class Job:
    """One search or training of a campaign, which its ledger may get a line of.

    Args:
        kind: "search" or "training".
        label: of the activation; of a search its seed, and the variant that it is of.
        genotype: None for timm's own activations and for searches.
        function: sha256 or name, as in the lines of the ledger.
        model: label of the model.
        data: label of the data set.
        seed: of the search or the training.
        recipe: reduced to what the run depends on.
        split: what is measured.
    """

    kind: Literal["search", "training"]
    label: str
    genotype: Genotype | None
    function: str
    model: str
    data: str
    seed: int
    recipe: Recipe
    split: str

    @property
    def key(self) -> str:
        return key(self.kind, self.recipe.sha256, self.function, self.model, self.data, self.seed, self.split)

    @property
    def place(self) -> Place:
        return Place(self.model, self.data)

    def __str__(self) -> str:
        return f"search {self.label}" if self.kind == "search" else f"{self.label}, {self.place}, seed {self.seed}"


def made(**fields: Any) -> Line:
    """Make a line of these fields, with its format, key and sha256.

    Raises:
        RunError: naming the field that does not fit.
    """
    asked = {name: fields[name] for name in ("kind", "recipe", "function", "model", "data", "seed", "split")}
    line = _checked({"format": FORMAT, "key": key(**asked), **fields, "sha256": "0" * 64}, "the new line")
    return line.model_copy(update={"sha256": _sha256(line.model_dump(mode="json"))})


@dataclass(frozen=True)
class Ledger:
    """The lines of a campaign's folder.

    Args:
        folder: where they are.
        lines: ordered by key.
        places: in which file and line each one is, by its sha256.
    """

    folder: Path
    lines: tuple[Line, ...]
    places: Mapping[str, str]

    @classmethod
    def read(cls, folder: str | Path) -> Ledger:
        """Read every line in ``folder``; one that is in two files counts once. An empty folder is an empty ledger.

        Raises:
            RunError: naming file and line, for one that is cut short, damaged, edited, of a newer format, or whose key does not
                fit; or where ``folder`` is a file.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; a ledger is a folder of .jsonl files")
        found, places = dict[str, Line](), dict[str, str]()
        files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
        if len(files) > _MOST_FILES:
            raise RunError(f"{folder} holds {len(files)} files; a ledger has {_MOST_FILES} at most")
        for file in files:
            for number, line in enumerate(_lines(file), 1):
                found.setdefault(line.sha256, line)
                places.setdefault(line.sha256, f"{file}, line {number}")
        return cls(folder, tuple(sorted(found.values(), key=lambda line: line.order)), places)

    def first(self) -> dict[str, Line]:
        """Return the line that counts of each key: the earliest."""
        found: dict[str, Line] = {}
        for line in self.lines:
            found.setdefault(line.key, line)
        return found

    def repetitions(self) -> dict[str, list[Line]]:
        """Return the later lines of each key, whether their results are equal to the first one's or not."""
        first, found = self.first(), dict[str, list[Line]]()
        for line in self.lines:
            if line is not first[line.key]:
                found.setdefault(line.key, []).append(line)
        return found

    def only(self, sha256s: Iterable[str]) -> Ledger:
        """Return the ledger as it was when it held these lines alone.

        Args:
            sha256s: ids, as `ids` gives them.

        Raises:
            RunError: where one of them is missing.
        """
        wanted, there = set(sha256s), {line.sha256: line for line in self.lines}
        short = {each[:_SHORT]: each for each in there}
        missing = sorted(each for each in wanted if each not in short)
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise RunError(f"{self.folder}: the line {missing[0]}{more} is missing or was changed")
        return Ledger(self.folder, tuple(line for line in self.lines if line.sha256[:_SHORT] in wanted), self.places)

    def ids(self) -> tuple[str, ...]:
        """Return the ids by which `only` finds these lines again."""
        return tuple(sorted(line.sha256[:_SHORT] for line in self.lines))

    def where(self, line: Line) -> str:
        """Return the file and line of ``line``."""
        return self.places.get(line.sha256, str(self.folder))


_SHORT = 16  # of a sha256's 64 digits: enough to name a line within a campaign


def add(folder: str | Path, lines: Sequence[Line]) -> list[Path]:
    """Write each line that ``folder`` lacks as a file of its own, whole or not at all.

    Args:
        folder: the ledger.
        lines: to add.

    Returns:
        The files written.

    Raises:
        RunError: where the disk refuses; what was there is unchanged.
    """
    folder, written = Path(folder), []
    for line in lines:
        path = folder / line.file_name
        if not path.exists():
            written.append(write_whole(path, line.text()))
    return written


def unite(lines: Iterable[Line]) -> str:
    """Return the content of one file with all of ``lines``, ordered by key, as a closed ledger is kept."""
    return "".join(line.text() for line in sorted({line.sha256: line for line in lines}.values(), key=lambda line: line.order))


_ADVICE = "restore the file from git, or remove it and collect again"


def _lines(file: Path) -> list[Line]:
    try:
        if file.stat().st_size > _LARGEST:
            raise RunError(f"{file} is larger than {_LARGEST // 2**20} MB: no ledger")
        content = file.read_bytes()
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}") from error
    parts = content.split(b"\n")
    if parts.pop() != b"":
        raise RunError(f"{file}, line {len(parts) + 1} is cut short: {_ADVICE}")
    if not parts:  # adding the line would find the file there and skip it
        raise RunError(f"{file} holds no line: {_ADVICE}")
    return [_line(part, f"{file}, line {number}") for number, part in enumerate(parts, 1)]


def _line(content: bytes, where: str) -> Line:
    try:
        data = strict_json.parse(content)
        _canonical(data).encode()  # ValueError for half a surrogate pair, which has no bytes to hash
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where} is damaged: {error}") from None
    if not isinstance(data, dict):
        raise RunError(f"{where} is damaged: expected an object, got {type(data).__name__}")
    number = re.fullmatch(r"grafs-ledger/(\d{1,4})", str(data.get("format")))
    if number and int(number[1]) > 1:
        raise RunError(f"{where} is of the newer format {data['format']}; this grafs-timm reads {FORMAT}: update it")
    line = _checked(data, where)
    if line.own_key() != line.key:
        raise RunError(
            f"{where}: key: the line says {line.key[:12]}…, its recipe, function, place and seed give another: edited"
        )
    if _sha256(data) != line.sha256:
        raise RunError(f"{where}: sha256: the line says {line.sha256[:12]}…, its fields give another: a figure was edited")
    return line


def _checked(data: Mapping[str, Any], where: str) -> Line:
    try:
        line = Line.model_validate(data)
        if line.genotype is not None:
            genotype = Genotype.from_dict(line.genotype, "genotype", derived=False)
            if line.kind == "training" and genotype.sha256 != line.function:
                raise RunError(
                    f"{where}: function: {line.function[:12]}…, and the genotype's own sha256 is {genotype.sha256[:12]}…"
                )
        elif line.kind == "search" or len(line.function) == 64:
            raise RunError(f"{where}: genotype: missing")
        _check_figures(line, where)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part)[:60] for part in first["loc"]) or "the line"
        raise RunError(f"{where}: {place}: {first['msg']}, got {str(first.get('input'))[:60]!r}") from None
    except GrafsError as error:
        raise error if isinstance(error, RunError) else RunError(f"{where}: {error}") from None
    return line


_MEASURED = {"both": ("test", "validation"), "test": ("test",), "validation": ("validation",), "architecture": ()}
_NO_NUMBERS = ("nan", "inf", "-inf")  # texts that stand for what JSON has no number for


def _check_figures(line: Line, where: str) -> None:
    """RunError where a figure that is read of such a line is missing, or is no number."""
    search = line.kind == "search"
    for what, own, of_a_search in (("function", line.function, "search"), ("split", line.split, "architecture")):
        if (own == of_a_search) != search:
            raise RunError(f"{where}: {what}: {own[:12]!r} of a {line.kind}")
    last = f"log.{len(line.log) - 1}"
    wanted = [("held_out", "accuracy")] if search else []
    wanted += [(last, f"{split}_{name}") for split in _MEASURED[line.split] for name in ("accuracy", "loss")]
    figures = {f"log.{number}": each for number, each in enumerate(line.log)} | {"held_out": line.held_out}
    for place, name in wanted:
        if name not in figures[place]:
            raise RunError(f"{where}: {place}.{name}: missing")
    for place, values in figures.items():
        for name, value in values.items():
            if isinstance(value, str) and name != "formula" and value not in _NO_NUMBERS:
                raise RunError(f"{where}: {place}.{name}: no number, got {value[:60]!r}")


def _sha256(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical({name: value for name, value in data.items() if name != "sha256"}).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
