"""Actigraphy: movement by the minute, and the labels of the people who moved. Import is cheap."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.base import Item, Modality, Preparation, Row, Rows, Simulation
from raycadian.types import Issues, Recording

if TYPE_CHECKING:
    from raycadian.data.blocks import BlockWriter
    from raycadian.modalities.actigraphy.request import ActigraphyRequest
    from raycadian.modalities.guesses import Detection, Given


class Actigraphy(Modality):
    name = "actigraphy"
    Card = ActigraphyCard
    version = 1
    example_task = (
        "task: {kind: classify, label: {kind: column, name: COLUMN}}, a column of the people that the card names"
    )

    def items(self, preparation: Preparation) -> list[Item]:
        from raycadian.modalities.actigraphy.prepare import items

        return items(preparation)

    def read(self, item: Item, card: ActigraphyCard, issues: Issues) -> Iterator[Recording]:
        from raycadian.modalities.actigraphy.prepare import read_item

        return iter(read_item(item, card, issues))

    def write(self, item: Item, blocks: "BlockWriter", card: ActigraphyCard) -> Row:
        from raycadian.modalities.actigraphy.prepare import write

        return write(item, blocks, card)

    def counts(self, rows: Rows, usable: Rows) -> dict[str, int]:
        from raycadian.modalities.actigraphy.prepare import counts

        return counts(rows, usable)

    def cohorts(self, rows: Rows, card: ActigraphyCard, paths: list[Path]) -> dict[str, list[dict[str, Any]]]:
        from raycadian.modalities.actigraphy.prepare import cohorts

        return cohorts(rows, card, paths)

    def read_person(
        self, path: Path, card: ActigraphyCard | None, like: ActigraphyCard, issues: Issues
    ) -> list[Recording]:
        from raycadian.modalities.actigraphy.prepare import recordings_of_person

        return recordings_of_person(path, card, like, issues)

    def request(self) -> "type[ActigraphyRequest]":
        from raycadian.modalities.actigraphy.request import ActigraphyRequest

        return ActigraphyRequest

    def simulate(self, simulation: Simulation, out: Path, progress: Callable[[int, int], None]) -> Path:
        from raycadian.modalities.actigraphy.simulate import simulate_nhanes

        folder = out.with_name(out.name.removesuffix(".parquet"))
        return simulate_nhanes(simulation.people, folder, simulation.cycle, simulation.seed, progress=progress)

    def detect(self, path: Path, given: "Given") -> "Detection | None":
        from raycadian.modalities.actigraphy.detect import detect

        return detect(path, given)
