"""Tables hold the numbers, pictures are drawn, whatever the scores."""

import io
import sys

import numpy as np
import pytest
from rich.console import Console

from tiltrl.errors import InputError
from tiltrl.evaluation.report import Row, draw, print_table
from tiltrl.evaluation.scores import interval

DATA = Row("data", np.array([[10.0, 20.0, 50.0]]), logged=True)
POLICY = Row("[b]EDA[/b]", np.array([[40.0, 45.0], [35.0, 40.0]]))


def printed(rows):
    text = io.StringIO()
    print_table(rows, "raw return, Toy-v0", Console(file=text, width=120))
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_table_holds_mean_interval_episodes_median_and_share_of_the_best():
    title, heads, data, policy = printed([DATA, POLICY])
    known = interval(POLICY.scores)
    assert title == "raw return, Toy-v0"
    assert heads == "policy mean 95 % interval episodes median of data's best"
    assert data == "data 26.7 10.0 to 50.0 3 20.0 53%"
    assert policy == f"[b]EDA[/b] 40.0 {known.low:.1f} to {known.high:.1f} 2 x 2 40.0 80%"


def test_table_has_a_dash_where_there_is_no_spread_no_data_or_no_positive_best():
    single = Row("EDA", np.array([[-1234.56]]))
    assert printed([single])[2:] == ["EDA -1,235 - 1 -1,235 -"]
    assert printed([Row("data", np.array([[-2.0, -0.01]]), logged=True)])[2].endswith("2 -1.0 -")


@pytest.mark.parametrize(
    "rows",
    [
        [DATA, POLICY],
        [Row("one", np.array([[3.0]]))],
        [Row("constant", np.full((2, 5), -7.0)), Row("many", np.random.default_rng(0).normal(0, 1e5, (1, 3000)))],
    ],
)
def test_draws_a_png_without_touching_pyplot(tmp_path, rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would fail
    draw(rows, "raw return, Toy-v0", tmp_path / "a.png", "Toy")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(InputError, match="a.png: no rows to draw"):
        draw([], "raw return", tmp_path / "a.png", "Toy")
