"""The picture of the nights: what is drawn of them stays where scores can be."""

import pytest

from infra.trend import Point, trend_picture


@pytest.mark.parametrize(("scores", "within"), [((0.0, 0.97, 1.0), True), ((-2.1, -2.0, -1.9), False)])
def test_the_axis_of_shares_ends_at_one(scores: tuple[float, ...], within: bool) -> None:
    """Minus nats per byte lie elsewhere."""
    points = [Point(night, score, score - 0.1, score + 0.1, score - 0.2, score + 0.2, score)
              for night, score in enumerate(scores)]
    (axes,) = trend_picture("t", {"facts": points}).axes
    low, high = axes.get_ylim()
    assert ((low, high) == (0.0, 1.0)) == within
    assert within or low < -2.2 < -1.8 < high
