"""Continuous glucose monitoring. Import is cheap."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raycadian.modalities.base import Item, Modality, Preparation, Row, Rows, Section, Simulation
from raycadian.modalities.cgm.card import CGMCard
from raycadian.types import GLUCOSE, TIME_UTC, Issues, Recording

if TYPE_CHECKING:
    from raycadian.data.blocks import BlockWriter
    from raycadian.data.reading import Opener
    from raycadian.data.series import Series
    from raycadian.data.snapshot import Snapshot
    from raycadian.modalities.cgm.request import ForecastRequest
    from raycadian.modalities.guesses import Detection, Given


class CGM(Modality):
    name = "cgm"
    Card = CGMCard
    version = 2
    columns = (TIME_UTC, GLUCOSE)

    def items(self, preparation: Preparation) -> Iterator[Item]:
        from raycadian.modalities.cgm.prepare import items

        return items(preparation)

    def gathered(self, items: list[Item]) -> list[Item]:
        from raycadian.modalities.cgm.prepare import unspilled

        return unspilled(items)

    def read(self, item: Item, card: CGMCard, issues: Issues) -> Iterator[Recording]:
        from raycadian.data.grid import to_recordings
        from raycadian.modalities.cgm.prepare import read_item

        return iter(to_recordings(read_item(item, card, issues), card.grid, issues))

    def write(self, item: Item, blocks: "BlockWriter", card: CGMCard) -> Row:
        from raycadian.modalities.cgm.prepare import write

        return write(item, blocks, card)

    def companions(self, card: CGMCard, paths: list[Path], folder: Path) -> list[Path]:
        from raycadian.modalities.cgm.prepare import event_files

        return sorted(set(event_files(card, folder)) - set(paths))

    def fits(self, path: Path, card: CGMCard) -> bool:
        from raycadian.modalities.cgm.readers import is_read

        return is_read(path, card)

    def counts(self, rows: Rows, usable: Rows) -> dict[str, int]:
        from raycadian.modalities.cgm.prepare import counts

        return counts(rows, usable)

    def nothing_usable(self, card: CGMCard, rows: Rows, issues: Issues) -> str:
        from raycadian.modalities.cgm.prepare import nothing_usable

        return nothing_usable(card, rows, issues)

    def read_person(self, path: Path, card: CGMCard | None, like: CGMCard, issues: Issues) -> list[Recording]:
        from raycadian.modalities.cgm.prepare import recordings_of_person

        return recordings_of_person(path, card, like, issues)

    def series(self, snapshot: "Snapshot", channels: tuple[str, ...], opener: "Opener") -> "Series":
        known = channels[0] in self.columns
        return opener(snapshot, channels) if known else super().series(snapshot, channels, opener)

    def quality(self, snapshot: "Snapshot") -> list[Section]:
        from raycadian.modalities.cgm.quality_page import quality_sections

        return quality_sections(snapshot)

    def request(self) -> "type[ForecastRequest]":
        from raycadian.modalities.cgm.request import ForecastRequest

        return ForecastRequest

    def simulate(self, simulation: Simulation, out: Path, progress: Callable[[int, int], None]) -> Path:
        from raycadian.modalities.cgm.simulate import simulate_cohort

        return simulate_cohort(simulation.people, simulation.days, simulation.seed, out, progress)

    def detect(self, path: Path, given: "Given") -> "Detection | None":
        from raycadian.modalities.cgm.detect import detect

        return detect(path, given)
