"""A rate seen through an imperfect scorer, corrected for the scorer's errors."""

from __future__ import annotations

import math

from eval_suites.statistics.intervals import Interval, wilson, z_of

METHOD = "Rogan-Gladen, Lang-Reiczigel"


def rogan_gladen(  # noqa: PLR0913 (three samples and a level)
    rate_hits: float, n: float, sens_hits: int, sens_n: int, spec_hits: int, spec_n: int, alpha: float = 0.05,
) -> Interval:
    """The true rate behind a scorer whose errors were counted on labelled answers.

    Rogan and Gladen 1978, American Journal of Epidemiology 107:71, with the interval of Lang and Reiczigel 2014,
    Preventive Veterinary Medicine 113:13, which carries the uncertainty of all three samples (they are independent).

    Args:
        rate_hits, n: answers that the scorer called positive (e.g. refused), of all `n`. Of clustered or weighted
            answers: mean × n, where n is the effective number (`stats.effective_items`).
        sens_hits, sens_n: of `sens_n` labelled positives, those that the scorer called positive.
        spec_hits, spec_n: of `spec_n` labelled negatives, those that it called negative.
        alpha: error probability of the interval.

    Returns:
        The corrected rate in [0, 1]. Where the scorer is no better than a coin or something was not measured, the
        estimate is None and the interval everything.

    Raises:
        ValueError: a count of hits is negative or above its number.
    """
    rate_hits = min(rate_hits, n) if rate_hits <= n * (1 + 1e-9) else rate_hits  # a weighted mean of ones, rounded
    for hits, of in ((rate_hits, n), (sens_hits, sens_n), (spec_hits, spec_n)):
        if not 0 <= hits <= of:
            raise ValueError(f"{hits} hits of {of} are no counts")
    if min(n, sens_n, spec_n) == 0:
        return Interval(None, 0.0, 1.0, round(n), f"{METHOD}: nothing to correct or to correct with")
    sens, spec = sens_hits / sens_n, spec_hits / spec_n
    if sens + spec <= 1:
        return Interval(None, 0.0, 1.0, round(n), f"{METHOD}: the scorer is no better than chance")
    estimate = (rate_hits / n + spec - 1) / (sens + spec - 1)
    low, high = _limits((rate_hits, n), (sens_hits, sens_n), (spec_hits, spec_n), alpha)
    estimate = min(max(estimate, 0.0), 1.0)
    plain_low, plain_high = wilson(rate_hits / n, n, alpha)
    # Beyond 0 or 1 the samples contradict each other (more hits than the scorer's misses allow): the bound of the
    # uncorrected rate then stands, so that a contradiction never looks like certainty.
    low, high = (plain_low if low >= 1 else low), (plain_high if high <= 0 else high)
    return Interval(estimate, min(low, estimate), max(high, estimate), round(n), METHOD)


def _limits(rate: tuple[float, float], sens: tuple[int, int], spec: tuple[int, int], alpha: float
            ) -> tuple[float, float]:
    """Lang and Reiczigel's limits: z² / 2 hits and as many misses join the rate, one each the labelled samples."""
    z = z_of(alpha)
    size = rate[1] + z * z
    seen = (rate[0] + z * z / 2) / size
    (se, se_n), (sp, sp_n) = (((hits + 1) / (of + 2), of + 2) for hits, of in (sens, spec))
    better = se + sp - 1
    if better <= 0:
        return 0.0, 1.0
    true = (seen + sp - 1) / better
    of_sens, of_spec = se * (1 - se) / se_n, sp * (1 - sp) / sp_n
    half = z * math.sqrt(seen * (1 - seen) / size + true**2 * of_sens + (1 - true) ** 2 * of_spec) / better
    shift = 2 * z * z * (true * of_sens - (1 - true) * of_spec)
    return max(true + shift - half, 0.0), min(true + shift + half, 1.0)
