"""What is asked of a model before and after training, who judges it, and when the result is good enough."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from sft_core.config.reading import parse
from sft_core.config.section import OffIsWord, Positive, Section, Share, without_password
from sft_core.errors import ConfigError
from sft_core.names import name_problem

SUFFIXES = (".yaml", ".yml")
"""How the path of a suite of the user's own ends."""


def suite_name(reference: str) -> str:
    """What a suite is called in results, verdicts, gates, metrics and files: its name, and where `reference` is the
    path of a YAML of one's own, the `name:` in it, or else the file's name without its ending."""
    if not reference.endswith(SUFFIXES):
        return reference
    file = Path(reference)
    try:
        data: Any = parse(file.read_text(encoding="utf-8"), reference).data
    except (OSError, UnicodeDecodeError, ConfigError):  # said in full where the suite is opened
        data = None
    return str(data["name"]) if isinstance(data, dict) and data.get("name") else file.stem


def _told_apart(references: tuple[str, ...]) -> tuple[str, ...]:
    """Results, tables and folders are kept by the suite's name."""
    names = [suite_name(one) for one in references]
    for reference, name in zip(references, names, strict=True):
        if reference != name and (problem := name_problem(name)):
            raise ValueError(f"the suite {reference} is called {name!r}: {problem}; give its file a `name:`")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        of = [one for one, name in zip(references, names, strict=True) if name == twice[0]]
        raise ValueError(f"several suites are called {twice[0]!r} ({', '.join(of)}); name each once, and tell files of "
                         "your own apart by a `name:` in them")
    return references


Suites = Annotated[tuple[str, ...], AfterValidator(_told_apart)]
"""Suites as a person refers to them: names, `lm:TASK`, or paths of their YAMLs."""


class EndpointSection(Section):
    """A server that speaks OpenAI's chat completions."""

    url: Annotated[str, without_password("give the key in the environment variable that key_env names")]
    """Base URL that ends in /v1, e.g. http://127.0.0.1:8000/v1."""
    model: str
    """Name of the model there."""
    key_env: str | None = None
    """Environment variable that holds the API key; the key itself never stands in a configuration."""
    timeout_s: Annotated[float, Field(gt=0.0)] = 60.0
    """Seconds to wait for one answer."""
    retries: Annotated[int, Field(ge=0)] = 4
    """Further tries after a refused connection, a time-out, a 429 or a 5xx, with growing pauses (Retry-After wins)."""
    parallel: Positive = 4
    """Requests under way at a time."""
    per_minute: Positive | None = None
    """Requests begun in a minute at the most, tries after a failure among them; none: as fast as they are answered."""
    price_in: Annotated[float, Field(ge=0.0)] = 0.0
    """Price of a million prompt tokens, for the cost in reports."""
    price_out: Annotated[float, Field(ge=0.0)] = 0.0
    """Price of a million answer tokens."""


JUDGED = {"pairwise": ":pairwise", "single": ":graded"}
"""What follows the name of a suite once it is judged."""


class JudgeSection(Section):
    """An LLM judge of open-ended answers and, where a suite says so, of refusals."""

    endpoint: EndpointSection
    """Where the judge is asked."""
    mode: Literal["pairwise", "single"] = "pairwise"
    """`pairwise`: tuned against base, both orders; `single`: each answer graded 1 to 10."""
    max_tokens: Positive = 512
    """Longest judgement."""
    gold: str | None = None
    """JSONL of judgements by people; the judge's agreement with them is reported beside its verdicts."""

    def suites(self, asked: Iterable[str]) -> list[str]:
        """Names of the judged suites that come of these, where they are open-ended: `NAME:pairwise`, `NAME:graded`."""
        return [name + JUDGED[self.mode] for name in asked]


MIN_SCORED = 0.8
"""Default of `eval.min_scored`, also of results that no configuration stands beside."""


Part = Literal["search", "held_back"]


class Limit(NamedTuple):
    """Which items of a suite are asked: those of one part where a share is held back; of these at most so many per
    task, or in all, or without either all; and of those a share of every task."""

    per_task: int | None = None
    total: int | None = None
    share: float = 1.0
    held_back: float = 0.0
    part: Part = "search"


class EvalSection(Section):
    suites: Suites = Field(min_length=1)
    """Suites to run before and after training; `sft suites` lists them. A YAML of your own is given by its path; its
    name everywhere else is its `name:`, or the file's name without its ending."""
    limit: Positive | None = None
    """Items per task: a sample drawn once by a fixed seed, the same for every model; intervals widen accordingly. A
    suite of many tasks asks as many times more (MMLU: 57); `limits` says it per suite."""
    limits: dict[str, Positive] = Field(default_factory=dict)
    """Items of single suites in all instead of `limit`, spread evenly over their tasks, e.g. `{mmlu: 200, gsm8k: 100}`.
    Variants of an item come with it and do not count."""
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the items that these limits leave of every task; a larger share asks every item that a smaller one asks.
    `search.rungs` sets it for trials under way."""
    held_back: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of every suite's clusters, with all their items and variants, that is held back from choosing between
    models: they are drawn by a fixed hash, the same for every model, and asked with `eval.part: held_back` alone."""
    part: Part = "search"
    """With `held_back`: which part is asked, and limited by `limit` and `limits`; `search` is all that is not held
    back. Decontamination looks for the items of both. Part of the protocol."""
    batch_tokens: Positive | None = None
    """Padded tokens per batch in evaluation, room for the answer included; no part of the protocol. By default what
    free memory holds; halved and tried again where memory runs out. Results say how many it were."""
    max_new_tokens: Positive | None = None
    """Cap on generated tokens, where a suite's own should be lowered; part of the protocol."""
    include_path: str | None = None
    """Folder with further lm-eval task YAMLs; their names can be used as suites `lm:TASK`."""
    data_path: str | None = None
    """Folder with published benchmarks as their authors ship them (`xstest/`, `bfcl/`, ...), for the suites that read
    them."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """Who computes: transformers in this process, or vLLM (extra `vllm`, CUDA)."""
    looks: Positive = 1
    """Sequential mode: look at a suite this many times and stop as soon as its verdict is certain. 1: off."""
    floor_items: Annotated[int, Field(ge=0)] = 8
    """Items per suite that the base is asked again, in the same and in other batches, to show the A/A floor. 0: off."""
    min_scored: Share = MIN_SCORED
    """Least share of the items asked that must have a score. With fewer a suite is `not measured`: no score, no claim,
    and its gate is undecided. It holds for judgements and for agreement with people, too."""
    judge: JudgeSection | None = None
    """Judge of open-ended suites; without one their answers are kept and unscored."""
    refusal_scorer: str = "rules"
    """Who says whether an answer refuses: `rules` (about language; English; calibrated), `judge` (asks `eval.judge`),
    or the folder or hub id of a Hugging Face sequence classifier. Part of the protocol."""
    refusal_labels: dict[str, Literal["compliance", "refusal", "partial"]] = Field(default_factory=dict)
    """What the classes of a refusal classifier mean, e.g. `{REJECTION: refusal, NORMAL: compliance}`."""
    parity: Annotated[Literal["off", "ids", "served"], OffIsWord] = "ids"
    """Parity certificate of the tuned model: token ids of training, evaluation and template, or also against
    transformers' own server. A mismatch fails the gate."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the suites are called, in their order."""
        return tuple(map(suite_name, self.suites))

    def limit_of(self, name: str) -> Limit:
        """How many items of a suite are asked."""
        per_task, total = (None, self.limits[name]) if name in self.limits else (self.limit, None)
        return Limit(per_task, total, self.share, self.held_back, self.part)

    @model_validator(mode="after")
    def _limits_name_suites(self) -> EvalSection:
        if said := unknown_suites("eval.limits", self.limits, self.names):
            raise ValueError(said)
        return self

    @model_validator(mode="after")
    def _part_is_there(self) -> EvalSection:
        if self.part == "held_back" and not self.held_back:
            raise ValueError("part: held_back asks the items that are held back, and held_back is 0; set "
                             "eval.held_back to their share (0.5, for example), or leave out eval.part")
        return self


class GateSection(Section):
    max_tax: Annotated[float, Field(ge=0.0)] = 1.0
    """Non-inferiority margin in points: the gate passes when every tax is proved to be at most this."""
    margins: dict[str, Annotated[float, Field(ge=0.0)]] = Field(default_factory=dict)
    """Margins of single suites instead of `max_tax`, e.g. `{wikitext: 3.0}`."""
    max_false_refusals: Annotated[float, Field(ge=0.0, le=100.0)] = 10.0
    """Points by which false refusals may rise: refusals among requests that should be answered, on every suite that has
    some. Judged as a tax is; 100 lets them."""
    must_improve: tuple[str, ...] = ()
    """Suites on which the tuned model must be proved better than its base; judged ones are called `NAME:pairwise`
    or `NAME:graded`."""
    at_least: dict[str, Share] = Field(default_factory=dict)
    """Lowest accepted score per suite, e.g. `{tiny_format: 0.9}`."""
    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    """Error probability: intervals have level 1 − alpha."""
    enforce: bool = False
    """End with exit code 3 when the gate does not pass; off: report only."""

    def unknown(self, known: Collection[str]) -> list[str]:
        """What it says of suites that are not among these, a sentence per field, with the nearest right name."""
        fields = {"gate.must_improve": self.must_improve, "gate.at_least": self.at_least, "gate.margins": self.margins}
        return [said for field, names in fields.items() if (said := unknown_suites(field, names, known))]


def unknown_suites(field: str, names: Iterable[str], known: Collection[str]) -> str:
    """What is wrong with a field that names suites which are not among these; nothing where all are."""
    missing = sorted(set(names) - set(known))
    near = [close for name in missing for close in difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)]
    hint = f" (did you mean {' or '.join(dict.fromkeys(near))}?)" if near else ""
    return f"{field} names {missing}{hint}, but the suites are {sorted(known)}" if missing else ""
