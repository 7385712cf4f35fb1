"""One model through several suites: loaded once, every suite written as soon as it is finished."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from transformers import GenerationConfig

from eval_suites import lm_door
from eval_suites.generate import Answer, ChatForm, Decoding, answer_all, stop_ids
from eval_suites.items import ChatItem, read_items
from eval_suites.results import ItemResult, SuiteResult, read_results, write_results
from eval_suites.scorers import scorer_for
from eval_suites.scorers.custom import scorer_version
from eval_suites.suites import ROOM, Suite, suite
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection
from sft_core.errors import EvalError
from sft_core.models import compute_dtype, load_model, load_tokenizer, locate, model_identity, resolve_device
from sft_core.stage import code_version, fingerprint


class ChatFormat(NamedTuple):
    """A chat template by its text: what `ChatForm` needs."""

    jinja: str
    stop: str


class Subject(NamedTuple):
    """A loaded model and how it is talked to; `form` is None where it has no chat template."""

    model: Any
    tokenizer: Any
    form: ChatForm | None


def evaluate(model: ModelSection, suites: Sequence[str], *, section: EvalSection, template: ChatForm | None,
             mirror: Path | None, out: Path) -> dict[str, SuiteResult]:
    """Run the suites on a model and write `<suite>.parquet` and `<suite>.json` into `out`.

    Suites that `out` already holds for the same model and protocol are not run again, so an interrupted evaluation
    goes on.

    Args:
        model: the model folder (or hub id, or `tiny`) with device and precision.
        suites: names, see `suites.py`.
        section: limit, batch size and caps.
        template: the chat template to ask through; None takes the one in the model folder. The base of a run is
            asked through the run's template, so that its answers can be paired with the tuned model's.
        mirror: folder with hub data sets and models, or None for the hub.
        out: where the results go.

    Raises:
        EvalError: a suite is unknown, its items cannot be read, or there is no chat template for a chat suite.
        ModelError: the model cannot be loaded.
    """
    chosen = [suite(name) for name in suites]
    identity = model_identity(model, mirror)["digest"]
    form = template or (_own_form(model, mirror) if any(one.through_template for one in chosen) else None)
    subject = None
    found: dict[str, SuiteResult] = {}
    for one in chosen:
        asked = protocol(one, section, model, form)
        result = _finished(out, one, asked, identity)
        if result is None:
            subject = subject or _load(model, form, mirror)
            result = replace(run_suite(one, subject, section, asked, mirror=mirror), model=identity)
            write_results(out, result)
        found[one.name] = result
    return found


def protocol(chosen: Suite, section: EvalSection, model: ModelSection, template: ChatForm | None) -> dict[str, Any]:
    """Everything that makes two scores of a suite comparable, as far as it is known before the run.

    `template` is what the model is asked through, whether it comes from a run or from its own folder. For lm-eval the
    result's protocol adds the versions of the tasks. The items are no part of it: they are paired one by one by what
    was asked, so that samples of different sizes can be compared. Neither are batch size and device.
    """
    own = chosen.engine == "generate"
    made: dict[str, Any] = {
        "suite": chosen.model_dump(mode="json", exclude={"about"}),
        "engine": f"transformers {version('transformers')}, greedy" if own else lm_door.engine(),
        "limit": section.limit,
        "max_new_tokens": section.max_new_tokens,
        "dtype": str(compute_dtype(model, resolve_device(model))).removeprefix("torch."),
    }
    if chosen.through_template:
        made["template"] = fingerprint(template.jinja.strip()) if template else None
    if own:
        made["scorers"] = scorer_version(chosen.scorer, chosen.folder) if chosen.scorer else code_version(
            ROOM / "scorers", ROOM / "refusal", ROOM / "toolcalls.py", ROOM / "answer_text.py")
    return made


def run_suite(chosen: Suite, subject: Subject, section: EvalSection, asked: Mapping[str, Any], *,
              mirror: Path | None) -> SuiteResult:
    """One suite on a loaded model.

    Raises:
        EvalError: items cannot be read, or the suite needs a chat template and there is none.
    """
    if chosen.through_template and subject.form is None:
        raise EvalError(f"suite {chosen.name} asks through a chat template, and the model has none; evaluate it with "
                        "the template of a run (template.name: chatml, for example)")
    started = time.monotonic()
    if chosen.engine == "lm_eval":
        with tempfile.TemporaryDirectory(prefix="sft-lm-") as scratch:
            door = lm_door.LmDoor(chosen, include_path=section.include_path, mirror=mirror, scratch=Path(scratch))
        lm = lm_door.language_model(subject.model, subject.tokenizer, section.batch_size, chosen.name)
        ran = door.run(lm, limit=section.limit, max_new_tokens=section.max_new_tokens)
        items, truncated, more = ran.items, ran.truncated, {"tasks": ran.tasks}
    else:
        items, truncated, more = _answered(chosen, subject, section), 0, {}
    full = json.loads(json.dumps({**asked, **more}))
    return SuiteResult(chosen.name, chosen.kind, full, items, round(time.monotonic() - started, 3), truncated)


def _answered(chosen: Suite, subject: Subject, section: EvalSection) -> tuple[ItemResult, ...]:
    assert subject.form is not None
    assert chosen.max_new_tokens is not None
    items = read_items(chosen, section.limit, Path(section.data_path) if section.data_path else None)
    longest = min(chosen.max_new_tokens, section.max_new_tokens or chosen.max_new_tokens)
    answers = answer_all(subject.model, subject.tokenizer, items, subject.form,
                         Decoding(chosen.name, section.batch_size, longest))
    return tuple(_scored(chosen, item, answer) for item, answer in zip(items, answers, strict=True))


def _scored(chosen: Suite, item: ChatItem, answer: Answer) -> ItemResult:
    score = scorer_for(chosen.scorer, chosen.folder)
    made = score(item.kind, item.expect, answer.text) if answer.text is not None else None
    return ItemResult(
        suite=chosen.name, task=item.group, item_id=item.item_id, cluster=item.cluster, weight=item.weight,
        score=made.value if made else None,
        metrics={**made.metrics, "stopped": float(answer.stopped)} if made else {},
        prompt="\n\n".join(turn["content"] for turn in item.messages), answer=answer.text or "",
        target=json.dumps(item.expect, ensure_ascii=False, sort_keys=True),
        why=made.why if made else answer.why, asked=fingerprint(item.messages, item.tools, item.expect))


def _own_form(section: ModelSection, mirror: Path | None) -> ChatForm | None:
    """The chat template in the model folder; its stop is in the folder's generation config."""
    tokenizer = load_tokenizer(section, locate(section, mirror))
    return ChatFormat(tokenizer.get_chat_template(), "") if tokenizer.chat_template else None


def _load(section: ModelSection, form: ChatForm | None, mirror: Path | None) -> Subject:
    """Load for inference: weights in the compute precision, as a server holds them, and greedy decoding."""
    loaded = load_model(section, mirror=mirror)
    device = resolve_device(section)
    model = loaded.model.to(device=device, dtype=compute_dtype(section, device)).eval()
    return subject_of(model, loaded.tokenizer, form)


def subject_of(model: Any, tokenizer: Any, form: ChatForm | None) -> Subject:
    """A loaded model made ready to be asked: greedy decoding, the template's stops."""
    if form is not None:
        tokenizer.chat_template = form.jinja
    ends = stop_ids(model, tokenizer, form.stop if form else "")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    # Nothing but the stops: a penalty or a temperature in one model's config would make another protocol of it.
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=pad, do_sample=False)
    return Subject(model, tokenizer, form)


def _finished(out: Path, chosen: Suite, asked: Mapping[str, Any], identity: str) -> SuiteResult | None:
    try:
        result = read_results(out, chosen.name)
    except EvalError:
        return None
    plain = json.loads(json.dumps(asked))
    same = all(result.protocol.get(key) == value for key, value in plain.items())
    return result if same and result.model == identity else None
