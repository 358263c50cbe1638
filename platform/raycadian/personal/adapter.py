"""One person's adapter on a population's model: low-rank additions to its network and, of a label, a linear view of how
far the day is from that person's usual. The population's weights are shared and never change.

Shapes as in types.py, and: F features of a day (physiology/daily.py)
"""

import copy
from collections.abc import Iterator, Mapping
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from raycadian import config
from raycadian.models import adapters
from raycadian.models.base import Model, Wrapper
from raycadian.models.label import LabelModel
from raycadian.personal.store import PersonRecord
from raycadian.physiology.rhythms.daily import Baseline, of_activity
from raycadian.types import Batch

BUDGET = 5_000  # weights of the low-rank additions: a few thousand, whatever the network's size
MOST_RANK = 4


class PersonalLabel(LabelModel):
    """The population's log odds, adapted, + w . deviations of the window's last day from the person's usual + a
    constant.

    Untrained it says what the population's model says. A deviation that is not known counts as 0: as usual.
    """

    def __init__(self, population: LabelModel, baseline: Baseline):
        super().__init__(population.spec, population.config)
        self.population, self.baseline = population, baseline
        self.usual = nn.Linear(len(baseline.names), 1)
        nn.init.zeros_(self.usual.weight)
        nn.init.zeros_(self.usual.bias)
        self.day = round(1440 / self.spec.dt_min)

    def score(self, batch: Batch) -> Tensor:
        return self.population(batch).score + self.usual(self.deviations(batch)).squeeze(-1)

    @torch.no_grad()
    def deviations(self, batch: Batch) -> Tensor:
        """(B, F), of the last day of each window."""
        day = torch.where(batch["past_mask"], batch["past"], torch.nan)[:, -self.day :, 0]
        deviations = self.baseline.deviations(of_activity(day.double().cpu().numpy()))
        return torch.from_numpy(np.nan_to_num(deviations)).to(self.usual.weight)


class PersonalForecast(Wrapper):
    """The population's forecast, adapted."""

    def __init__(self, population: Model):
        super().__init__(population.spec, population.config, population)
        self.monitor = population.monitor  # type: ignore[misc]


def personal(population: Model, baseline: Baseline) -> PersonalLabel | PersonalForecast:
    """An untrained adapter on `population`, whose weights it shares. Raises ValueError for a model without anything to
    adapt."""
    inner = _frozen(population)
    layers = _adapted_layers(inner)
    rank = _rank(layers)
    for network, names in layers:
        adapters.inject(network, names, rank, alpha=2 * rank)
    if isinstance(inner, LabelModel):
        return PersonalLabel(inner, baseline)
    if not any(p.requires_grad for p in inner.parameters()):
        raise ValueError(
            f"{config.model_name(population.config)} holds no network that can be adapted to one person; calibrate a "
            "run of ttm, or of a hybrid around one"
        )
    return PersonalForecast(inner)


def adapted(population: Model, person: PersonRecord, weights: Mapping[str, Tensor]) -> Model:
    """The model that serves a person: the population's with their adapter on it, or the population's alone where
    held-out days did not speak for the adapter. Raises ValueError for the adapter of another model."""
    if not person.adapter_kept:
        return population
    model = personal(population, person.baseline)
    load_weights(model, weights)
    return model.eval()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The adapter alone, by name."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError for the adapter of another model."""
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    expected, given = ({name: tuple(p.shape) for name, p in tensors.items()} for tensors in (own, weights))
    if expected != given:
        other = sorted(expected.items() ^ given.items())
        raise ValueError(
            f"the adapter is of another model: {len(other)} weights differ, e.g. {other[0][0]}; calibrate again"
        )
    for name, parameter in own.items():
        parameter.copy_(weights[name])


def _frozen(population: Model) -> Model:
    """A copy of the structure that shares all weights; where these have low-rank additions of their own, a whole copy
    with them added in."""
    if any("lora_" in name for name, _ in population.named_parameters()):
        return adapters.merged(population).requires_grad_(False)
    shared = {id(t): t for t in chain(population.parameters(), population.buffers())}
    return copy.deepcopy(population, shared).requires_grad_(False)


def _networks(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Of every model in it with a network: the network, and the names of its layers that are adapted."""
    for part in list(model.modules()):
        if isinstance(part, Model) and part.adaptable is not None:
            attribute, targets = part.adaptable
            yield getattr(part, attribute), targets


def _adapted_layers(model: nn.Module) -> list[tuple[nn.Module, list[str]]]:
    """The networks and the names of their layers that are adapted: of a network whose layers take more than its share
    of BUDGET, the last ones, which also spares the way back through those before."""
    networks = list(_networks(model))
    return [
        (network, _last(network, _layers(network, targets), BUDGET / len(networks))) for network, targets in networks
    ]


def _layers(network: nn.Module, targets: tuple[str, ...]) -> list[str]:
    linear = (name for name, module in network.named_modules() if isinstance(module, nn.Linear))
    return [name for name in linear if name.rpartition(".")[2] in targets]


def _last(network: nn.Module, names: list[str], budget: float) -> list[str]:
    """The last that keep within `budget` at rank 1; one at least."""
    taken = np.cumsum([_size(network, name) for name in reversed(names)])
    return names[-max(1, int((taken <= budget).sum())) :]


def _size(network: nn.Module, name: str) -> int:
    """Weights that rank 1 adds to a linear layer."""
    layer = network.get_submodule(name)
    return layer.in_features + layer.out_features


def _rank(adapted: list[tuple[nn.Module, list[str]]]) -> int:
    """The largest that keeps within BUDGET, one at least."""
    each = sum(_size(network, name) for network, names in adapted for name in names)
    return max(1, min(MOST_RANK, BUDGET // max(each, 1)))
