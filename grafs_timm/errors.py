"""Errors a user meets: each says what was wrong, where, and the nearest right value. The command line prints them."""


class GrafsError(Exception):
    """Base of every error that is the input's fault rather than the program's."""


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
