"""Search spaces of a sweep."""

from pathlib import Path
from typing import Any, Union

from pydantic import Field, model_validator

from raycadian.config.schema import Schema, parse, read_yaml


class Choice(Schema):
    choice: tuple[Any, ...] = Field(min_length=1)


class Range(Schema):
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class Uniform(Schema):
    uniform: Range


class LogUniform(Schema):
    loguniform: Range

    @model_validator(mode="after")
    def _positive(self) -> "LogUniform":
        if self.loguniform.low <= 0:
            raise ValueError(f"loguniform needs low > 0; found {self.loguniform.low}")
        return self


class RandInt(Schema):
    randint: Range
    """Integers low..high, both included."""


Distribution = Union[Choice, Uniform, LogUniform, RandInt]


class SearchSpace(Schema):
    """dotted.path of a recipe: distribution."""

    description: str = ""
    parameters: dict[str, Distribution] = Field(min_length=1)


def load_space(path: str | Path) -> SearchSpace:
    return parse(SearchSpace, read_yaml(path), source=str(path))
