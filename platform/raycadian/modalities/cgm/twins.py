"""One person under two ids: subjects that share readings, the same value at the same second.

Each subject is held as a sketch, its SKETCH smallest hashes (Broder 1997, On the resemblance and containment of
documents): what two share of those below both largest ones is what they share of their readings.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations

import numpy as np

SKETCH = 64
_FEWEST, _SHARE = 6, 0.25  # shared hashes, and their share, that chance doesn't give: two people agree on 1 in 100
_FEWEST_VALUES, _LOOKED_AT = 8, 1000
_CROWD = 20  # subjects with one reading in common: people on one grid, and no sign


def sketch_of(hashed: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The smallest hashes (at most SKETCH,) uint32 of readings' (M,) uint64, rising; none of values (M,) that are
    nearly all the same, which say nothing of whose they are."""
    if len(np.unique(values[:_LOOKED_AT])) < _FEWEST_VALUES:
        return np.empty(0, np.uint32)
    short = (hashed >> np.uint64(32)).astype(np.uint32)
    return np.unique(np.partition(short, SKETCH)[:SKETCH] if len(short) > SKETCH else short)


def joined(sketches: Iterable[bytes]) -> np.ndarray:
    """The sketch of a subject whose parts have these."""
    return np.unique(np.frombuffer(b"".join(sketches), np.uint32))[:SKETCH]


def sharing(sketches: list[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Pairs of subjects, by their position, that share more than chance gives."""
    if not sketches:
        return
    owner = np.repeat(np.arange(len(sketches)), [len(one) for one in sketches])
    hashes = np.concatenate(sketches)
    order = np.argsort(hashes, kind="stable")
    edges = np.flatnonzero(np.diff(hashes[order])) + 1
    runs = zip([0, *edges], [*edges, len(order)], strict=True)
    shared: Counter[tuple[int, int]] = Counter()
    for begin, end in runs:
        if 1 < end - begin <= _CROWD:
            shared.update(combinations(owner[order[begin:end]].tolist(), 2))
    for (one, other), n in sorted(shared.items()):
        if n >= max(_FEWEST, _SHARE * _comparable(sketches[one], sketches[other])):
            yield one, other


def _comparable(one: np.ndarray, other: np.ndarray) -> int:
    """How many of the shorter sketch's hashes the other one would hold, if its subject had the readings."""
    most = min(int(sketch[-1]) if len(sketch) == SKETCH else 2**32 for sketch in (one, other))
    return int(min((one <= most).sum(), (other <= most).sum()))
