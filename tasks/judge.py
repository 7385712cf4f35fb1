"""Open-ended answers of base and tuned, judged by the configuration's judge or by people."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval_suites.backends.endpoint import Endpoint, Usage
from eval_suites.judge.gold import OWN, Agreement, against_people, read_gold, shown_agreement
from eval_suites.judge.human import Raters, Sheet, as_csv, as_html, between_raters, label_results, read_labels, sheet_of
from eval_suites.judge.pairwise import judge_pairs
from eval_suites.judge.single import judge_single
from eval_suites.judge.summary import WinRate, win_rate
from eval_suites.judge.talk import Judge, judge_at, unjudged
from eval_suites.results import SuiteResult, commonest, read_results, too_few, write_results
from infra.contract import Tracker
from infra.settings import secret
from sft_core.config.evaluate import JUDGED, JudgeSection
from sft_core.errors import EvalError
from sft_core.names import file_name
from sft_core.stage import fingerprint, read_json, write_json
from tasks.runs import find, local_runs
from tasks.stages import Workspace

Results = Mapping[str, SuiteResult]
log = logging.getLogger("sft")


class Judged(NamedTuple):
    """Judged suites of both, what the judge agrees with people, and what it cost."""

    base: dict[str, SuiteResult]
    tuned: dict[str, SuiteResult]
    agreement: Agreement
    usage: Usage

    def win_rates(self) -> list[WinRate]:
        """One per suite that was judged in pairs."""
        return [win_rate(self.base[name], self.tuned[name]) for name in self.base if name.endswith(":pairwise")]

    def lines(self) -> tuple[str, ...]:
        """How far the judge agrees with the gold set, what that says of the rates, and what it cost."""
        usage, doubt = self.usage, self.agreement.doubt
        return (*[f"NOTE    {doubt}"] * bool(doubt), f"agreement with the gold set  {shown_agreement(self.agreement)}",
                f"judge   {usage.calls} calls, {usage.kept} kept answers, {usage.prompt_tokens} + "
                f"{usage.completion_tokens} tokens, cost {usage.cost:.4f}")

    @property
    def measured(self) -> Judged:
        """The suites of which enough was judged on both sides."""
        names = [name for name in self.base if self.base[name].score is not None and self.tuned[name].score is not None]
        return self._replace(base={name: self.base[name] for name in names},
                             tuned={name: self.tuned[name] for name in names})

    def failures(self) -> list[str]:
        """Every suite of which too little was judged, and the gold set if it was so, with the most frequent reason."""
        said = []
        for label, results in (("base", self.base), ("tuned", self.tuned)):
            for name, result in results.items():
                in_pairs = name.endswith(JUDGED["pairwise"])  # one verdict on both sides
                left = [item.why for item in result.items if item.score is None]
                if left and result.score is None and not (in_pairs and label == "base"):
                    whose = name if in_pairs else f"{name} of {label}"
                    few = too_few(whose, (result.n - len(left), result.n), result.min_scored, "were judged")
                    said.append(f"{few}; {commonest(left)}")
        if self.agreement.accuracy.estimate is None:
            said.append(f"agreement with the gold set {self.agreement.accuracy.method}")
        return said

    def plain(self) -> dict[str, Any]:
        """All numbers, for `judge.json`."""
        return {
            "win_rates": [_plain(one) for one in self.win_rates()],
            "scores": {label: {name: result.tally._asdict() for name, result in results.items()}
                       for label, results in (("base", self.base), ("tuned", self.tuned))},
            "agreement": {**_plain(self.agreement), "doubt": self.agreement.doubt}, "usage": _plain(self.usage),
            "not_measured": self.failures(),
        }


def judged(base: Results, tuned: Results, section: JudgeSection | None, place: Workspace, out: Path
           ) -> tuple[dict[str, SuiteResult], dict[str, SuiteResult]]:
    """Both sides' results with the judged suites added; unchanged where there is no judge or no open-ended suite.

    What the judgements came to, how far the judge agrees with people and what it cost is logged and stands in
    `out/judge.json`.

    Raises:
        ConfigError: the judge's key is not set.
    """
    if section is None or not open_ended(base, tuned):
        return dict(base), dict(tuned)
    found = judge_all(base, tuned, section, place)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "judge.json", found.plain())
    for line in (*(", ".join(f"{name} {value}" for name, value in one.row().items()) for one in found.win_rates()),
                 *found.lines()):
        log.info("%s", line)
    for line in (*found.failures(), *filter(None, [found.agreement.doubt])):
        log.warning("%s", line)
    return {**base, **found.base}, {**tuned, **found.tuned}


def judge_all(base: Results, tuned: Results, section: JudgeSection, place: Workspace) -> Judged:
    """Ask the judge about all open-ended suites and about the gold set. What it does not answer is unscored.

    Raises:
        EvalError: no open-ended suite, or an unreadable gold set.
        ConfigError: the judge's key is not set.
    """
    names = open_ended(base, tuned)
    if not names:
        raise EvalError("neither has answers to an open-ended suite that the other has too; evaluate both with "
                        "--suite open_ended or --suite mt_bench")
    gold = read_gold(Path(section.gold) if section.gold else OWN)
    endpoint, judge = asked_at(section, place)
    before, after = {}, {}
    for name in names:
        made = (judge_pairs(base[name], tuned[name], judge) if section.mode == "pairwise"
                else (judge_single(base[name], judge), judge_single(tuned[name], judge)))
        before[made[0].suite], after[made[1].suite] = made
    return Judged(before, after, against_people(gold, judge, base[names[0]].min_scored), endpoint.usage)


def asked_at(section: JudgeSection, place: Workspace) -> tuple[Endpoint, Judge]:
    """The judge's endpoint; its answers are kept in the workspace."""
    endpoint = Endpoint(section.endpoint, secret(section.endpoint.key_env), kept_at(place))
    return endpoint, judge_at(endpoint, section.endpoint.model, section.max_tokens)


def kept_at(place: Workspace) -> Path:
    """The file of a judge's kept replies."""
    return place.root / "cache" / "judge.jsonl"


def open_ended(base: Results, tuned: Results) -> list[str]:
    """The suites of both whose answers only a judge can score."""
    return [name for name in base if name in tuned and unjudged(base[name])]


def results_at(reference: str, place: Workspace, tracker: Tracker) -> dict[str, SuiteResult]:
    """Results in a folder that an evaluation wrote, or the tuned ones of a recorded run.

    Raises:
        EvalError, TrackingError: there are none.
    """
    folder = Path(reference)
    if folder.is_dir() and reference not in local_runs(place.runs):
        names = [read_json(file, "suite")["suite"] for file in sorted(folder.glob("*.json")) if file.with_suffix(
            ".parquet").exists()]
        if not names:
            raise EvalError(f"{folder} holds no results; give a folder with SUITE.json and SUITE.parquet, or a run")
        return {name: read_results(folder, name) for name in names}
    return find(reference, place, tracker).results()


def folder_of(first: str, second: str, section: JudgeSection, place: Workspace) -> Path:
    """Where the judgements of these two by this judge are kept."""
    return place.root / "judged" / fingerprint(first, second, section)


def write_judged(found: Judged, out: Path) -> Path:
    """Per-item results in `out/base` and `out/tuned`, and `out/judge.json` with all numbers."""
    for label, results in (("base", found.base), ("tuned", found.tuned)):
        for result in results.values():
            write_results(out / label, result)
    path = out / "judge.json"
    write_json(path, found.plain())
    return path


def _plain(value: Any) -> Any:
    """Named tuples as mappings, all the way down."""
    return {key: _plain(one) for key, one in value._asdict().items()} if hasattr(value, "_asdict") else value


def export_sheets(base: Results, tuned: Results, out: Path, seed: int) -> list[Path]:
    """One CSV and one HTML sheet per open-ended suite.

    Raises:
        EvalError: there is no open-ended suite that both have.
    """
    made = []
    for name, sheet in _sheets(base, tuned, seed).items():
        out.mkdir(parents=True, exist_ok=True)
        for ending, text in (("csv", as_csv(sheet)), ("html", as_html(sheet))):
            made.append(out / f"{file_name(name)}.{ending}")
            made[-1].write_text(text, encoding="utf-8")
    return made


def import_labels(base: Results, tuned: Results, files: Sequence[Path], seed: int
                  ) -> tuple[list[WinRate], list[Raters]]:
    """People's labels, one file per rater and sheet: win rates, and how far every two raters of a sheet agree. A rater
    is called as the file is.

    Raises:
        EvalError: a file is of another sheet or has wrong rows.
    """
    rates, found = [], list[Raters]()
    sheets = _sheets(base, tuned, seed)
    texts = {file: _text(file) for file in files}
    for name, sheet in sheets.items():
        mine = [file for file in files if sheet.name in texts[file]] or (list(files) if len(sheets) == 1 else [])
        if not mine:
            continue
        raters = {str(file): read_labels(texts[file], sheet, file) for file in mine}
        rates.append(win_rate(*label_results(base[name], tuned[name], sheet, list(raters.values()))))
        found += between_raters(name, raters)
    if not rates:
        raise EvalError(f"none of {', '.join(map(str, files))} belongs to a sheet of these two; give the same results "
                        "in the same order and the same --seed as at export")
    return rates, found


def _sheets(base: Results, tuned: Results, seed: int) -> dict[str, Sheet]:
    names = open_ended(base, tuned)
    if not names:
        raise EvalError("there is no open-ended suite that both have answered; evaluate both with --suite open_ended")
    return {name: sheet_of(base[name], tuned[name], seed) for name in names}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"the labels {file} cannot be read: {error}") from error
