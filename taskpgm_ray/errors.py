"""Every exception that this package raises on purpose.

Each message says what was wrong, where (task, file, line, field) and what to do about it. The classes take their
message as the only argument, so that they cross Ray's process borders unchanged (exceptions are pickled there by
their ``args``).
"""

from collections.abc import Sequence


class TaskPGMError(Exception):
    """Base of all errors that a user of this package can act upon."""

    exit_code = 1
    """Of the command that it ends. 2 is a wrong usage, 128 and more an interruption."""


class Problems(TaskPGMError):
    """Several things are wrong; each line of the message is one of them, with the name of its class."""

    @property
    def lines(self) -> list[str]:
        """What is wrong, one entry for each."""
        return str(self).splitlines()

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # of several problems it is that of the first
        """That of the first of them."""
        kind = globals().get(str(self).partition(":")[0])
        return int(kind.exit_code) if isinstance(kind, type) and issubclass(kind, TaskPGMError) else 1


class ConfigError(TaskPGMError, ValueError):
    """A config field is unknown, of the wrong kind, or contradicts another field."""

    exit_code = 3


class InputError(TaskPGMError, ValueError):
    """An argument of a mathematical function has a wrong shape, sign or value."""

    exit_code = 4


class IndefiniteAffinityError(InputError):
    """An affinity matrix is indefinite on the simplex' tangent space, so the mixture is not well defined."""


class DataError(TaskPGMError):
    """A task source or an example cannot be used: names the task, the file and the line."""

    exit_code = 4


class ModelError(TaskPGMError):
    """The base model or an adapter cannot be loaded, or cannot be served by the engine."""


class StorageError(TaskPGMError):
    """An artifact cannot be read or written, or is damaged."""


class OutageError(StorageError):
    """The storage did not answer, is full, or refuses access: nobody's fault but its own, and it may pass."""


class MissingFileError(StorageError):
    """There is no such file."""


class DamagedFileError(StorageError):
    """A file is there and does not hold what it should."""


class StudyBusyError(StorageError):
    """Another driver works on the same study, or has taken it over."""

    exit_code = 6


class DamagedScoresError(StorageError):
    """Stored scores cannot be used. Raised and caught in the driver, which has them scored again."""

    def __init__(self, message: str, units: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.units = units
        """Paths of the damaged units in the study."""


class HubUnreachableError(ModelError):
    """What the hub holds is not known here: there is no network, or it is switched off."""


class ResourceError(TaskPGMError):
    """The cluster does not have, and did not get in time, what the config asks for."""

    exit_code = 5


class TrainingError(TaskPGMError):
    """A fine-tuning job failed for a reason that a retry would not remove."""


class MemoryLimitError(TrainingError):
    """A forward or backward pass did not fit into the memory of the device."""


class ScoringError(TaskPGMError):
    """An engine returned unusable log-probabilities, or could not be brought up."""


class InertAdapterError(ScoringError):
    """An adapter predicts exactly what the base model predicts: it was not applied, or learned nothing."""


class EvaluationError(TaskPGMError):
    """Evaluation data are unusable, or a split would be read that must not be read."""


def raise_all(found: Sequence[TaskPGMError]) -> None:
    """Raise what was found: nothing, the one error itself, or `Problems` with a line for each."""
    if len(found) == 1:
        raise found[0]
    if found:
        raise Problems("\n".join(line for error in found for line in _lines(error)))


def _lines(error: TaskPGMError) -> list[str]:
    if isinstance(error, Problems):
        return error.lines
    # Messages of other libraries have lines of their own; here a line is a problem.
    return [f"{type(error).__name__}: {' '.join(str(error).split())}"]
