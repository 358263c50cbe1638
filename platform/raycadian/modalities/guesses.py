"""What a file says of itself, and what has to be guessed or asked before it can be read without a card."""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from raycadian.config.schema import assignment


@dataclass(frozen=True)
class Guess:
    """A value of a card that nobody gave.

    name: dotted path in the card, e.g. columns.glucose · sure: what is in the file leaves no doubt; else it is an
    assumption that changes no reading, and is said · why: what tells it · how_to_change: on the command line
    """

    name: str
    value: Any
    sure: bool
    why: str
    how_to_change: str

    def __str__(self) -> str:
        value = "none" if self.value is None else self.value
        return f"{self.name}: {value} ({'' if self.sure else 'assumed: '}{self.why}); change: {self.how_to_change}"


@dataclass(frozen=True)
class Question:
    """A value of a card that can't be told from the file, and that results hang on: asked for, never taken silently."""

    name: str
    message: str
    """What is unclear, and what to add on the command line."""


@dataclass(frozen=True)
class Choice:
    """A value of a card, or none: how it was found, or what is unclear. `column`: of a table, the one that is meant."""

    column: str | None = None
    guess: Guess | None = None
    question: Question | None = None


@dataclass(frozen=True)
class Detection:
    """One file: its modality and format, the values of the card that it takes to read it, how each was found, and what
    has to be asked. `recordings`: whether there are any in it; a table of people has none."""

    modality: str
    format: str
    guesses: list[Guess] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    recordings: bool = True

    @staticmethod
    def of(modality: str, format: str, choices: Iterable[Choice], recordings: bool = True) -> "Detection":
        """What was chosen, in its order."""
        choices = list(choices)
        guesses = [choice.guess for choice in choices if choice.guess]
        return Detection(modality, format, guesses, [c.question for c in choices if c.question], recordings)


def given_by(card: Any) -> dict[str, Any]:
    """What a card says beside what is usual: dotted path -> value."""
    said: dict[str, Any] = {}
    for name, value in card.model_dump(mode="json", exclude_defaults=True).items():
        said[name] = value
        said |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {}
    return said


_SHORT = {"unit", "timezone", "subject", "modality", "format"}  # fields with an option of their own
Given = Mapping[str, Any]
"""What the user said: dotted path in the card -> value."""


def option(name: str, value: Any) -> str:
    """What to add on the command line to set a field of the card, as a shell takes it."""
    if name in _SHORT:
        return f"--{name} {shlex.quote(str(value))}"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=1000)
    text = text.removesuffix("...\n").strip()
    text = value if str(value).startswith("%") else text  # `--set` takes a format of times as it is
    return f"--set {shlex.quote(f'{name}={text}')}"


_ON_COMMAND_LINE = re.compile(
    r"--(set|unit|timezone|subject|format|modality|person|card|snapshots|runs|champion) "
    r"((?:'[^']*'|\"[^\"]*\"|[^\s'\",;:)`])+?)(?=[.,;:)`]*(?:\s|$))"
)


_RENAMED = {"champion": "run"}  # `load_forecaster` takes either


def in_python(text: str, but: Collection[str] = ()) -> str:
    """A message with its options as the arguments that the functions of `import raycadian` take; those of `but` are
    none of the function's and go into its settings."""
    return _ON_COMMAND_LINE.sub(lambda match: _argument(match[1], " ".join(shlex.split(match[2])), but), text)


def _argument(name: str, value: str, but: Collection[str]) -> str:
    if name != "set" and name not in but:
        return f'{_RENAMED.get(name, name)}="{value}"'
    path, value = assignment(value) if name == "set" else (name, value)
    return f"settings={{{path!r}: {value!r}}}"


def how_to_set(name: str, value: Any) -> str:
    """The same, for a message that readers of files give: whoever reads it has data files, or a card."""
    return f"add {option(name, value)} (in a card `{name}: {value}`)"
