"""What goes wrong where the platform meets the outside world, a family of errors each. All of them are ValueErrors: a
message of a sentence for the user, and never a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class BoundaryError(ValueError):
    """Something outside this process did not hold what was expected of it."""


class RegistryError(BoundaryError):
    """MLflow's store is locked, damaged, away, or of another version."""


class StorageError(BoundaryError):
    """A disk or a bucket is full, read-only, away, or doesn't hold what was written to it."""


class CheckpointError(BoundaryError):
    """A run folder is not what its manifest says, or no run at all."""


class NetworkError(BoundaryError):
    """A server doesn't answer, or not as agreed."""


@contextmanager
def at_boundary(family: type[BoundaryError], what: str, *caught: type[Exception]) -> Iterator[None]:
    """Raise what a library raises as one of `family`, which begins with `what`: a name of what was read or written.
    An error of ours that comes through keeps its own words."""
    try:
        yield
    except BoundaryError:
        raise
    except caught as error:
        text = str(error).strip().splitlines()
        raise family(f"{what}: {text[0] if text else type(error).__name__}") from error
