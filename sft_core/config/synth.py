"""The configuration of one piece of synthesis: who generates, and either Self-Instruct or rejection sampling.

A file of its own, beside that of an experiment: what comes out is a source that experiments read.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sft_core.config.data import ModelSection, SourceSection, TemplateName, Words
from sft_core.config.decontaminate import LEAST_PAIRS, LEAST_WORDS
from sft_core.config.evaluate import SUFFIXES, EndpointSection, Suites
from sft_core.config.experiment import TrackingSection
from sft_core.config.section import MOST, Name, Positive, Section, Share

PLACE = "{prompt}"
"""Stands for what is asked in `generator.plain`."""


class GeneratorSection(Section):
    model: ModelSection | None = None
    """Weights that are loaded here: a hub id, a folder, `tiny`, a run, or models:/NAME@ALIAS."""
    endpoint: EndpointSection | None = None
    """A server that is asked instead. Its answers are kept by what was asked, so none is paid for twice."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """Who computes with weights that are loaded here."""
    template: TemplateName = "auto"
    """Chat template through which they are asked: the model's own, or a built-in one."""
    plain: str | None = None
    """Asks without a chat template, as a base model is asked: a text that holds {prompt}, and that the model goes on
    with, e.g. "Question: {prompt}\\nAnswer:"."""
    until: Words = ()
    """Texts that end an answer, besides the model's own stops; for weights that are loaded here."""
    batch_tokens: Positive | None = None
    """Padded tokens of a batch; none: what free memory holds."""
    temperature: Annotated[float, Field(ge=0.0, le=10.0)] = 0.8
    """How evenly tokens are drawn; 0: always the likeliest, so that all samples of a prompt are one."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """Tokens are drawn among the likeliest that hold this much probability together."""
    max_new_tokens: Positive = 256
    """Longest answer. One that is cut off there is not used."""
    max_unanswered_share: Share = 0.02
    """More failed requests than this share of a round stop the run, which goes on when the same command is given
    again; fewer are counted and left out."""

    @model_validator(mode="after")
    def _one_generator(self) -> GeneratorSection:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("give one of model (weights that are loaded here) and endpoint (a server)")
        if self.endpoint is not None and (self.plain is not None or self.until):
            raise ValueError("plain and until are for weights that are loaded here; a server has its own template and "
                             "stops")
        if self.plain is not None and PLACE not in self.plain:
            raise ValueError(f"plain holds no {PLACE}, the place of what is asked; it is {self.plain!r}")
        return self


class UsedSuitesSection(Section):
    suites: Suites = ()
    """Suites that a model trained on this will be evaluated on: what holds one of their items is left out."""
    reworded: bool = True
    """Also where an item was changed: other numbers or names, sentences in other words. Off for prompts made from the
    templates that the items are made from: they are only alike."""
    pairs: Annotated[float, Field(ge=LEAST_PAIRS, le=1.0)] = 0.4
    """As `data.decontaminate.pairs`."""
    words: Annotated[float, Field(ge=LEAST_WORDS, le=1.0)] = 0.6
    """As `data.decontaminate.words`."""
    include_path: str | None = None
    """Folder with lm-eval tasks of your own."""
    data_path: str | None = None
    """Folder with published benchmarks."""


class PromptsSection(Section):
    sources: tuple[SourceSection, ...] = ()
    """Conversations as `data.sources` has them: what stands before the last answer is asked, and that answer is the
    reference."""
    items: str | None = None
    """JSONL of items as suites have them ({"id", "kind", "cluster", "messages", "expect"}), scored by their kind."""
    suite: str | None = None
    """Path of a suite of your own: its items are asked and its scorer scores. The shipped ones are there to measure."""
    limit: Positive | None = None
    """Ask only the first so many."""

    @model_validator(mode="after")
    def _one_kind(self) -> PromptsSection:
        if [bool(self.sources), self.items is not None, self.suite is not None].count(True) != 1:
            raise ValueError("give one of sources, items and suite: where the prompts come from")
        if self.suite is not None and not self.suite.endswith(SUFFIXES):
            raise ValueError(f"suite is the path of a YAML of your own, and it is {self.suite!r}; who trains on the "
                             "items of a shipped suite can no longer measure with it")
        return self


class NumberSection(Section):
    strict: bool = True
    """The number behind #### counts, as in GSM8K; off: the last number said."""


class JsonSchemaSection(Section):
    file: str
    """JSON Schema that the whole answer has to satisfy."""


class ToolCallsSection(Section):
    arguments: bool = True
    """The arguments of the reference are wanted, too; off: its functions alone, called as their schemas admit."""


class PatternSection(Section):
    regex: str
    """Regular expression that the whole answer has to match."""


class WordsSection(Section):
    least: Positive = 1
    """Fewest words."""
    most: Positive = 400
    """Most words."""


class ScorerSection(Section):
    function: str | None = None
    """`package.module:function` or `file.py:function` of (expect, answer) → Score; none: the scorer of the item's kind,
    or of the suite."""
    at_least: Share = 1.0
    """Least score."""


class RewardSection(Section):
    model: str
    """Folder or hub id of a sequence classifier; of one with several classes the probability of `label` counts."""
    label: str | None = None
    """The class that is wanted, where there are several."""
    at_least: float
    """Least reward. What is a good one hangs on the model: look at the rewards in the report."""


class GraderSection(Section):
    endpoint: EndpointSection
    """Where the judge is asked."""
    max_tokens: Positive = 512
    """Longest judgement."""
    at_least: Annotated[float, Field(ge=1.0, le=10.0)] = 8.0
    """Least grade, of 1 to 10."""


class VerifySection(Section):
    number: NumberSection | None = None
    """The right number, that of the reference."""
    json_schema: JsonSchemaSection | None = None
    """Valid JSON of a schema."""
    tool_calls: ToolCallsSection | None = None
    """The tool calls of the reference."""
    pattern: PatternSection | None = None
    """A form, by a regular expression."""
    words: WordsSection | None = None
    """A length."""
    scorer: ScorerSection | None = None
    """Any scorer of a suite."""
    reward: RewardSection | None = None
    """A reward model."""
    judge: GraderSection | None = None
    """A judge's grade."""

    @model_validator(mode="after")
    def _some(self) -> VerifySection:
        if not self.model_fields_set or not any(value is not None for _, value in self):
            raise ValueError(f"name a verifier at least: {', '.join(type(self).model_fields)}")
        return self


class RejectSection(Section):
    """Rejection sampling: several answers to each prompt, of which the best that pass are kept."""

    prompts: PromptsSection
    """What is asked."""
    samples: Positive = 8
    """Answers to each prompt."""
    verify: VerifySection
    """What an answer has to pass, all of what is named here."""
    keep: Positive = 1
    """Answers that are kept of a prompt at the most, the best ones by reward and grade, then those drawn first."""
    max_similarity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    """ROUGE-L from which a further answer to a prompt is too much like one that is kept."""


class SelfInstructSection(Section):
    """Self-Instruct (Wang et al. 2022): new tasks, after the pattern of some that people wrote."""

    seeds: tuple[str, ...] = ()
    """JSONL files of seed tasks: {"instruction", "instances": [{"input", "output"}], "is_classification"}, or rows of
    instruction, input and output; none: sixteen that come with this. Yours decide what will be proposed."""
    target: Positive = 1000
    """New rows that are wanted."""
    max_rounds: Positive = 100
    """Rounds at the most."""
    prompts_per_round: Positive = 16
    """Requests for new instructions in a round."""
    from_people: Positive = 6
    """Examples in such a request that people wrote."""
    from_machine: Annotated[int, Field(ge=0, lt=MOST)] = 2
    """And those that were generated in earlier rounds, as far as there are some."""
    instances: Positive = 2
    """Rows of one instruction at the most."""
    max_similarity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    """ROUGE-L from which a new instruction is too much like one of the pool."""
    max_instance_similarity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """The same for a whole row: instruction, input and output together."""
    forbidden: tuple[str, ...] = ("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map",
                                  "maps", "draw", "plot", "video", "audio", "go to")
    """Words of tasks that a language model cannot do."""
    least_words: Positive = 4
    """Fewest words of an instruction."""
    most_words: Positive = 150
    """Most words of an instruction."""
    min_yield: Share = 0.02
    """New rows for each instruction proposed, below which a round does not pay."""
    min_novelty: Share = 0.1
    """Share of a round's word triples that are new to the pool, below which it does not pay either."""
    patience: Positive = 3
    """So many rounds in a row that do not pay end it."""


class SynthConfig(Section):
    """One piece of synthesis."""

    name: Name
    """Name of what is made: `.sft/synth/NAME`."""
    seed: int = 0
    """Decides every draw: of examples, of answers, of the random baseline."""
    generator: GeneratorSection
    """Who generates."""
    reject: RejectSection | None = None
    """Rejection sampling."""
    self_instruct: SelfInstructSection | None = None
    """Self-Instruct."""
    decontaminate: UsedSuitesSection = UsedSuitesSection()
    """Suites whose items must not come in."""
    tracking: TrackingSection = TrackingSection()
    """Where the run is recorded."""

    @model_validator(mode="after")
    def _one_way(self) -> SynthConfig:
        if (self.reject is None) == (self.self_instruct is None):
            raise ValueError("give one of reject (rejection sampling) and self_instruct")
        return self
