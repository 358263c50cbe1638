"""Who and when is training, validation, test: ranges of grid points of recordings, saved as a manifest and audited.

A range belongs to one split. A training window lies inside its range; of validation and test the target does, and the
context may reach back into earlier ranges of the same recording (windows.py). No window crosses a gap.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from raycadian.config import PersonDays, Split
from raycadian.errors import CheckpointError
from raycadian.files import read_json, write_json
from raycadian.types import ID, OOD, SPLITS

DAY_S = 86400


@dataclass(frozen=True)
class Range:
    """Grid points [start, stop) of one recording, all in one split; scope says whether the subject is held out."""

    subject: str
    recording: int
    start: int
    stop: int
    split: str
    scope: str


@dataclass(frozen=True)
class SplitManifest:
    """A split as it was made: the configuration, the snapshot, every range."""

    config: Split
    snapshot: str
    ranges: tuple[Range, ...]

    def of(self, split: str) -> tuple[Range, ...]:
        assert split in SPLITS, split
        return tuple(r for r in self.ranges if r.split == split)

    def counts(self) -> dict[str, dict[str, int]]:
        """split -> subjects, points."""
        return {
            split: {
                "subjects": len({r.subject for r in self.of(split)}),
                "points": sum(r.stop - r.start for r in self.of(split)),
            }
            for split in SPLITS
        }

    def write(self, path: Path) -> None:
        body = {
            "config": self.config.model_dump(mode="json"),
            "snapshot": self.snapshot,
            "counts": self.counts(),
            "ranges": [asdict(r) for r in self.ranges],
        }
        write_json(path, body)

    @staticmethod
    def read(path: Path) -> "SplitManifest":
        """Raises CheckpointError."""
        body = read_json(path, largest=1 << 28)
        try:
            ranges = tuple(Range(**r) for r in body["ranges"])
            return SplitManifest(Split(**body["config"]), body["snapshot"], ranges)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: no split of a run ({error}); copy the run again") from error


def make_split(
    lengths: dict[str, list[int]], config: Split, snapshot: str = "", dt_s: float = 300.0,
    strata: Mapping[str, float] | None = None, shared: SplitManifest | None = None,
) -> SplitManifest:  # fmt: skip
    """Split subjects (id -> points of each recording in time order). Deterministic in the seed. Raises ValueError.

    strata: a number for each subject, such as its share of windows with the label; of a split by subject every part
    then holds people along the whole range of it. shared: of kind run, the split of that run.
    """
    subjects = sorted(lengths)
    match config.kind:
        case "time":
            ranges = [r for s in subjects for r in _by_time(s, lengths[s], config)]
        case "hybrid":
            held = set(_draw(subjects, config.test_subjects, config.seed, "test_subjects"))
            ranges = [r for s in subjects if s in held for r in _whole(s, lengths[s], "test", OOD)]
            ranges += [r for s in subjects if s not in held for r in _by_time(s, lengths[s], config)]
        case "subject":
            test = _draw(subjects, config.test_subjects, config.seed, "test_subjects", strata)
            ranges = _by_subject(lengths, test, config, strata)
        case "person":
            ranges = _by_person(lengths, config.person, DAY_S / dt_s)
        case "kfold":
            if len(subjects) < config.folds:
                raise ValueError(
                    f"split: {config.folds} folds need as many subjects; found {len(subjects)}; lower folds"
                )
            order = _in_strata(np.random.default_rng(config.seed).permutation(subjects), strata)
            ranges = _by_subject(lengths, [str(s) for s in order[config.fold :: config.folds]], config, strata)
        case "run":
            ranges = _as_in(shared, lengths, config, snapshot)
    manifest = SplitManifest(config, snapshot, tuple(ranges))
    audit(manifest.ranges, grouped=config.kind in ("subject", "kfold", "run"))
    _require(manifest)
    return manifest


def audit(ranges: Iterable[Range], grouped: bool = False) -> None:
    """Leakage is an error: overlapping ranges, held-out subjects in training, training after validation or test.

    grouped: no subject may be in two splits. Raises ValueError that names the first offender.
    """
    ranges = list(ranges)
    held = {r.subject for r in ranges if r.scope == OOD}
    by_recording: dict[tuple[str, int], list[Range]] = {}
    for r in ranges:
        by_recording.setdefault((r.subject, r.recording), []).append(r)
        if r.scope == ID and r.subject in held:
            raise ValueError(
                f"leakage: subject {r.subject!r} is held out and also in {r.split}; split by whole subjects"
            )
    for (subject, number), own in by_recording.items():
        own.sort(key=lambda r: r.start)
        for left, right in itertools.pairwise(own):
            if right.start < left.stop:
                raise ValueError(
                    f"leakage: {left.split} [{left.start}, {left.stop}) and {right.split} "
                    f"[{right.start}, {right.stop}) overlap in recording {number} of subject {subject!r}"
                )
    for subject in {r.subject for r in ranges}:
        own = sorted((r for r in ranges if r.subject == subject), key=lambda r: (r.recording, r.start))
        order = [SPLITS.index(r.split) for r in own]
        if order != sorted(order):
            raise ValueError(f"leakage: subject {subject!r} trains on data after its validation or test")
        if grouped and len(set(order)) > 1:
            raise ValueError(f"leakage: subject {subject!r} is in two splits of a split by subject")


def same_people(one: str, other: str) -> bool:
    """Whether two ids of snapshots are of one data set, perhaps of two versions of it, a subject being one person."""
    return one.rpartition("-")[0] == other.rpartition("-")[0]


def met(scored: Iterable[Range], learnt: Iterable[Range]) -> list[str]:
    """Subjects of whom a range of `scored` shares points with one of `learnt`."""
    known: dict[tuple[str, int], list[Range]] = {}
    for r in learnt:
        known.setdefault((r.subject, r.recording), []).append(r)
    return sorted({
        r.subject for r in scored
        if any(r.start < own.stop and own.start < r.stop for own in known.get((r.subject, r.recording), []))
    })  # fmt: skip


def _require(manifest: SplitManifest) -> None:
    for split, count in manifest.counts().items():
        if not count["points"]:
            raise ValueError(
                f"split {manifest.config.kind!r} leaves nothing for {split} ({manifest.counts()}); "
                "raise its fraction, add subjects, or choose another split.kind"
            )


def _draw(
    subjects: list[str], fraction: float | int, seed: int, name: str, strata: Mapping[str, float] | None = None
) -> list[str]:
    """ceil(fraction) of the subjects, at least one, or a whole number of them; at least one is left. With strata, one
    from each of as many stretches of equal size along them."""
    n = fraction if isinstance(fraction, int) else int(np.ceil(fraction * len(subjects)))
    if fraction > 0 and not 0 < n < len(subjects):
        raise ValueError(
            f"split.{name} {fraction} of {len(subjects)} subjects holds out {n}: one at least must stay; "
            "use split.kind=time for so few people"
        )
    rng = np.random.default_rng(seed)
    if strata is None or not n:
        return [str(s) for s in rng.choice(subjects, size=n, replace=False)]
    order = _in_strata(rng.permutation(subjects), strata)
    return [str(rng.choice(stretch)) for stretch in np.array_split(order, n)]


def _in_strata(order: np.ndarray, strata: Mapping[str, float] | None) -> np.ndarray:
    """Along the strata; equals stay in the order given."""
    return order if strata is None else order[np.argsort([strata[s] for s in order.tolist()], kind="stable")]


def _whole(subject: str, lengths: list[int], split: str, scope: str) -> list[Range]:
    return [Range(subject, i, 0, n, split, scope) for i, n in enumerate(lengths)]


def _by_time(subject: str, lengths: list[int], config: Split) -> list[Range]:
    """Cut a person's points, in time order over all recordings, into train, val, test."""
    total = sum(lengths)
    first_test = total - round(total * config.test_fraction)
    first_val = first_test - round(total * config.val_fraction)
    return _cut(subject, lengths, ((0, first_val), (first_val, first_test), (first_test, total)))


def _by_person(lengths: dict[str, list[int]], person: PersonDays, points_a_day: float) -> list[Range]:
    """One person's history, of which the last days train; then validation, then test."""
    if person.subject not in lengths:
        raise ValueError(
            f"split.person.subject {person.subject!r}: no such subject; there are {', '.join(sorted(lengths)[:9])}"
        )
    own = lengths[person.subject]
    first_val, first_test, first_train = (
        round(days * points_a_day)
        for days in (
            person.history_days, person.history_days + person.val_days, person.history_days - person.train_days,
        )
    )  # fmt: skip
    if first_test >= sum(own):
        raise ValueError(
            f"{person.subject} has {sum(own) / points_a_day:.1f} days of data: nothing is left to test after "
            f"history_days {person.history_days:g} and val_days {person.val_days:g}; lower them"
        )
    return _cut(person.subject, own, ((first_train, first_val), (first_val, first_test), (first_test, sum(own))))


def _cut(subject: str, lengths: list[int], places: tuple[tuple[int, int], ...]) -> list[Range]:
    """Ranges of train, val, test between places counted over all recordings of a person."""
    edges = dict(zip(SPLITS, places, strict=True))
    ranges, offset = [], 0
    for number, length in enumerate(lengths):
        for split, (begin, end) in edges.items():
            start, stop = max(begin - offset, 0), min(end - offset, length)
            if start < stop:
                ranges.append(Range(subject, number, start, stop, split, ID))
        offset += length
    return ranges


def _by_subject(
    lengths: dict[str, list[int]], test: list[str], config: Split, strata: Mapping[str, float] | None = None
) -> list[Range]:
    """Whole people: `test` held out, then a share of the others for validation."""
    rest = sorted(set(lengths) - set(test))
    val = _draw(rest, config.val_subjects, config.seed + 1, "val_subjects", strata)
    return _of_people(lengths, dict.fromkeys(val, "val") | dict.fromkeys(test, "test"))


def _as_in(shared: SplitManifest | None, lengths: dict[str, list[int]], config: Split, snapshot: str) -> list[Range]:
    """Everybody where another run has them; who isn't in it trains."""
    assert shared is not None, config
    if not same_people(shared.snapshot, snapshot):
        raise ValueError(
            f"split.run {config.run} splits the people of {shared.snapshot}, not those of {snapshot}; "
            "name a run on this data set, or take split.kind subject"
        )
    audit(shared.ranges, grouped=True)
    return _of_people(lengths, {r.subject: r.split for r in shared.ranges})


def _of_people(lengths: dict[str, list[int]], of: Mapping[str, str]) -> list[Range]:
    """Whole people: `of` says who is of val or test, the others train."""
    ranges = []
    for subject in sorted(lengths):
        split = of.get(subject, "train")
        ranges += _whole(subject, lengths[subject], split, OOD if split == "test" else ID)
    return ranges
