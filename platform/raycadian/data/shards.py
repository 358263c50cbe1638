"""People dealt into shards: what is read, cut and forecast at once, whatever the number of people."""

from collections.abc import Mapping, Sequence


def people_in_shards(lengths: Mapping[str, Sequence[int]], points: int) -> list[list[str]]:
    """People in order, about `points` grid points together, nobody divided: always the same ones, whoever computes
    them. `lengths`: points of each recording by subject, in order."""
    shards: list[list[str]] = []
    filled = points
    for subject, own in lengths.items():
        if filled >= points:
            shards.append([])
            filled = 0
        shards[-1].append(subject)
        filled += sum(own)
    return shards
