"""What a model card shows of recipes and cards is text."""

import pytest

from raycadian.training.model_card import _plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("![x](http://tracker/a.png)", "![x]\\(http://tracker/a.png)"),
        ("CC BY 4.0;  two\nlines", "CC BY 4.0; two lines"),
        ("AUROC 0.84 [0.81, 0.86]", "AUROC 0.84 [0.81, 0.86]"),
    ],
)
def test_what_others_wrote_is_shown_and_not_run(text, shown):
    assert _plain(text) == shown
