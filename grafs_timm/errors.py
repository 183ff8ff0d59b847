"""Errors a user meets: each says what was wrong, where, and the nearest right value. The command line prints them."""

_LONGEST = 2_000  # characters of a line of a message


def shortened(text: str, most: int = 100) -> str:
    """``text`` with its middle left out where it is longer than ``most`` characters: a key or a name within a message."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]}…{text[-most // 4 :]}"


def first_line(error: BaseException) -> str:
    """What another library's error says, on one line; its kind where it says nothing, or no more than a key or a number."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return text if " " in text else f"{type(error).__name__}: {text}"


class GrafsError(Exception):
    """Base of every error that is the input's fault rather than the program's. Its lines are cut to what can be read."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(_readable(each) if isinstance(each, str) else each for each in args))


def _readable(message: str) -> str:
    return "\n".join(shortened(line, _LONGEST) for line in message.split("\n"))


class GrafsWarning(UserWarning):
    """Category of what this package tells without ending anything. The command line prints it as a note."""


class MirrorWarning(GrafsWarning, RuntimeWarning):
    """W&B is not shown a run, or only later."""


class GenotypeError(GrafsError, ValueError):
    """A genotype file or dict that is not one: names the file and the field."""


class RecipeError(GrafsError, ValueError):
    """A recipe with an unknown key, a wrong type or an impossible value: names the file and the path of the key."""


class DataError(GrafsError, ValueError):
    """Shards that cannot be read or do not fit the task: names the folder, shard and sample."""


class UnknownNameError(GrafsError, KeyError):
    """A model, activation or data set that does not exist: names the nearest that do."""

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0]) if self.args else ""


class TensorError(GrafsError, TypeError, NotImplementedError):
    """A tensor that an activation or a table was not written for: names its dtype, device or layout, as GELU refuses it."""


class WeightsError(GrafsError, ValueError):
    """Weights that another activation or another model was trained with, or that cannot be read: names both sides."""


class RunError(GrafsError, RuntimeError):
    """A run that cannot go on: its folder belongs to another run, it diverged, or its files cannot be written."""


class TimmError(GrafsError, RuntimeError):
    """A timm that is too old, or that keeps its activations elsewhere: names the versions that are supported."""


class SearchError(GrafsError, ValueError):
    """A search that was given what it cannot learn from: a loss without gradient, another search's state, a searched model."""
