"""Biosignals: waveforms and numerics of cases, such as operations. Import is cheap."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raycadian.modalities.base import Item, Modality, Preparation, Row, Rows, Simulation
from raycadian.modalities.biosignals.card import BiosignalCard
from raycadian.types import Issues, Recording

if TYPE_CHECKING:
    from raycadian.data.blocks import BlockWriter
    from raycadian.data.reading import Opener
    from raycadian.data.series import Series
    from raycadian.data.snapshot import Snapshot
    from raycadian.modalities.biosignals.request import BiosignalRequest
    from raycadian.modalities.guesses import Detection, Given

_UNSEEN = 10e9  # bytes of cases that are downloaded as they are read: how many they are nobody knows


class Biosignals(Modality):
    name = "biosignals"
    Card = BiosignalCard
    version = 1
    example_task = "task: {kind: classify, label: {kind: hypotension, channel: map_mmhg, ahead_min: 5}}"
    effort = 5.0  # filtered, judged and packed better than text: 2 MB/s on one core

    def items(self, preparation: Preparation) -> list[Item]:
        from raycadian.modalities.biosignals.prepare import items, require_other_cases, with_made_of

        own = items(preparation.card, preparation.paths, preparation.folder, preparation.issues)
        require_other_cases(own, preparation)
        return [with_made_of(item, preparation) for item in own]

    def read(self, item: Item, card: BiosignalCard, issues: Issues) -> Iterator[Recording]:
        from raycadian.modalities.biosignals.prepare import read_item

        return read_item(item, card, issues)

    def write(self, item: Item, blocks: "BlockWriter", card: BiosignalCard) -> Row:
        from raycadian.modalities.biosignals.prepare import write

        return write(item, blocks, card)

    def fits(self, path: Path, card: BiosignalCard) -> bool:
        from raycadian.modalities.biosignals.prepare import is_sample

        return is_sample(path) or super().fits(path, card)

    def counts(self, rows: Rows, usable: Rows) -> dict[str, int]:
        from raycadian.modalities.biosignals.prepare import counts

        return counts(rows, usable)

    def companions(self, card: BiosignalCard, paths: list[Path], folder: Path) -> list[Path]:
        from raycadian.modalities.biosignals.prepare import companions

        return companions(card, paths, folder)

    def n_bytes(self, card: BiosignalCard, paths: list[Path]) -> float:
        from raycadian.modalities.biosignals.prepare import samples_of

        return _UNSEEN if card.vitaldb is not None else super().n_bytes(card, [*paths, *samples_of(paths)])

    def read_person(
        self, path: Path, card: BiosignalCard | None, like: BiosignalCard, issues: Issues
    ) -> list[Recording]:
        from raycadian.modalities.biosignals.prepare import recordings_of_person

        return recordings_of_person(path, card or like, issues)

    def series(self, snapshot: "Snapshot", channels: tuple[str, ...], opener: "Opener") -> "Series":
        from raycadian.modalities.biosignals.numerics import open_numerics

        return open_numerics(snapshot, channels)

    def request(self) -> "type[BiosignalRequest]":
        from raycadian.modalities.biosignals.request import BiosignalRequest

        return BiosignalRequest

    def simulate(self, simulation: Simulation, out: Path, progress: Callable[[int, int], None]) -> Path:
        from raycadian.modalities.biosignals.simulate import simulate_cases

        folder = out.with_name(out.name.removesuffix(".parquet"))
        return simulate_cases(simulation.people, simulation.minutes, simulation.seed, folder, progress=progress)

    def detect(self, path: Path, given: "Given") -> "Detection | None":
        from raycadian.modalities.biosignals.detect import detect

        return detect(path, given)
