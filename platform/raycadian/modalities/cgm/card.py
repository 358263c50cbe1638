"""The card of a data set of continuous glucose monitoring."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from raycadian.config.schema import Schema
from raycadian.config.units import known_zone
from raycadian.config.windows import Grid

CGM_FORMATS = (
    "generic", "glucobench", "dexcom_clarity", "libreview", "nightscout", "tidepool", "ohio_t1dm", "pump_v2",
)  # fmt: skip


class Columns(Schema):
    """Names of the columns of a generic table."""

    subject: str | None = None
    """Column of the subject id; none where a file holds one person (named by `subject` or by the file)."""
    time: str = "time"
    glucose: str = "glucose"
    carbs_g: str | None = None
    bolus_u: str | None = None
    basal_uph: str | None = None


class CGMCard(Schema):
    """One data set: where it lies, how to read it, its licence."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = ""
    modality: Literal["cgm"] = "cgm"
    files: tuple[str, ...] = Field(min_length=1)
    """Paths or globs, relative to the card's folder."""
    format: Literal["auto", *CGM_FORMATS] = "auto"  # type: ignore[valid-type]
    """Recognised by content unless named here."""
    subject: str | None = None
    """Subject id for an export that names none; the file's stem otherwise."""
    unit: Literal["mg/dL", "mmol/L"] | None = None
    """Glucose unit where the format does not state one. A contradiction with the values is an error."""
    columns: Columns = Columns()
    time_format: str | None = None
    """strptime format of the time column; ISO 8601 otherwise."""
    timezone: str | None = None
    """IANA name of the zone of a local clock. None: the clock is kept as local time, its UTC offset taken as 0."""
    exclude_subjects: tuple[str, ...] = ()
    grid: Grid = Grid()
    license: str = ""
    source: str = ""
    citation: str = ""

    _zone = field_validator("timezone")(known_zone)
