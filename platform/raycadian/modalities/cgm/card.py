"""The card of a data set of continuous glucose monitoring."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raycadian.config.schema import Schema
from raycadian.config.units import known_zone
from raycadian.config.windows import Grid
from raycadian.modalities.base import BaseCard, KeepRows, one_group

CGM_FORMATS = (
    "generic", "glucobench", "dexcom_clarity", "libreview", "nightscout", "tidepool", "ohio_t1dm", "pump_v2",
    "carelink",
)  # fmt: skip


class Columns(Schema):
    """Names of the columns of a generic table."""

    subject: str | None = None
    """Column of the subject id; none where a file holds one person (named by `subject` or by the file)."""
    time: str = "time"
    date: str | None = None
    """Column of the date, or of a number of days, where `time` holds the clock alone."""
    glucose: str | None = "glucose"
    unit: str | None = None
    """Column of each reading's unit, mg/dL or mmol/L, where a table has both."""
    carbs_g: str | None = None
    protein_g: str | None = None
    fat_g: str | None = None
    fibre_g: str | None = None
    bolus_u: str | None = None
    basal_uph: str | None = None
    long_acting_u: str | None = None
    """Column of the units of long-acting insulin; rapid-acting is `bolus_u`."""
    device: str | None = None
    """Column of the sensor, where a table may hold several."""


class EventTable(Schema):
    """Tables of the same people's meals or insulin, beside those of their glucose: a row an event."""

    files: tuple[str, ...] = Field(min_length=1)
    """Paths or globs, relative to the card's folder."""
    columns: Columns = Columns(glucose=None)
    """Those of the events; `glucose` isn't read."""
    time_format: str | None = None
    subject_from: str | None = None
    """As the card's, which holds where this is left out."""
    keep_rows: KeepRows = Field(default_factory=dict)
    sheet: str | None = None
    skip_lines: int | None = Field(None, ge=0)
    header: bool | None = None

    _pattern = field_validator("subject_from")(one_group)


class CGMCard(BaseCard):
    """A data set of glucose: where it lies, how to read it, its licence."""

    modality: Literal["cgm"] = "cgm"
    format: Literal["auto", *CGM_FORMATS] = "auto"  # type: ignore[valid-type]
    """Recognised by content unless named here."""
    subject: str | None = None
    """Subject id for an export that names none; the file's stem otherwise."""
    unit: Literal["mg/dL", "mmol/L"] | None = None
    """Glucose unit where the format does not state one. A contradiction with the values is an error."""
    columns: Columns = Columns()
    time_format: str | None = None
    """strptime format of the time column, or epoch_s, epoch_ms, epoch_us, epoch_ns: numbers since 1970 in UTC; ISO
    8601 otherwise."""
    timezone: str | None = None
    """IANA name of the zone of a local clock. None: the clock is kept as local time, its UTC offset taken as 0."""
    events: tuple[EventTable, ...] = ()
    """Tables of meals and insulin in files of their own, joined by subject (see `subject_from`)."""
    device: str | None = None
    """Of several sensors that were worn at once, the one that is read: its serial number as the file has it."""
    repeat_s: float = Field(30.0, ge=0)
    """Readings of the same value, and doses of the same amount, at most so many seconds apart are one that two programs
    told; 0: nothing told again is left out, nor series that were stored again hours apart."""
    grid: Grid = Grid()

    _zone = field_validator("timezone")(known_zone)

    def named(self, path: Path) -> str | None:
        """The subject that the card gives a file, of one person or by its name; None where it doesn't. Raises
        ValueError."""
        return self.subject or super().named(path)

    @model_validator(mode="after")
    def _with_glucose(self) -> "CGMCard":
        if self.columns.glucose is None:
            raise ValueError("columns.glucose: null is for `events`; name the column of glucose")
        return self

    def _usual(self) -> dict[str, Any]:
        columns = {name: True for name in _LATER_COLUMNS if getattr(self.columns, name) is None}
        return super()._usual() | ({} if self.events else {"events": True}) | {"columns": columns}

    def of_events(self, table: EventTable) -> "CGMCard":
        """How a table of events is read: as one of the card's files, but for what it says itself."""
        own = {name: value for name in _OF_TABLE if (value := getattr(table, name)) is not None}
        columns = table.columns.model_copy(update={"glucose": None})
        return self.model_copy(update=own | {"format": "generic", "columns": columns, "events": ()})


_LATER_COLUMNS = ("unit", "protein_g", "fat_g", "fibre_g", "long_acting_u")
_OF_TABLE = ("time_format", "subject_from", "keep_rows", "sheet", "skip_lines", "header")
