"""What every model is behind: requests in, answers out, whether offline, at the endpoint or for one person. No Ray, no
HTTP."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import pandas as pd
from torch import Tensor

from raycadian.config import model_name
from raycadian.modalities.request import Request
from raycadian.models.base import Model
from raycadian.personal.store import PersonRecord
from raycadian.types import Batch

if TYPE_CHECKING:
    from raycadian.serving.stream import SignalStream


class Answer(Protocol):
    """What a model says to one request."""

    @property
    def title(self) -> str:
        """A sentence over the table."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the endpoint answers."""

    def of_day(self, day: str | None) -> "Answer":
        """One local day's part; all of it for None. Raises ValueError for a day that it has not."""

    def as_frame(self) -> pd.DataFrame:
        """A row a step, window or day."""


class NotServed(ValueError):
    """A sound run of a kind that no path of the endpoint answers with."""


class Predictor(ABC):
    """A run's model behind the code that prepared its training data.

    name: the run · path: the POST path whose requests it answers · batched: whether requests that arrive together are
    best computed together.
    """

    name: str
    path: str
    model: Model
    batched: ClassVar[bool] = False

    def predict(self, requests: Sequence[Request]) -> list[Answer | ValueError]:
        """An answer, or why there is none, for each request, in order."""
        answers: list[Any] = [None if r.path == self.path else self._other_path() for r in requests]
        own = [i for i, refusal in enumerate(answers) if refusal is None]
        for i, answer in zip(own, self._answers([requests[i] for i in own]), strict=True):
            answers[i] = answer
        return answers

    def answer(self, request: Request) -> Answer:
        """The answer to one request. Raises ValueError where there is none."""
        (answer,) = self.predict([request])
        if isinstance(answer, ValueError):
            raise answer
        return answer

    @abstractmethod
    def _answers(self, requests: Sequence[Any]) -> list[Any]:
        """`predict`, of requests of this predictor's path."""

    def example_request(self) -> Request | None:
        """`example` as a request; None of a predictor that has none."""
        return None

    def answer_to(self, batch: Batch, row: int) -> np.ndarray | None:
        """What it answers to the request that would be cut into this window, as the model's prediction of the window;
        None where a window does not hold all of a request. Raises ValueError where it refuses."""
        return None

    def within(self, prediction: np.ndarray) -> np.ndarray:
        """A model's prediction as an answer may say it: within what the quantity can be."""
        return prediction

    @abstractmethod
    def personalised(self, person: PersonRecord, weights: Mapping[str, Tensor]) -> "Predictor":
        """The same with a person's adapter on it. Raises ValueError where the adapter is of another model."""

    @abstractmethod
    def read(self, path: Path, card: Path | None = None) -> Request:
        """The request that one person's file makes. Raises ValueError."""

    def open_stream(self, channels: Mapping[str, tuple[float, str]]) -> "SignalStream":
        """A stream of channels (rate in Hz, unit). Raises ValueError where the model can't follow one."""
        raise self._other_path()

    def describe(self) -> dict[str, Any]:
        """What the model is and needs, as in ModelResponse."""
        spec = self.model.spec
        return {
            "kind": model_name(self.model.config),
            "task": spec.task,
            "context": spec.context,
            "horizon": spec.horizon,
            "dt_min": spec.dt_min,
            "quantiles": list(spec.quantiles),
            "past": list(spec.past),
            "path": self.path,
        }

    @abstractmethod
    def example(self) -> dict[str, Any]:
        """A JSON body that it answers."""

    def _other_path(self) -> ValueError:
        return ValueError(f"{self.name} answers on {self.path}; serve another run for this path")


def each(answer: Callable[[Any], Answer], requests: Sequence[Any]) -> list[Any]:
    """`answer(request)` of each request, or the ValueError that it raised."""
    return [_or_refusal(answer, request) for request in requests]


def _or_refusal(answer: Callable[[Any], Answer], request: Any) -> Answer | ValueError:
    try:
        return answer(request)
    except ValueError as error:
        return error
