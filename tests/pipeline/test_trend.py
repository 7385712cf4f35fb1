"""The picture of the nights: what is drawn of them stays where scores can be."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from infra.contract import TrackedRun
from infra.trend import MOVED, NAMES, Point, trend_picture
from tasks import nights
from tasks.nights import Found, trend
from tasks.stages import Workspace


@pytest.mark.parametrize(("scores", "within"), [((0.0, 0.97, 1.0), True), ((-2.1, -2.0, -1.9), False)])
def test_the_axis_of_shares_ends_at_one(scores: tuple[float, ...], within: bool) -> None:
    """Minus nats per byte lie elsewhere."""
    points = [Point(night, score, score - 0.1, score + 0.1, score - 0.2, score + 0.2, score, "")
              for night, score in enumerate(scores)]
    (axes,) = trend_picture("t", {"facts": points}).axes
    low, high = axes.get_ylim()
    assert ((low, high) == (0.0, 100.0)) == within
    assert axes.get_ylabel() == ("points" if within else "−nats per byte")
    markers = axes.containers[0].lines[0]
    assert markers.get_ydata()[-1] == pytest.approx(100 if within else -1.9)  # type: ignore[index]
    assert not markers.get_clip_on(), "half of one at the upper end was cut off"
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
        "regression": [[1.0, 50.0]], "drift": [[2.0, 60.0]], "risen": [[4.0, 95.0]]}
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= set(MOVED)


def test_the_limits_of_a_single_night_are_seen() -> None:
    """A band of no width was drawn."""
    (axes,) = trend_picture("t", {"champion/facts": [Point(7, 0.5, 0.4, 0.6, 0.3, 0.7, 0.5, "")]}).axes
    corners = axes.collections[0].get_paths()[0].vertices
    assert (corners[:, 0].min(), corners[:, 0].max()) == (6.5, 7.5)
    assert (corners[:, 1].min(), corners[:, 1].max()) == pytest.approx((30.0, 70.0))
    assert axes.get_title(loc="left") == "champion/facts"


def test_every_alias_is_drawn_and_so_many_as_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence spoke of two versions with six suites, and the picture had the champion's two."""
    runs = [TrackedRun("1", "n", "FINISHED", 0.0, {}, {
        f"{alias}/{suite}/{name}": 0.5 for alias in ("candidate", "champion") for suite in suites for name in NAMES},
        Found("quiet", "well", frozenset(), frozenset()).tags("helper", number))
        for number, suites in ((1, ("old", "facts")), (2, ("facts", "form")))]
    tracker = Mock(**{"recent.return_value": runs})
    picture, page = trend("helper", tracker, Workspace(tmp_path, None))
    assert picture.stat().st_size > 5000
    text = page.read_text("utf-8")
    assert all(f">{alias}/{suite}</text>" in text for alias in ("candidate", "champion")
               for suite in ("facts", "form", "old"))
    assert "<h1>helper, 2 nights</h1>" in text
    monkeypatch.setattr(nights, "MOST_PANELS", 4)
    text = trend("helper", tracker, Workspace(tmp_path, None))[1].read_text("utf-8")
    assert "<h1>helper, 2 nights, 4 of 6 courses</h1>" in text
    assert "/old</text>" not in text
