"""The card of a data set of actigraphy."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from raycadian.config.schema import Positive, Schema
from raycadian.config.units import known_zone
from raycadian.modalities.base import BaseCard


class ActivityColumns(Schema):
    """Names of the columns of a table. Without time and minute the column of times is looked for; where there is
    none, a person's rows are minutes from midnight."""

    subject: str | None = None
    """Column of the subject id; none where a file holds one person (named by `subject` or by the file)."""
    time: str | None = None
    minute: str | None = None
    """Number of the minute, from 1 at the midnight that begins the first day."""
    activity: str = "activity"
    worn: str | None = None
    """1 (true, yes, w) where the device was worn, 0 (false, no, nw) where not."""
    off_wrist: str | None = None
    """The opposite: 1 where it was not worn."""
    date: str | None = None
    """Column of the date, where `time` holds the clock alone."""
    weekday: str | None = None
    """Column of the weekday, from 1 on Sunday, where nothing gives a date."""


class ActigraphyCard(BaseCard):
    """A data set of actigraphy: activity by the minute, and a table of people with their labels."""

    modality: Literal["actigraphy"] = "actigraphy"
    files: tuple[str, ...] = Field(min_length=1)
    """Paths or globs, relative to the card's folder: recordings, and NHANES's tables of the same people."""
    format: Literal["auto"] = "auto"
    """Known by content: NHANES's XPT, Actiwatch .AWD, ActiGraph .agd, Respironics CSV, Apple Health, or a table."""
    columns: ActivityColumns = ActivityColumns()
    subject: str | None = None
    """Subject id for a file that names none; the file's stem otherwise."""
    time_format: str | None = None
    """strptime format of the time column, or epoch_s, epoch_ms, epoch_us, epoch_ns: since 1970 in UTC; ISO 8601
    otherwise."""
    timezone: str | None = None
    """IANA name of the zone of a local clock. None: the clock is kept as local time, its UTC offset taken as 0."""
    site: Literal["hip", "wrist"] | None = None
    """Where the device is worn, where its file doesn't say so: counts of hip and wrist are different quantities."""
    wear: Literal["auto", "none", "choi", "troiano", "wrist"] = "auto"
    """Rule for when counts mean that the device was worn, where it doesn't say so itself. auto: at the wrist `wrist`
    (two hours without movement), else `choi`; none: always."""
    sleep_source: str | None = None
    """Of Apple Health: whose account of a night is taken, by its name there; else that which tells most."""
    dt_s: Positive = 60.0
    min_valid_hours: Positive = 10.0
    """Hours that a day is worn to count."""
    min_valid_days: int = Field(1, ge=0)
    """People with fewer such days are left out, and counted; studies of NHANES ask for 4."""
    most_missing: int = Field(0, ge=0, le=8)
    """PHQ-9 items that may lack an answer; the total is then nine times the mean of the others."""

    _zone = field_validator("timezone")(known_zone)

    def named(self, path: Path) -> str | None:
        """The subject that the card gives a file, of one person or by its name; None where it doesn't. Raises
        ValueError."""
        return self.subject or super().named(path)
