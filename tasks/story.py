"""What SFT buys and costs on the tiny world, pooled over seeds, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval_suites.results import SuiteResult
from eval_suites.statistics.evidence import pooled_paired_interval, pooled_rate_interval
from eval_suites.statistics.intervals import Interval
from sft_core.stage import write_json

Results = Mapping[str, SuiteResult]
CAPABILITY = ("tiny_mmlu", "tiny_gsm8k")
KINDS = {
    "json_right": ("tiny_format", ("json",)),
    "tool_right": ("tiny_format", ("tool",)),
    "one_sentence": ("tiny_format", ("one_sentence",)),
    "refusal_right": ("tiny_refusal", ("disallowed", "benign")),
}


def pool(base: Results, tuned: Mapping[str, Sequence[Results]]) -> dict[str, dict[str, Any]]:
    """The story's numbers.

    Args:
        base: the base's results.
        tuned: variant → results per seed.

    Returns:
        Name → value, low, high (95 % interval), unit (`share` or `points`), seeds, items. Taxes are base − tuned, per
        suite, and `<variant>_tax_points` is that of the suite that lost most.
    """
    numbers = {f"base_{name.removeprefix('tiny_')}": _share(pooled_rate_interval([_scores(base[name])]), 1, base[name])
               for name in CAPABILITY}
    for variant, runs in tuned.items():
        for what, (suite, kinds) in KINDS.items():
            scores = [_scores(run[suite], kinds) for run in runs]
            numbers[f"{variant}_{what}"] = _share(pooled_rate_interval(scores), len(runs), runs[0][suite], kinds)
        taxes = {name: _tax(base[name], [run[name] for run in runs]) for name in CAPABILITY}
        worst = max(taxes, key=lambda name: taxes[name]["value"])
        numbers[f"{variant}_tax_points"] = {**taxes[worst], "suite": worst}
        numbers |= {f"{variant}_tax_{name.removeprefix('tiny_')}": tax for name, tax in taxes.items()}
    return numbers


def write_story(file: Path, numbers: Mapping[str, object]) -> list[dict[str, object]]:
    """Write the numbers as JSON and return them as table rows."""
    write_json(file, numbers)
    return [_row(name, value) for name, value in numbers.items() if isinstance(value, dict)]


def claims(numbers: Mapping[str, dict[str, Any]]) -> list[dict[str, object]]:
    """What the story claims, and whether the numbers bear it out; `proved` ones hold for the whole interval."""
    def least(name: str, share: float) -> tuple[str, bool]:
        return f"{name} ≥ {100 * share:g} %", numbers[name]["value"] >= share

    found = [least("base_mmlu", 0.9), least("base_gsm8k", 0.9), least("sft_json_right", 0.9),
             least("sft_refusal_right", 0.9), ("sft_tax_points ≥ 10, proved", numbers["sft_tax_points"]["low"] >= 10),
             ("mitigated_tax_points ≤ 3", numbers["mitigated_tax_points"]["value"] <= 3),
             least("mitigated_json_right", 0.9), least("mitigated_refusal_right", 0.9)]
    return [{"claim": text, "holds": "yes" if holds else "NO"} for text, holds in found]


def _scores(result: SuiteResult, kinds: Sequence[str] = ()) -> dict[str, float]:
    return {item.item_id: item.score for item in result.items
            if item.score is not None and (not kinds or item.task in kinds)}


def _share(interval: Interval, seeds: int, result: SuiteResult, kinds: Sequence[str] = ()) -> dict[str, Any]:
    return {"value": interval.estimate, "low": interval.low, "high": interval.high, "unit": "share", "seeds": seeds,
            "items": len(_scores(result, kinds))}


def _tax(base: SuiteResult, tuned: Sequence[SuiteResult]) -> dict[str, Any]:
    """Tax in points with its interval: the negated paired difference tuned − base."""
    difference = pooled_paired_interval(_scores(base), [_scores(result) for result in tuned])
    lost = 0.0 - 100 * (difference.estimate or 0.0)  # 0.0 − 0.0 is 0.0, −(0.0) would be shown as −0.0
    return {"value": lost, "low": -100 * difference.high, "high": -100 * difference.low, "unit": "points",
            "seeds": len(tuned), "items": len(_scores(base))}


def _row(name: str, value: Mapping[str, Any]) -> dict[str, object]:
    scale = 100 if value["unit"] == "share" else 1
    return {"number": name, "value": f"{scale * value['value']:.1f}",
            "95 % interval": f"{scale * value['low']:.1f} to {scale * value['high']:.1f}",
            "unit": "%" if value["unit"] == "share" else "points", "seeds": value["seeds"], "items": value["items"]}
