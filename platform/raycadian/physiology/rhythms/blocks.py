"""Sleep that holds together, of one person's minutes of activity in any unit.

Roenneberg et al. 2015, Methods Enzymol 552:257 (validated by Loock et al. 2022, J Sleep Res 31:e13371): what moves
less than 15% of the 24 hours around it is still; from half an hour of stillness on, a block of sleep is as long as the
series of ones that goes best, by its correlation, with the next twelve hours. Of minutes, as pyActigraphy applies it to
them, since of the publication's bins of ten minutes quiet evenings become sleep; of those bins where a night is too
restless for half an hour of still minutes.
"""

import numpy as np

from raycadian.physiology.rhythms.circadian import binned
from raycadian.physiology.rhythms.sleep import NIGHT_H, REST_BIN_MIN, REST_MIN, REST_SHARE, moving_mean
from raycadian.physiology.rhythms.wear import DAY_MIN

LONGEST_MIN = 12 * 60
_LEAST_AROUND = 0.5  # of the 24 hours: with less of them nobody's level is known


def sleep_blocks(activity: np.ndarray) -> np.ndarray:
    """Blocks (B, 2) of sleep in minutes [begin, end), in order, none over another, of minutes (N,), NaN = not known.
    What is not known is not still, nor what is where nothing moves in 24 hours."""
    fine, coarse = (blocks_of_bins(activity, bin_min) for bin_min in (1, REST_BIN_MIN))
    lengths = fine[:, 1] - fine[:, 0]
    long = fine[lengths >= 60 * NIGHT_H]
    added = coarse[(coarse[:, 1] - coarse[:, 0] >= 60 * NIGHT_H) & ~_touches(coarse, long)]
    kept = fine[~_touches(fine, added)]
    together = np.concatenate([kept, added])
    return together[np.argsort(together[:, 0])]


def blocks_of_bins(activity: np.ndarray, bin_min: int) -> np.ndarray:
    """Blocks (B, 2) in minutes [begin, end), of bins of `bin_min` minutes (1, or REST_BIN_MIN)."""
    whole = len(activity) // bin_min * bin_min
    at_rest = _still(binned(activity[:whole], bin_min), bin_min)
    most, blocks, end = LONGEST_MIN // bin_min, [], 0
    for begin in _seeds(at_rest, REST_MIN // bin_min):
        if begin >= end:
            end = begin + _best_length(at_rest[begin : begin + most])
            blocks.append((begin, end))
    return bin_min * np.array(blocks, dtype=np.int64).reshape(-1, 2)


def _still(bins: np.ndarray, bin_min: int) -> np.ndarray:
    """1 (N,) int64 where a bin moves less than the share of the 24 hours around it; else, and where not known, 0."""
    around = moving_mean(bins[None], DAY_MIN // bin_min)[0]
    there = moving_mean((~np.isnan(bins)).astype(np.float64)[None], DAY_MIN // bin_min)[0]
    known = (around > 0) & (there >= _LEAST_AROUND)
    return (known & (bins <= REST_SHARE * around)).astype(np.int64)


def _touches(blocks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which blocks (B,) lie over one of the others."""
    begins_in_time = blocks[:, None, 0] < others[None, :, 1]
    return (begins_in_time & (others[None, :, 0] < blocks[:, None, 1])).any(axis=1)


def _seeds(at_rest: np.ndarray, least: int) -> np.ndarray:
    """Where `least` or more still bins begin."""
    edges = np.flatnonzero(np.diff(np.pad(at_rest, 1)))
    begin, end = edges[::2], edges[1::2]
    return begin[end - begin >= least]


def _best_length(at_rest: np.ndarray) -> int:
    """Bins of the block, from the first on, whose ones and then zeros correlate most with what is there."""
    n, total = len(at_rest), int(at_rest.sum())
    if total == n:
        return n
    length = np.arange(1, n)
    covariance = n * np.cumsum(at_rest)[:-1] - length * total
    return int(length[np.argmax(covariance / np.sqrt(length * (n - length)))])
