"""What a front reaches together, and how surely, against a count by hand."""

import numpy as np
import pytest

from eval_suites.front.attainment import attained

# [draws, points, objectives]: alignment and capability of the base and of two points, in shares
BOTH = np.array([[[0.5, 0.8], [0.7, 0.7], [0.6, 0.8]],
                 [[0.5, 0.8], [0.6, 0.7], [0.6, 0.6]],
                 [[0.4, 0.9], [0.7, 0.6], [0.5, 0.8]],
                 [[0.5, 0.8], [0.5, 0.8], [0.7, 0.8]]])


def least(level: float, alignment: float, of: range) -> float | None:
    """The least tax that is attained with this alignment in that share of the draws, by trying all of them."""
    taxes = [100 * (draw[0, 1] - draw[at, 1]) for draw in BOTH for at in of]
    for tax in sorted(taxes):
        hit = [any(100 * draw[at, 0] >= alignment and 100 * (draw[0, 1] - draw[at, 1]) <= tax + 1e-9 for at in of)
               for draw in BOTH]
        if np.mean(hit) >= level:
            return float(tax)
    return None


@pytest.mark.parametrize("of", [range(3), range(1, 3)])
def test_it_is_the_share_of_draws_in_which_any_point_does_it(of: range) -> None:
    found = attained(BOTH, 0, of, (0.25, 0.5, 1.0))
    assert list(found) == ["25", "50", "100"]
    for level, surface in zip((0.25, 0.5, 1.0), found.values(), strict=True):
        assert surface
        assert [tax for _, tax in surface] == pytest.approx([least(level, step, of) for step, _ in surface])
        assert least(level, surface[-1][0] + 0.2, of) is None, "the last step but for the grid"
    assert found["100"][-1][0] < found["25"][-1][0]


def test_what_is_never_reached_is_left_out() -> None:
    assert attained(BOTH[:, :1], 0, [0], (1.0,))["100"][-1][0] < 50
    assert {tax for _, tax in attained(BOTH[:, :1], 0, [0], (1.0,))["100"]} == {0.0}
