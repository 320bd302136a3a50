"""What the page shows of very many values, rows and cells."""

import numpy as np
import pandas as pd
import pytest

from kd.report import page
from kd.report.comparison import MOST_NAMED, seeds_word, some
from kd.report.figures import draw_heat_map
from kd.report.page import Section, spread


@pytest.mark.parametrize("most", [1, 2, 7, 40])
def test_a_spread_is_even_and_keeps_what_it_must(most):
    values = [float(n) for n in range(100)]
    found = spread(values, most)
    assert len(found) == most
    assert found == sorted(set(found))
    assert found[0] == 0
    assert most == 1 or found[-1] == 99
    assert max(np.diff(found), default=0) - min(np.diff(found), default=0) <= 1
    kept = spread(values, most, 37.0)
    assert 37 in kept
    assert kept == sorted(kept)
    assert len(kept) == most


def test_few_values_are_all_there():
    assert spread([1.0, 2.0], 2) == [1, 2]


def test_a_very_long_table_shows_its_best_rows(monkeypatch):
    monkeypatch.setattr(page, "MANY", 5)
    monkeypatch.setattr(page, "BEST", 2)
    table = pd.DataFrame({"run": [*"abcdef"], "accuracy": [3, 9, 1, 8, 2, 4]})
    for best, shown in (("accuracy", "bd"), ("", "ab")):
        rows = Section("runs", "All", "", table=table, best=best).rows
        assert rows is not None
        assert "".join(rows["run"]) == shown
    short = Section("runs", "All", "", table=table.head(5), best="accuracy").rows
    assert short is not None
    assert len(short) == 5


def test_a_large_heat_map_is_as_small_as_others():
    table = pd.DataFrame(np.random.default_rng(0).random((1000, 10)), range(1000), range(10))
    figure = draw_heat_map(table, "many", "%")
    assert max(figure.get_size_inches()) < 21
    assert not figure.axes[0].texts  # colours alone


def test_very_many_names_are_cut_and_seeds_are_a_range():
    names = [str(n) for n in range(MOST_NAMED + 5)]
    assert some(names) == [*names[:MOST_NAMED], "and 5 more"]
    assert some(names[:3]) == names[:3]
    assert seeds_word(range(3, 6)) == "seed=3,4,5"
    assert seeds_word({5, 3}) == "seed=3,5"
    assert seeds_word(range(2, 300)) == "seed=range(2,300)"
    assert seeds_word([*range(200), 999]).count(",") == 200
