"""The score that a task is judged by: its name, its unit, and which way is better."""

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """What chooses the epoch, the trial, the champion and the order of every table."""

    name: str
    """As metrics_summary.json and the tables call it: rmse_mgdl, auroc."""
    better: Literal["low", "high"]
    words: str
    unit: str = ""
    monitor: str = "val/loss"
    """What follows it from epoch to epoch, as training/loop.py reports it."""

    def text(self, value: float) -> str:
        """In words, with its unit."""
        digits = 2 if self.unit else 3
        return f"{self.words} {value:.{digits}f}{self.unit and ' '}{self.unit}"

    def beats(self, value: float, other: float) -> bool:
        """Whether `value` is better than `other`."""
        return value > other if self.better == "high" else value < other


MONITORS: dict[str, Literal["low", "high"]] = {
    "val/loss": "low", "val/rmse": "low", "val/mae": "low", "val/auroc": "high", "val/auprc": "high",
}  # fmt: skip
"""What the loop reports of validation windows after an epoch, and which way is better."""
