"""The base model, the data and the template: what is trained on."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from sft_core.config.decontaminate import Decontaminate, DecontaminateSection
from sft_core.config.duplicates import DuplicatesSection
from sft_core.config.mixture import MixtureSection, SourceMixSection
from sft_core.config.normalise import NormaliseSection
from sft_core.config.phrasing import SourcePhrasingSection
from sft_core.config.pii import PiiSection
from sft_core.config.provenance import SourceProvenanceSection, Use
from sft_core.config.quality import QualitySection
from sft_core.config.scores import Score, ScoresSection, how_to_have
from sft_core.config.section import MOST, Positive, Section, Share
from sft_core.config.selection import SelectSection


class ModelSection(Section):
    path: str
    """Base model: a hub id (`org/name`), a local folder, or `tiny` for the embedded base."""
    revision: str | None = None
    """Hub revision (branch, tag or commit); part of the base's identity."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where there is one, the CPU otherwise."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision. `auto`: bfloat16 autocast on CUDA, float32 on the CPU."""
    attention: Literal["auto", "segments", "varlen", "flash", "mask"] = "auto"
    """How packed examples are kept apart. `auto` takes the fastest way that is proved to do so on this model:
    `segments` on the CPU, `varlen` on CUDA, else `mask` (works everywhere, slower)."""
    trust_remote_code: bool = False
    """Allow code that comes with the model. Refused unless asked for."""


Column = Literal["instruction", "input", "output", "system", "history", "prompt", "completion", "messages",
                 "conversations", "role", "content", "tools", "chat_template_kwargs", "label", "text"]


class SourceReadSection(Section):
    """How a source is read."""

    path: str
    """A JSON, JSONL, CSV, Parquet or text file (each also as .gz), a folder of them, a hub id, or `tiny:sft` /
    `tiny:replay` / `tiny:problems`."""
    name: str | None = None
    """Name in the ledger; by default the last part of the path."""
    format: Literal["auto", "alpaca", "prompt_completion", "sharegpt", "messages", "text"] = "auto"
    """Shape of a row; `auto` detects it per file and says what it found."""
    columns: dict[Column, str] = Field(default_factory=dict)
    """Column map, standard name to the file's name, e.g. `{output: response}`; `role` and `content` are the keys of a
    message."""
    ignore_columns: tuple[str, ...] = ()
    """Columns, and keys of messages as `message.KEY`, that are left aside on purpose. One that holds text and is not
    used is told, and a known one (input, context, system, history, tools) stops the run."""
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(default_factory=dict)
    """What the speakers of this source are, where their names are unusual, e.g. `{USER: user, BOT: assistant}`."""
    split: str = "train"
    """Split of a hub data set."""
    subset: str | None = None
    """Configuration name of a hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    streaming: bool = False
    """Read a hub data set over the network without storing it first; give a `limit`. Local files are always read row
    by row."""
    limit: Positive | None = None
    """Read at most this many rows."""


class SourceSection(SourceProvenanceSection, SourceReadSection):
    """A source of conversations or of raw text."""

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Weight of this source's trained tokens in the loss."""
    may_be_empty: bool = False
    """Go on where none of its rows becomes an example; off: the run stops there."""


class TrainingSourceSection(SourcePhrasingSection, SourceMixSection, SourceSection):
    """A source of conversations, or of plain rows with phrasings: it has its place in the mixture."""

    task: str | None = None
    """What its rows ask for, e.g. `summarise`: a label that `data.mixture.tasks` can limit and `data.held_out_tasks`
    keep for evaluation."""

    @model_validator(mode="after")
    def _phrased_or_as_it_is(self) -> TrainingSourceSection:
        given = [name for name in ("format", "columns", "roles", "ignore_columns")
                 if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True)]
        if self.phrasings and given:
            raise ValueError(f"{given[0]} says how a chat is read, and phrasings make chats of rows that are none; "
                             "take one of them out")
        return self


Repair = Literal["trim", "merge"]


class DataSection(Section):
    sources: tuple[TrainingSourceSection, ...] = Field(min_length=1)
    """Where the training conversations come from."""
    max_tokens: Annotated[int, Field(ge=16, lt=MOST)]
    """Longest example, and length of a packed row, in tokens. There is no default: a silent one truncates."""
    too_long: Literal["fail", "drop", "truncate_left_context", "split_turns"] = "fail"
    """What to do with a longer conversation. `truncate_left_context` drops the oldest turns, `split_turns` cuts it in
    front of user turns into several; both keep the system turn and never cut an answer."""
    repair: tuple[Repair, ...] = ()
    """What to put right in conversations whose turns do not alternate, counted in the ledger; without it such rows are
    rejected. `trim` leaves out answers in front of the first question and what stands behind the last answer, `merge`
    joins neighbouring turns of one role."""
    pack: bool = True
    """Pack several examples into one row with attention kept apart; off: one padded example per row."""
    normalise: NormaliseSection = NormaliseSection()
    """Texts put right before anything is measured on them."""
    duplicates: DuplicatesSection = DuplicatesSection()
    """Removal of exact and near duplicates, across sources."""
    decontaminate: Decontaminate = DecontaminateSection()
    """What to do with conversations and replay documents that hold items of this run's evaluation suites; one word,
    `drop`, `report` or `off`, holds for both kinds of finds."""
    pii: PiiSection = PiiSection()
    """Personal data and secrets in conversations."""
    quality: QualitySection = QualitySection()
    """What is wrong with answers, and which of it is left out."""
    scores: ScoresSection = ScoresSection()
    """Scores that a model gives: perplexity, instruction-following difficulty, a judge's grades."""
    select: SelectSection | None = None
    """Few rows out of all that are left, the best or the most different ones; a random draw of the same size is told
    beside them. Without it all stay."""
    held_out_tasks: tuple[str, ...] = ()
    """Tasks that are kept for evaluation: sources with such a `task` do not train, and their rows become the items of a
    suite, in the file `held_out.jsonl` beside the prepared examples."""
    mixture: MixtureSection | None = None
    """How sources and labels share an epoch. Without it, and without `share` and `epochs` of any source, every example
    is used once in an epoch."""
    use: Use | None = None
    """What the data is for: a source whose licence forbids it stops the run."""
    validation_share: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02
    """Share of conversations held out for the validation loss."""
    processes: Positive | None = None
    """Processes that share out the shards of large data; by default one for each core. Results are the same."""
    max_rejected_share: Share = 0.05
    """The run fails when more than this share of the rows read cannot be used."""
    mirror: str | dict[str, str] | None = None
    """Local folders that stand for the hub, for machines without internet: hub id to folder, for example
    `{cais/mmlu: /data/mmlu}`, or one folder that holds them as `org/name`. Goes before SFT_MIRROR; ids it does not name
    are looked up there. For models, training data and lm-eval's data sets."""

    @model_validator(mode="after")
    def _measured(self) -> DataSection:
        languages = self.mixture is not None and self.mixture.languages
        if not self.quality.measure and (languages or self.select):
            raise ValueError("data.quality.measure is false, and data.select and limits on languages need what it "
                             "measures; set it to true")
        wanted = self.select.by if self.select else "quality"
        if wanted in get_args(Score) and wanted not in self.scores.names:
            raise ValueError(f"data.select.by is {wanted}, which nothing measures; {how_to_have(wanted)}")
        return self

    def holds_out(self, source: TrainingSourceSection) -> bool:
        """Whether the rows of a source are kept for evaluation."""
        return source.task in self.held_out_tasks

    @model_validator(mode="after")
    def _something_trains(self) -> DataSection:
        there = dict.fromkeys(source.task for source in self.sources if source.task)
        if unknown := [task for task in self.held_out_tasks if task not in there]:
            raise ValueError(f"held_out_tasks names {unknown[0]}, which is the task of no source; there are "
                             f"{', '.join(there) or 'none: give task of a source'}")
        if all(map(self.holds_out, self.sources)):
            raise ValueError(f"held_out_tasks names the tasks of all sources ({', '.join(there)}), and nothing is left "
                             "to train on; leave one out")
        return self


TemplateName = Literal["auto", "model", "chatml", "alpaca", "llama3", "zephyr", "gemma", "mistral"]
Words = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""Several words, or one that stands alone."""


class TemplateSection(Section):
    name: TemplateName = "auto"
    """`model`: the tokenizer's own template; `chatml` and so on: a built-in one, saved into the model folder;
    `auto`: the tokenizer's own where there is one, `chatml` otherwise."""
    path: str | None = None
    """A file with a Jinja chat template, instead of a name."""
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Values of variables that the Jinja reads, e.g. `{enable_thinking: false}`. They hold in training and evaluation
    and are written into the saved template as its defaults. A row's own `chat_template_kwargs` goes before them."""
    date: datetime.date = datetime.date(2024, 7, 26)
    """The day that a template which writes today's date is told, in training, evaluation and the saved template; the
    same configuration gives the same tokens tomorrow. The default is what Llama 3 falls back to."""
    stop: Annotated[Words, Field(max_length=2)] = ()
    """What ends an answer, where the Jinja writes nothing behind one: a control token such as the marker of the next
    role. Of two, the second ends a turn that calls tools."""
    thinking: Literal["keep", "drop", "error"] = "keep"
    """Thoughts (`<think> … </think>` and its kin) in the answers of the data: train them, leave them out, or reject
    the row. Empty ones are the template's to write."""
    train_on: Literal["all_assistant", "last_assistant"] = "all_assistant"
    """Which assistant turns are trained."""
    train_tool_calls: bool = True
    """Train assistant turns that call tools; off: they are context. Results of tools are never trained."""
    control_text: Literal["reject", "escape"] = "reject"
    """What to do with text that spells a control token: reject the row, or encode it as plain text."""
    new_tokens: tuple[str, ...] = ()
    """Special tokens to add to the tokenizer, besides those that a built-in template needs. The embedding grows."""

    @model_validator(mode="after")
    def _one_template(self) -> TemplateSection:
        if self.path and self.name != "auto":
            raise ValueError(f"template.path names a template and template.name: {self.name} another; give one of them")
        return self
