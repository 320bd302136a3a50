"""The page: written as a whole, and texts as they are."""

import pytest
from helpers import tree

from kd.report.page import Section, escape_markdown, write_page


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
    target = tmp_path / "report"
    write_page([Section("verdict", "Verdict", "old")], target, "main")
    before = tree(target)
    with pytest.raises(AttributeError):
        write_page([Section("verdict", "Verdict", "new", figure="none")], target, "main")
    assert tree(target) == before
    assert {path.name for path in tmp_path.iterdir()} == {"report", ".locks"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("T = 4, alpha = 0.5: -1.2 to +3 (p = 0.1).", None),
        ("within_weight=2.0", None),
        ("# no heading", r"\# no heading"),
        ("1. no list", r"1\. no list"),
        ("_no_ *stress*", r"\_no\_ \*stress\*"),
        ("two\n\nlines", "two lines"),
    ],
)
def test_markdown_shows_a_text_as_it_is(text, said):
    assert escape_markdown(text) == (said or text)
