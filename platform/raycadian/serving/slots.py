"""The slots of a replica for people's models."""

from collections.abc import Mapping
from dataclasses import dataclass

from raycadian.personal.store import PersonRecord, Store
from raycadian.runs import Run
from raycadian.serving.load import personalise
from raycadian.serving.predictor import Predictor


@dataclass(eq=False)
class AdapterSlot:
    """A place on a replica for one person's model. Ray's multiplexer makes and evicts slots, no more: it can't drop a
    model, and logs what an error says that is raised while it makes one. So the slot is filled and emptied here."""

    predictor: Predictor | None = None
    population: Predictor | None = None
    person: PersonRecord | None = None

    def filled(self, population: Predictor, run: Run, person: PersonRecord, store: Store) -> Predictor:
        """The person's model, loaded where the slot is empty or has that of an earlier run. Raises ValueError."""
        predictor = self.predictor
        if predictor is None or self.population is not population:
            predictor = personalise(population, run, person, store)
            self.predictor, self.population, self.person = predictor, population, person
        return predictor

    def empty(self) -> None:
        self.predictor = self.population = self.person = None


def drop_deleted(slots: Mapping[str, AdapterSlot], store: Store) -> None:
    """Empty the slots, by version, of people who are deleted or have calibrated anew."""
    for version, slot in list(slots.items()):
        if slot.person is not None and not store.holds(slot.person.subject, version):
            slot.empty()
