"""The picture of the nights: what is drawn of them stays where scores can be."""

import pytest

from infra.trend import MOVED, Point, trend_picture


@pytest.mark.parametrize(("scores", "within"), [((0.0, 0.97, 1.0), True), ((-2.1, -2.0, -1.9), False)])
def test_the_axis_of_shares_ends_at_one(scores: tuple[float, ...], within: bool) -> None:
    """Minus nats per byte lie elsewhere."""
    points = [Point(night, score, score - 0.1, score + 0.1, score - 0.2, score + 0.2, score, "")
              for night, score in enumerate(scores)]
    (axes,) = trend_picture("t", {"facts": points}).axes
    low, high = axes.get_ylim()
    assert ((low, high) == (0.0, 1.0)) == within
    assert within or low < -2.2 < -1.8 < high


def test_what_is_judged_of_a_night_is_marked() -> None:
    """A regression, drift and a rise each with its own mark, others with none."""
    nights = [(0.5, "regression"), (0.6, "drift"), (0.8, ""), (0.95, "")]
    points = [Point(night, score, score - 0.1, score + 0.1, 0.7, 0.9, 0.8, judged)
              for night, (score, judged) in enumerate(nights, start=1)]
    figure = trend_picture("t", {"facts": points})
    (axes,) = figure.axes
    marks = {str(one.get_label()): one.get_offsets().tolist() for one in axes.collections}
    assert {kind: marks[kind] for kind in MOVED} == {
        "regression": [[1.0, 0.5]], "drift": [[2.0, 0.6]], "risen": [[4.0, 0.95]]}
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= set(MOVED)
