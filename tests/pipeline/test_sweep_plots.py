"""What a sweep's pictures say: what its values hang on, how far it got, and a line for every trial."""

import math
import random
from pathlib import Path

import pytest

from infra.importances import importances
from infra.pareto import Dot, Spread, picture
from infra.plans import Dimension
from infra.study_contract import TrialRow
from infra.sweep_plots import Shown, sweep_pictures, volume, write_sweep_plots
from tasks.pages.sweep import Sweep, write_sweep_page

SPACE = {"lr": Dimension(1e-5, 1e-2, log=True), "method": Dimension(choices=("full", "lora")),
         "rank": Dimension(4, 64, whole=True, when={"method": ("lora",)}), "epochs": Dimension(0.5, 3.0)}
LABELS = {"alignment": "alignment score (points)", "tax": "tax (points)"}


def row(number: int, alignment: float, tax: float, beyond: float = 0.0) -> TrialRow:
    return TrialRow(number, "COMPLETE", {}, {"alignment": alignment, "tax": tax}, {}, {"tax <= 9": beyond})


def trials(count: int) -> list[TrialRow]:
    """Alignment hangs on how far the learning rate is from a low one, with lora on the rank as well; tax on nothing."""
    drawn, found = random.Random(0), []
    for number in range(count):
        method = drawn.choice(["full", "lora"])
        params = {"lr": 10 ** drawn.uniform(-5, -2), "method": method, "epochs": drawn.uniform(0.5, 3.0)}
        rank = drawn.randint(4, 64)
        params |= {"rank": rank} if method == "lora" else {}
        alignment = params.get("rank", 0) / 32 - 9 * (math.log10(params["lr"]) + 4.3) ** 2 + drawn.gauss(0.0, 1.0)
        found.append(TrialRow(number, "COMPLETE", params, {"alignment": alignment, "tax": 1.0}, {}))
    return found


def test_the_field_that_decides_comes_first() -> None:
    rows = trials(24)
    outside = TrialRow(24, "PRUNED", {"lr": 1.0, "method": "full", "epochs": 1.0}, {"alignment": 99.0, "tax": 1.0}, {})
    failed = TrialRow(25, "FAIL", {}, None, {})
    (alignment,) = importances([*rows, outside, failed], SPACE).values()  # tax hangs on nothing
    with_rank = sum("rank" in one.params for one in rows)
    assert alignment["lr"].share > 0.8
    assert {field: one.trials for field, one in alignment.items()} == {
        "lr": 24, "method": 24, "epochs": 24, "rank": with_rank}
    assert sum(one.share for field, one in alignment.items() if field != "rank") == pytest.approx(1.0)


def test_hypervolume_is_the_share_of_the_best_rectangle_seen() -> None:
    rows = [row(0, 60.0, 4.0), row(1, 80.0, 8.0), row(2, 50.0, 4.0), row(3, 100.0, 0.0, beyond=1.0), row(4, 80.0, 2.0)]
    found = volume(rows, ("alignment", "tax"), base=40.0)
    assert found.reference == (40.0, 8.0)
    # Of 60 × 8: nothing costs less than trial 3, which breaks a limit and dominates nothing itself.
    assert found.shares == pytest.approx([20 * 4 / 480] * 4 + [40 * 6 / 480])
    assert volume(rows, ("alignment", "tax"), base=None).reference == (50.0, 8.0)
    assert volume(rows[:1], ("alignment", "tax"), base=60.0).shares == [0.0]


def test_pictures_and_pages(tmp_path: Path) -> None:
    own = TrialRow(8, "PRUNED", {"lr": 0.0, "method": "qlora", "epochs": 9.0}, {"alignment": -40.0, "tax": 1.0}, {})
    rows = [*trials(8), own]  # the configuration itself, which lies outside the space
    shown = Shown("s", SPACE, LABELS, importances(rows, SPACE), base=-50.0)
    pictures = sweep_pictures(rows, shown)
    files = write_sweep_plots(pictures, tmp_path)
    assert [file.name for file in files] == ["history.png", "parallel.png", "importances.png"]
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in files)
    dot = Dot("8", Spread(-40.0, -45.0, -35.0), Spread(1.0, 0.0, 2.0), "default", False, False,
              ["trial 8", "lr: <0>"], "r")
    table = [{"trial": "8 default", "alignment score (points)": "-40.0", "train.optim.lr": "0"},
             {"trial": "0 = 8", "alignment score (points)": "—", "train.optim.lr": "1"}]
    sweep = Sweep("s", "nothing is <proposed>", "what columns mean", [dot], LABELS, table, {"8": "../r.html"}, pictures)
    page = write_sweep_page(sweep, tmp_path).read_text(encoding="utf-8")
    assert "hypervolume (%, from alignment score -50, tax 1)" in page
    assert ">—</text>" in page  # on the axis of ranks, of trials without one
    assert "9 trials are few, this is hardly more than a guess" in page
    assert "nothing is &lt;proposed&gt;" in page
    assert '<a href="../r.html">8 default</a>' in page
    said = "trial 8; lr: &lt;0&gt;; alignment score (points) -40 (-45 to -35), tax (points) 1 (0 to 2)"
    assert page.count(f'data-tip="{said}"') == 2  # its point, and its line
    assert '<a xlink:href="r"' in page
    assert '<th scope="col">lr</th>' in page
    assert "what columns mean lr: <code>train.optim.lr</code>." in page
    assert len(page) < 2_000_000
    assert sweep_pictures(rows[:1], shown) == {}


def test_points_at_one_place_have_one_label_and_a_flat_course_is_flat() -> None:
    """The name of the base lay under those of five trials; a course of zeros was drawn from -0.04 to 0.04."""
    flat = Spread(0.0, -9.0, 9.0)
    drawn = picture([Dot(name, flat, flat, "base" if name == "base" else "", True, False, [])
                     for name in ("base", *"0123456789")], LABELS)
    (label,) = drawn.axes[0].texts
    assert label.get_text() == "base, 0, 1, 2, 3, 4, 5, 4 more"
    assert label.get_zorder() > max(one.get_zorder() for one in drawn.axes[0].collections)
    course = sweep_pictures([row(number, 50.0, 0.0) for number in range(3)], Shown("s", SPACE, LABELS, {}, 0.0))
    first, second, volume = (axes.get_ylim() for axes in course["history"].axes)
    assert (first, second) == ((49.5, 50.5), (-0.5, 0.5))
    assert volume == (-5.0, 105.0)
    assert all(float(one).is_integer() for one in course["history"].axes[-1].get_xticks())
