"""Units, which are in the names of channels and metrics; and time zones."""

WAVEFORMS = {"ecg": "mV", "ppg": "", "abp": "mmHg"}


_NO_ZONES = {"localtime", "posixrules", "Factory"}  # this machine's zone, how it reads TZ, and none
_UNITS = {"mv": "mV", "mmhg": "mmHg", "mgdl": "mg/dL"}


def waveform_kind(channel: str) -> str:
    """ecg of ecg_mv and of ecg_v_mv, ppg, abp."""
    return channel.partition("_")[0]


def unit_of(channel: str) -> str | None:
    """mV of ecg_mv, mmHg of map_mmhg, "" of what names none; None where a waveform's name lacks its unit."""
    unit = _UNITS.get(channel.rpartition("_")[2], "")
    return unit if unit == WAVEFORMS.get(waveform_kind(channel), unit) else None


def in_unit_of(metric: str, target: str) -> str:
    """rmse_mgdl as it is called of a target: rmse_mmhg of map_mmhg, rmse of what has no unit in its name."""
    if not metric.endswith("_mgdl"):
        return metric
    unit = target.rpartition("_")[2]
    return metric.removesuffix("_mgdl") + (f"_{unit}" if unit in _UNITS else "")


def known_zone(value: str | None) -> str | None:
    """The name of a time zone, as it is. Raises ValueError for what is none: absent, a path out of the folder, a
    folder, the zone of this machine."""
    if value is not None:
        from zoneinfo import ZoneInfo

        try:
            if value.rpartition("/")[2] in _NO_ZONES:
                raise ValueError("a file beside the zones")
            ZoneInfo(value)
        except (LookupError, ValueError, OSError) as error:
            raise ValueError(f"{value!r} is not an IANA time zone such as Europe/Madrid") from error
    return value
