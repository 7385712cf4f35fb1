"""The stage `verdict`: base results × tuned results → what was bought, what it cost, and whether the gate passes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from eval_suites.judge.talk import unjudged
from eval_suites.report.tables import Report, report
from eval_suites.results import SuiteResult, mean_metric, reason, write_results
from eval_suites.statistics.floor import Floor
from eval_suites.statistics.pairing import mean_score
from eval_suites.verdict.flips import Flip, flips, word_diff
from eval_suites.verdict.known import NOTHING_KNOWN, Known, Names
from eval_suites.verdict.outcome import shown_score
from eval_suites.verdict.verdict import Verdict, compare
from infra.orchestrator import stage_task
from sft_core.config.evaluate import JUDGED, GateSection
from sft_core.stage import fingerprint, write_json
from tasks.stages import Workspace, once, version

__all__ = ["Compared", "Flip", "Floor", "Known", "Names", "Report", "Results", "SuiteResult", "Verdict", "compared",
           "foresee", "keep", "listed", "reach_verdict", "reason", "told_of", "with_variants", "word_diff",
           "write_verdict"]
Results = Mapping[str, SuiteResult]
log = logging.getLogger("sft")


@stage_task("verdict")
def reach_verdict(
    base: Results, tuned: Results, gate: GateSection, known: Known = NOTHING_KNOWN,
) -> Verdict:
    """Compare paired results under the declared gate.

    Args:
        base, tuned: results by suite.
        gate: what is asked for.
        known: what is known beside them; its contaminated items are without their variants' endings, a suite that is
            missing has none, and None stands where none was looked for.

    Raises:
        EvalError: the protocols of base and tuned differ.
    """
    contaminated = known.contaminated
    found = {name: with_variants(contaminated.get(_asked(name), ()), base[name]) for name in base
             } if contaminated is not None else None
    return compare(base, tuned, gate, known._replace(contaminated=found))


def foresee(base: Results, gate: GateSection, looks: int, place: Workspace) -> None:
    """Log what the comparison, in so many looks, can find, before the tuned model is trained or asked."""
    from eval_suites.verdict.power import foreseen, terms_of

    known = {name: (one.protocol_hash, one.model, one.n, one.score) for name, one in base.items()}
    terms = terms_of(gate, (one.kind for one in base.values()), looks)
    stage = place.shared("power", fingerprint("power", version("power"), known, gate, looks))
    for line in once(stage, lambda _: {"said": [foreseen(one, terms) for one in base.values()]}).result["said"]:
        log.info("%s", line)


def _asked(name: str) -> str:
    """The suite whose questions these are: judged ones add an ending."""
    ending = next((ending for ending in JUDGED.values() if name.endswith(ending)), "")
    return name.removesuffix(ending)


def with_variants(ids: Collection[str], result: SuiteResult) -> set[str]:
    """Ids of the result's items that are one of these or a variant of it (`id~variant`)."""
    known = set(ids)
    return {item.item_id for item in result.items if item.item_id in known or item.item_id.split("~")[0] in known}


class Compared(NamedTuple):
    """A verdict with everything that a person reads of it."""

    verdict: Verdict
    report: Report
    flips: dict[str, list[Flip]]
    base: Results
    tuned: Results


def compared(verdict: Verdict, base: Results, tuned: Results) -> Compared:
    """The report and the changed items of a verdict."""
    changed = {name: flips(base[name], tuned[name]) for name in tuned}
    return Compared(verdict, report(verdict, base, tuned), changed, base, tuned)


def keep(folder: Path, results: Results) -> None:
    """Write per-item results, Parquet and JSON, one pair of files per suite."""
    for result in results.values():
        write_results(folder, result)


def write_verdict(folder: Path, verdict: Verdict) -> None:
    """`verdict.json` and `tax.png`."""
    from eval_suites.report.plot import forest_png

    write_json(folder / "verdict.json", verdict.to_dict())
    (folder / "tax.png").write_bytes(forest_png(verdict))


def told_of(row: Mapping[str, object]) -> str:
    """A row of a verdict's table as a line of a log."""
    interval = next(text for head, text in row.items() if "interval" in head)
    return f"{row['suite']}: {row['base']} → {row['tuned']}, {row['tax / win']} ({interval}): {row['outcome']}"


def listed(results: Mapping[str, SuiteResult]) -> list[dict[str, object]]:
    """One row per suite with its score and 95 % interval, items clustered as the suite says."""
    rows: list[dict[str, object]] = []
    for name, result in results.items():
        evidence = mean_score(result)
        span = evidence.interval(0.05) if evidence else None
        ends = [shown_score(end, result.scale) for end in (span.low, span.high)] if span else []
        stopped = mean_metric(result.items, "stopped")
        rows.append({
            "suite": name, "score": shown_score(result.score, result.scale) if span else (
                "waits for a judge" if unjudged(result) else "not measured"),
            "95 % interval": " to ".join(ends[::-1] if result.scale == "log" else ends) or "–",
            "items": result.n, "unscored": result.tally.unscored,
            "stop rate": "–" if stopped is None else f"{100 * stopped:.0f} %", "seconds": f"{result.seconds:.1f}",
            "backend": result.backend, "protocol": result.protocol_hash[:8],
        })
    return rows
