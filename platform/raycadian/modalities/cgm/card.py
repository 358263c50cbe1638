"""The card of a data set of continuous glucose monitoring."""

from typing import Literal

from pydantic import field_validator

from raycadian.config.schema import Schema
from raycadian.config.units import known_zone
from raycadian.config.windows import Grid
from raycadian.modalities.base import BaseCard

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
    """strptime format of the time column, or epoch_s, epoch_ms: numbers since 1970 in UTC; ISO 8601 otherwise."""
    timezone: str | None = None
    """IANA name of the zone of a local clock. None: the clock is kept as local time, its UTC offset taken as 0."""
    grid: Grid = Grid()

    _zone = field_validator("timezone")(known_zone)
