"""Define the errors that users see: each says what was wrong, where, and the nearest right value."""

DOCTOR = "grafs-timm doctor"  # the command that errors of the environment point to
_LONGEST = 2_000  # characters of a message's line


def shortened(text: str, most: int = 100) -> str:
    """Shorten a key or name for a message by leaving out its middle if it has more than ``most`` characters.

    >>> shortened("abcdefghijklmnop", most=8)
    'abcde…op'
    """
    return text if len(text) <= most else f"{text[: most * 2 // 3]}…{text[-most // 4 :]}"


def first_line(error: BaseException) -> str:
    """Return another library's error message on one line, with the error's type where the message is only one word.

    >>> first_line(KeyError("fc"))
    "KeyError: 'fc'"
    """
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return text if " " in text else f"{type(error).__name__}: {text}"


class GrafsError(Exception):
    """Base of every error that is caused by the input. The command line prints it; long lines are shortened."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(_readable(each) if isinstance(each, str) else each for each in args))


def _readable(message: str) -> str:
    return "\n".join(shortened(line, _LONGEST) for line in message.split("\n"))


class GrafsWarning(UserWarning):
    """Category of this package's warnings. The command line prints them as notes."""


class MirrorWarning(GrafsWarning, RuntimeWarning):
    """A run is not mirrored in W&B, or only later."""


class GenotypeError(GrafsError, ValueError):
    """A genotype is invalid; names the file and the field."""


class ConstantError(GrafsError, ValueError):
    """A published activation has no such constant, or its value is not a finite number; names function and constant."""


class RecipeError(GrafsError, ValueError):
    """A recipe has an unknown key, a wrong type or an impossible value; names the file and the path of the key."""


class DataError(GrafsError, ValueError):
    """Data cannot be read or do not fit the task; names the folder, shard and sample."""


class UnreadableError(DataError):
    """An image cannot be read or is of a kind that is not supported; names it."""


class UnknownNameError(GrafsError, KeyError):
    """A model, activation or data set does not exist; names the nearest that do."""

    def __str__(self) -> str:  # KeyError shows the repr
        return str(self.args[0]) if self.args else ""


class TensorError(GrafsError, TypeError, NotImplementedError):
    """A tensor has a dtype, device or layout that an activation or a table does not support; names it."""


class WeightsError(GrafsError, ValueError):
    """Weights belong to another activation or model, or cannot be read; names both sides."""


class RunError(GrafsError, RuntimeError):
    """A run cannot continue: its folder belongs to another run, it diverged, or its files cannot be written."""


class TimmError(GrafsError, RuntimeError):
    """timm is too old, or keeps its activations elsewhere; names the supported versions."""


class SearchError(GrafsError, ValueError):
    """A search cannot use what it was given: a loss without gradient, another search's state, a model being searched."""
