"""Everything that makes two scores of a suite comparable."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from eval_suites.backends.generate import ChatForm
from eval_suites.backends.remote import is_endpoint
from eval_suites.lm_door.door import engine
from eval_suites.scorers.custom import scorer_version
from eval_suites.suites.suite import Suite
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection
from sft_core.model.load import compute_dtype, resolve_device
from sft_core.stage import fingerprint
from sft_core.versions import code_version


def protocol(chosen: Suite, section: EvalSection, model: ModelSection, template: ChatForm | None) -> dict[str, Any]:
    """The protocol as far as it is known before the run; for lm-eval the result's adds each task's version, examples,
    metric and filter, and whether a BOS is put in front.

    `template` is what the model is asked through, whether it comes from a run or from its own folder. The items are no
    part of it: they are paired one by one by what was asked, so that samples of different sizes can be compared; but
    the part that they are from is: no two models are compared on different parts.
    Neither are batch size and device: the A/A floor measures what they move. The tokenizer is none either: base and
    tuned may differ in it, and what is compared is text, per item or per byte; the verdict then says so.
    """
    served = is_endpoint(model.path)
    made: dict[str, Any] = {
        "suite": chosen.asked(),
        "engine": engine() if chosen.engine == "lm_eval" else _engine(section, served),
        "decoding": "greedy",
        "system": chosen.system,
        "max_new_tokens": section.max_new_tokens,
        "dtype": "served" if served else str(
            compute_dtype(model, resolve_device(model))).removeprefix("torch."),
        "batches": "by tokens, sorted by length, padding masked",
    }
    if section.held_back:
        made["part"] = f"{section.part}, where {section.held_back:g} of the clusters are held back"
    if chosen.engine == "lm_eval":
        made["fewshot_as_turns"] = chosen.chat
    if chosen.through_template:
        made["template"] = fingerprint(template.jinja.strip()) if template else None
    if chosen.engine == "generate":
        made["scorers"] = scorer_version(chosen.scorer, chosen.folder) if chosen.scorer else code_version(
            "eval_suites.scorers.registry", beyond=("sft_core", "eval_suites.results"))
    return made


def _engine(section: EvalSection, served: bool) -> str:
    if served:
        return "openai chat completions"
    return "vllm" if section.backend == "vllm" else f"transformers {version('transformers')}"
