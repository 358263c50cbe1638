"""The table of formats and languages in the docs is what small files, read, give; every language reads as English."""

import re

import pytest
from languages import LANGUAGES, MARKS, PAGE, WRITTEN, table

REFUSED = ("Medtronic CareLink", {"Polish", "Swedish"})
"""Its words in them are nobody's here: refused, never half read."""


@pytest.mark.slow
def test_the_page_has_the_table_that_is_read(tmp_path):
    block = PAGE.read_text(encoding="utf-8").partition(MARKS[0])[2].partition(MARKS[1])[0].strip()
    made = table(tmp_path)
    assert block == made, "PYTHONPATH=tests:tests/modalities:tests/fuzz python tests/modalities/languages.py"
    for name in WRITTEN:
        (row,) = re.findall(rf"(?m)^\| {name} \| (.*) \|$", made)
        cells = dict(zip(LANGUAGES[1:], row.split(" | "), strict=False))
        refused = REFUSED[1] if name == REFUSED[0] else set()
        assert {language for language, cell in cells.items() if cell == "–"} == refused
        assert {cell for language, cell in cells.items() if language not in refused} == {"✓"}
