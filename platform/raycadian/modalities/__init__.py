"""The kinds of recordings: a folder each, and a line each in the table below."""

from raycadian.modalities.actigraphy.modality import Actigraphy
from raycadian.modalities.base import Modality
from raycadian.modalities.biosignals.modality import Biosignals
from raycadian.modalities.cgm.modality import CGM

MODALITIES: dict[str, Modality] = {
    modality.name: modality
    for modality in (
        CGM(),
        Biosignals(),
        Actigraphy(),
    )
}
USUAL = "cgm"  # of a card that names none
