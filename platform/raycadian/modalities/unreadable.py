"""What can't be read of a data set: left out, counted and named, unless it is so much that the card must be wrong."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from raycadian.modalities.guesses import how_to_set
from raycadian.types import Issues

FILE = "file that can't be read (left out)"
SUBJECT = "subject that can't be read (left out)"
log = logging.getLogger(__name__)


@dataclass
class Unreadable:
    """Files and subjects that can't be read. `most`: the card's `most_unreadable`, a share from which on it is an
    error · `messages`: FILE or SUBJECT -> name -> what the reader says."""

    most: float
    messages: dict[str, dict[str, str]] = field(default_factory=dict)

    @contextmanager
    def leaving_out(self, kind: str, name: str, of: int) -> Iterator[None]:
        """A ValueError in here leaves one out, as `add` does."""
        try:
            yield
        except ValueError as error:
            self.add(kind, name, str(error), of)

    def add(self, kind: str, name: str, message: str, of: int) -> None:
        """Leave one out, of so many. Raises ValueError where too many of them can't be read."""
        own = self.messages.setdefault(kind, {})
        own[name] = message
        if len(own) >= self.most * of:
            raise ValueError(self._too_many(own, of))

    def _too_many(self, messages: dict[str, str], of: int) -> str:
        first = next(iter(messages.values()))
        if of == 1:
            return first
        fix = f"if the card is right, {how_to_set('most_unreadable', 1)} to leave out all that can't be read"
        return f"{first}; {len(messages)} of {of} can't be read: {fix if len(messages) < of else 'is the card right?'}"

    def note(self, issues: Issues) -> None:
        """Count what was left out, and warn."""
        for kind, messages in self.messages.items():
            for name, message in messages.items():
                issues.add(kind, message if name in message else f"{name}: {message}")
            log.warning("%d x %s, e.g. %s", len(messages), kind, next(iter(messages.values())))
