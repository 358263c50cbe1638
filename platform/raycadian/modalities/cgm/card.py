"""The card of a data set of continuous glucose monitoring."""

from typing import Literal

from pydantic import Field, field_validator

from raycadian.config.schema import Schema
from raycadian.config.units import known_zone
from raycadian.config.windows import Grid
from raycadian.modalities.base import BaseCard

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
    glucose: str = "glucose"
    carbs_g: str | None = None
    bolus_u: str | None = None
    basal_uph: str | None = None
    device: str | None = None
    """Column of the sensor, where a table may hold several."""


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
    device: str | None = None
    """Of several sensors that were worn at once, the one that is read: its serial number as the file has it."""
    repeat_s: float = Field(30.0, ge=0)
    """Readings of the same value, and doses of the same amount, at most so many seconds apart are one that two programs
    told; 0: nothing told again is left out, nor series that were stored again hours apart."""
    grid: Grid = Grid()

    _zone = field_validator("timezone")(known_zone)
