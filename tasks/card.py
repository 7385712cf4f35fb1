"""The model card of what is exported: what was trained on what, the verdict, limits, licences, lineage.

All is read from the run's own records. What they do not hold is said to be not known, and nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from infra.naming import in_markdown
from sft_core.config.data import ModelSection
from sft_core.config.experiment import ExperimentConfig
from sft_core.data.provenance.handed import Handed, in_words
from sft_core.errors import TrackingError
from sft_core.masking import masked
from sft_core.model.where import HUB_ID
from sft_core.stage import read_json
from sft_core.visible import visible
from tasks.facts import chain, sortable
from tasks.inputs import sources_of
from tasks.licences import Licence, licence_of_model, licence_of_source, own_id
from tasks.lineage import read_lineage
from tasks.named import Named
from tasks.runs import Recorded

Form = Literal["merged", "adapter"]
NOT_KNOWN = "not known; ask whoever published it"
GATES = {"pass": "This model passed its gate.", "fail": "⚠ THIS MODEL FAILED ITS GATE.",
         "undecided": "⚠ THE GATE OF THIS MODEL IS UNDECIDED: what it was to prove is not proved."}
TINY = ("The base is the tiny world's: a model of 1 M parameters that knows a small generated world. It is a demo and "
        "a test, no assistant, and says nothing about larger models.")


class About(NamedTuple):
    """What is to be told besides the run. `at` is what a reader gives to `from_pretrained`."""

    named: Named
    model: ModelSection
    form: Form
    at: str
    licence: str | None = None
    adapts: str | None = None  # hub id of what an adapter goes onto; None where that has none
    dtype: str | None = None  # of whole weights


class _Records(NamedTuple):
    """What a run's folder holds; nothing in place of a file that is not there."""

    config: ExperimentConfig
    config_text: str
    verdict: Mapping[str, Any]
    summary: Mapping[str, Any]
    training: Mapping[str, Any]
    lineage: Mapping[str, Any]
    contaminated: Mapping[str, Sequence[str]] | None
    data: Mapping[str, Any]  # the manifest


def card_of(about: About, mirror: Path | None) -> str:
    """The README of an exported model, with the front matter that the hub reads. A folder that no run of this workspace
    made keeps its own.

    Raises:
        ConfigError: the run's configuration cannot be read.
    """
    if about.named.run is None:
        return _foreign(about, mirror)
    found = _records(about.named.run)
    licences = dict(_licences(found.config, mirror))
    return "\n".join([
        f"---\n{_front_matter(about, found, licences, mirror).to_yaml()}\n---", "",
        f"# {_plain(about.named.run.name)}", "", *_verdict(found), "", *_trained(about, found), "", *_limits(found), "",
        *_licence(about, licences), "", *_use(about), "", *_lineage(found), ""])


def _records(run: Recorded) -> _Records:
    loaded = run.config()

    def there(name: str) -> Mapping[str, Any]:
        with suppress(FileNotFoundError):
            found: Mapping[str, Any] = read_json(run.folder / name)
            return found
        return {}

    lineage: Mapping[str, Any] = {}
    with suppress(TrackingError):  # of a run that is older than it
        lineage = read_lineage(run)
    return _Records(loaded.config, loaded.text, there("verdict.json"), there("summary.json"), there("training.json"),
                    lineage, run.beside().contaminated, there("data/manifest.json"))


def _foreign(about: About, mirror: Path | None) -> str:
    """Of a model that no run of this workspace made."""
    own = Path(about.model.path).expanduser() / "README.md"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    licence = licence_of_model(about.model, mirror)
    head = ModelCardData(license=about.licence or (licence and licence.name), base_model=own_id(about.model, mirror),
                         library_name="transformers", pipeline_tag="text-generation", tags=["sft-platform"])
    name = Path(about.model.path).name
    said = [f"---\n{head.to_yaml()}\n---", "", f"# {_plain(name)}", "",
            "Exported by sft-platform from a model that it did not train. What it was trained on, how it was measured "
            "and what it must not be used for is not known here.", "",
            *_licence(about, {f"model {_plain(name)}": licence}), "", *_use(about), ""]
    return "\n".join(said)


def _front_matter(about: About, found: _Records, licences: Mapping[str, Licence | None], mirror: Path | None
                  ) -> ModelCardData:
    config = found.config
    names = {one.name if one else None for one in licences.values()}
    common = names.pop() if len(names) == 1 else None  # of base and data alike, else the publisher has to choose
    shares = [one for one in found.verdict.get("suites", ()) if one["scale"] == "share"]
    results = [EvalResult(
        task_type="text-generation", dataset_type=one["suite"], dataset_name=one["suite"], metric_type="score",
        metric_name=f"score of 100 (base {100 * one['base']:.1f}; {one['kind']})",
        metric_value=round(100 * one["tuned"], 2))
        for one in shares if None not in (one["base"], one["tuned"])]
    return ModelCardData(
        license=about.licence or common, base_model=own_id(config.model, mirror),
        datasets=sorted({source.path for source, _ in sources_of(config) if _on_hub(source.path)}) or None,
        library_name="peft" if about.form == "adapter" else "transformers", pipeline_tag="text-generation",
        tags=["sft-platform", "sft", *(["lora"] if config.train.method == "lora" else [])],
        model_name=about.named.run.name if about.named.run else None, eval_results=results or None)


def _verdict(found: _Records) -> Iterator[str]:
    """The gate, loudly where it did not pass, and every suite with its interval."""
    yield from ("## Verdict", "")
    if not found.verdict:
        yield ("⚠ NOT JUDGED: this run has no verdict here, so nothing is known of what it gained and what it cost. "
               "Give its command again.")
        return
    yield f"**{GATES[found.verdict['gate']]}** {_plain(found.verdict['reason'])}"
    yield ""
    rows = found.summary.get("verdict_rows")
    if not rows:
        yield "Its table is not here; `verdict.json` of the run has the numbers."
        return
    yield from _table(rows)
    yield from ("", "Scores are points of 100. *Tax* is what a capability suite lost against the base, *win* what an "
                "alignment suite gained: paired differences over the same items, with their interval. *Detectable* is "
                "the smallest difference that this comparison finds in 80 % of cases.")


def _trained(about: About, found: _Records) -> Iterator[str]:
    config, told, tags = found.config, found.training, sortable(found.config)
    lora = config.train.lora
    how = "all weights" if config.train.method == "full" else (
        f"LoRA of rank {lora.rank}, alpha {lora.alpha:g}, on {_plain(str(lora.target_modules))}"
        + ("" if lora.quantize == "none" else f", the base held in {lora.quantize}"))
    yield from ("## Trained on what", "",
                f"Base: `{_code(_named(config.model.path))}`"
                + (f", revision `{_code(config.model.revision)}`" if config.model.revision else "")
                + f". Trained: {how}. Chat template: {_plain(_template(about, config))}."
                + (f" Weights are stored in {about.dtype}." if about.dtype else ""), "",
                f"Objective, minimised: SFT + λ · LM(replay) + β · KL(tuned ‖ base), with λ = {tags['sft.lambda']}, "
                f"β = {tags['sft.beta']}; learning rate {tags['sft.lr']}, epochs {tags['sft.epochs']}"
                + (f", {told['steps']:,} steps, {told['tokens']:,} tokens read and {told['trained_tokens']:,} trained, "
                   f"{told['replay_tokens']:,} of replay" if told else "") + ".", "")
    digests = {(one["name"], one["use"]): one["files"] for one in found.lineage.get("sources", ())}
    rows = [{"source": row["source"], "use": row["use"], "rows read": row["read"], "kept": row["kept"],
             "items of held-out tasks": row["held_out"], "validation": row["validation"],
             "tokens": row["tokens"], "tokens with loss": row["trained_tokens"],
             "SHA-256 of its files": ", ".join(digest[:12] for digest in list(digests.get(
                 (row["source"], row["use"]), {}).values())[:4]) or "not known"}
            for row in found.summary.get("ledger", ())]
    yield from _table(rows or [{"source": _named(source.name or source.path), "use": use}
                               for source, use in sources_of(config)])
    if found.data:
        yield from ("", f"The curated data has the fingerprint `{_code(found.data['fingerprint'])}`: "
                    f"{found.data['rows_out']:,} of {found.data['rows_in']:,} rows, for "
                    f"{_code(found.data['use'] or 'no declared')} use; `data/README.md` of the run is its card. "
                    + in_words([Handed(**one["handed"]) for one in found.data["sources"] if one.get("handed")]))


def _template(about: About, config: ExperimentConfig) -> str:
    """Its name; of `auto` what that came to, which the model's own README says."""
    if config.template.path:
        return f"of its own, {_named(config.template.path)}"
    readme = Path(about.model.path) / "README.md"
    text = readme.read_text(encoding="utf-8") if config.template.name == "auto" and readme.is_file() else ""
    found = re.search(r"^\| template \| (\w+) \|$", text, re.MULTILINE)
    return found[1] if found else config.template.name


def _limits(found: _Records) -> Iterator[str]:
    suites = found.verdict.get("suites", ())
    yield from ("## Limits", "")
    if found.config.model.path == "tiny":
        yield f"* {TINY}"
    measured = ", ".join(_plain(one["suite"]) for one in suites) or "nothing"
    yield f"* Measured was {measured}, and nothing else: no other skill, language, domain or attack."
    for one in suites:
        if one["mde"] is not None:
            yield (f"* {_plain(one['suite'])}: a difference below {one['mde']:.1f} points would most likely not have "
                   f"been seen on {one['pairs']} items.")
        yield from (f"* {_plain(one['suite'])}: {_plain(note)}." for note in one["notes"])
    yield from _contamination(found)


def _contamination(found: _Records) -> Iterator[str]:
    if found.contaminated is None:
        yield "* Whether items of the suites stand in the training data was not looked for."
        return
    many = {suite: len(ids) for suite, ids in found.contaminated.items() if ids}
    counted = ", ".join(f"{_plain(suite)} {count}" for suite, count in sorted(many.items()))
    yield f"* Items of the suites that were found in the training data: {counted or 'none'}."


def _licences(config: ExperimentConfig, mirror: Path | None) -> Iterator[tuple[str, Licence | None]]:
    yield f"base {_plain(_named(config.model.path))}", licence_of_model(config.model, mirror)
    for source, use in sources_of(config):
        yield f"data {_plain(_named(source.name or source.path))} ({use})", licence_of_source(source, mirror)


def _licence(about: About, licences: Mapping[str, Licence | None]) -> Iterator[str]:
    yield from ("## Licences", "")
    yield from _table([{"of": what, "licence": one.said if one else NOT_KNOWN, "as said by": one.where if one else "–"}
                       for what, one in licences.items()], escaped=("of",))
    yield ""
    yield (f"This model is published under {_plain(about.licence)}." if about.licence else
           "Whoever publishes this model chooses its licence, within what those above allow; where all of them are "
           "one, it stands at the top of this card.")


def _use(about: About) -> Iterator[str]:
    yield from ("## Use", "")
    at = _code(about.at)
    if about.form == "adapter":
        yield from ("```python", "from peft import PeftModel", "from transformers import AutoModelForCausalLM, "
                    "AutoTokenizer", "", f'tokenizer = AutoTokenizer.from_pretrained("{at}")',
                    *([] if about.adapts else ['BASE = "…"  # folder of the model that it was trained on, see above']),
                    f'base = AutoModelForCausalLM.from_pretrained({_base(about)})',
                    "if len(tokenizer) > base.get_input_embeddings().num_embeddings:  # tokens that the template added",
                    "    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)",
                    f'model = PeftModel.from_pretrained(base, "{at}")')
    else:
        yield from ("```python", "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
                    f'tokenizer = AutoTokenizer.from_pretrained("{at}")',
                    f'model = AutoModelForCausalLM.from_pretrained("{at}")')
    yield from ('chat = [{"role": "user", "content": "Hello!"}]',
                'asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", '
                "return_dict=True)",
                "said = model.generate(**asked, max_new_tokens=100)",
                'print(tokenizer.decode(said[0, asked["input_ids"].shape[1]:], skip_special_tokens=True))', "```", "",
                "The chat template and the tokens that end an answer are part of this folder"
                + ("." if about.form == "adapter" else f"; `vllm serve {at}` uses the same ones."))


def _base(about: About) -> str:
    return f'"{_code(about.adapts)}"' if about.adapts else "BASE"


def _lineage(found: _Records) -> Iterator[str]:
    """What it came out of, hash by hash, and the configuration that makes it again."""
    yield from ("## Lineage, and how to make it again", "")
    if found.lineage:
        yield from _table([{**row, "what": _shortened(str(row["what"]), found.config)} for row in chain(found.lineage)
                           if row["part"] != "gate"])
    else:
        yield "This run kept no lineage."
    text = masked(_shortened(found.config_text, found.config))
    fence = "`" * max(3, *(1 + len(run) for run in re.findall("`+", text)), 3)
    yield from ("", "Saved as `config.yaml`, with your own paths where there are any (their folders are left out "
                "here), `sft run config.yaml` makes it again with the same code, libraries and files:", "",
                f"{fence}yaml", visible(text.strip()), fence)


def _table(rows: Iterable[Mapping[str, object]], escaped: Sequence[str] = ()) -> Iterator[str]:
    """Markdown; `escaped` are columns that are Markdown already."""
    for number, row in enumerate(rows):
        if number == 0:
            yield f"| {' | '.join(map(_plain, row))} |"
            yield f"|{' --- |' * len(row)}"
        cells = (str(value) if head in escaped else _plain(str(value)) for head, value in row.items())
        yield f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text of others as a page of Markdown shows it: nothing in it is obeyed."""
    return in_markdown(visible(masked(text)))


def _code(text: str) -> str:
    """Text of others within quotes of code, on one line."""
    return re.sub(r"[`\"\\]", "", visible(" ".join(text.split())))


def _named(path: str) -> str:
    """A path without the folders of the machine that it is on; a hub id as it is."""
    return Path(path).name if Path(path).is_absolute() or path.startswith(("~", ".")) else path


def _shortened(text: str, config: ExperimentConfig) -> str:
    """A text without the folders of the machine: what paths of a configuration begin with."""
    paths = [config.model.path, *(source.path for source, _ in sources_of(config)), config.template.path or "",
             str(config.eval.data_path or ""), str(config.eval.include_path or "")]
    for path in sorted(filter(None, paths), key=len, reverse=True):
        text = text.replace(path, _named(path))
    return text


def _on_hub(path: str) -> bool:
    """Whether this is the id of something on the hub and no folder or file here."""
    return path != "tiny" and bool(HUB_ID.fullmatch(path)) and not Path(path).exists()
