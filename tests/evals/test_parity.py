"""The parity certificate: a folder in order passes, every kind of fault is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from eval_suites.parity.certificate import (
    Certificate,
    Deployed,
    Row,
    certify,
    difference,
    openai_messages,
    require_stops,
)
from eval_suites.parity.probes import probes
from sft_core.config.data import ModelSection, TemplateSection
from sft_core.conversation import ToolCall, Turn
from sft_core.errors import EvalError
from sft_core.model.load import load_model, load_tokenizer
from sft_core.templates.choose import choose
from sft_core.templates.messages import Form
from sft_core.templates.render import Renderer

STOP = "<|im_end|>"
TOOLS_JINJA = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A trained model's folder as it is saved: template, and its stop in the generation config."""
    made = tmp_path / "served"
    made.mkdir()
    for file in model_folder.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    tokenizer = load_tokenizer(ModelSection(path=str(made)), made)
    (made / "chat_template.jinja").write_text(TOOLS_JINJA)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(STOP)]
    (made / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return made


def deployed(folder: Path) -> Deployed:
    loaded = load_model(ModelSection(path=str(folder)), mirror=None)
    return Deployed(loaded.model.eval(), loaded.tokenizer,
                    require_stops(loaded.model.generation_config.eos_token_id))


def training(folder: Path, control_text: str = "reject") -> Renderer:
    """What the model was trained with: the folder as it is saved."""
    tokenizer = load_tokenizer(ModelSection(path=str(folder)), folder)
    section = TemplateSection.model_validate({"name": "model", "control_text": control_text})
    return Renderer(choose(section, tokenizer), tokenizer, section)


def wrong(certificate: Certificate) -> dict[str, set[str]]:
    """Path → probes that differ on it."""
    found: dict[str, set[str]] = {}
    for row in certificate.rows:
        if row.same is False:
            found.setdefault(row.path, set()).add(row.probe)
    return found


def row(certificate: Certificate, probe: str, path: str) -> Row:
    return next(r for r in certificate.rows if (r.probe, r.path) == (probe, path))


def test_a_folder_in_order_passes_and_says_what_could_not_be_compared(folder: Path) -> None:
    made = certify(deployed(folder), training(folder))
    assert made.passed, made.why
    assert wrong(made) == {}
    assert row(made, "tool result", "training").same is True
    assert row(made, "tool result", "lm-eval scores").same is None
    assert "takes no tools" in row(made, "tool result", "lm-eval scores").why
    assert row(made, "spells a control token", "training").same is None
    assert "never trained" in row(made, "spells a control token", "training").why
    assert row(made, "spells a control token", "evaluation").same is True
    assert {r.path for r in made.rows if r.same} == {"training", "evaluation", "lm-eval scores", "lm-eval generates",
                                                     "apply_chat_template", "generation_config.json"}
    assert made.check() == ("parity", True, made.why)
    assert json.loads(json.dumps(made.to_dict()))["rows"][0]["same"] is True


def test_text_that_training_escapes_is_told_apart(folder: Path) -> None:
    made = certify(deployed(folder), training(folder, "escape"))
    assert made.passed
    assert "plain text" in row(made, "spells a control token", "training").why


def test_a_changed_template_file_is_found(folder: Path) -> None:
    trained = training(folder)
    (folder / "chat_template.jinja").write_text(TOOLS_JINJA.replace("assistant\n{% endif %}", "assistant{% endif %}"))
    made = certify(deployed(folder), trained)
    assert not made.passed
    assert set(wrong(made)) == {"training"}
    assert "single turn" in wrong(made)["training"]
    assert "instead of" in made.why


def test_a_tokenizer_saved_with_bos_is_found_in_lm_eval(folder: Path) -> None:
    """Its post-processor puts BOS before every text, which the template knows nothing of."""
    trained = training(folder)
    _save_with_bos(folder)
    made = certify(deployed(folder), trained)
    assert set(wrong(made)) == {"lm-eval scores", "lm-eval generates"}
    assert "(BOS in front)" in row(made, "single turn", "lm-eval scores").why


def test_double_bos_is_wrong_even_where_all_agree(folder: Path) -> None:
    _save_with_bos(folder)
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ bos_token }}" + TOOLS_JINJA)
    made = certify(deployed(folder), training(folder))
    assert "single turn" in wrong(made)["apply_chat_template"]
    assert "BOS twice" in made.why


def test_a_stop_missing_from_the_generation_config_is_found(folder: Path) -> None:
    trained = training(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    made = certify(deployed(folder), trained)
    assert wrong(made) == {"generation_config.json": {"stop tokens"}}
    assert STOP in made.why


def test_a_folder_without_a_template_fails(folder: Path) -> None:
    trained = training(folder)
    (folder / "chat_template.jinja").unlink()
    made = certify(deployed(folder), trained)
    assert (made.passed, "no chat template" in made.why) == (False, True)


class Echo:
    """A server that tokenizes like the folder, and answers as told."""

    def __init__(self, tokenizer: Any, more: int = 0, answer: Callable[[list[int]], str] | None = None) -> None:
        self._tokenizer, self._more, self._answer = tokenizer, more, answer

    def chat(self, messages: Any, *, max_tokens: int, tools: Any = None) -> Any:
        for message in messages:
            for call in message.get("tool_calls", ()):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        ids = self._tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=True,
                                                  return_dict=False)
        return SimpleNamespace(text=self._answer(ids) if self._answer else "?", finish_reason="length",
                               prompt_tokens=len(ids) + self._more, completion_tokens=max_tokens)


def test_a_server_that_counts_or_answers_otherwise_is_found(folder: Path) -> None:
    subject, trained = deployed(folder), training(folder)

    def greedy(ids: list[int]) -> str:
        import torch
        asked = torch.tensor([ids])
        said = subject.model.generate(asked, attention_mask=torch.ones_like(asked), do_sample=False, max_new_tokens=16,
                                      eos_token_id=list(subject.stops), pad_token_id=0)[0, len(ids):]
        return str(subject.tokenizer.decode(said, skip_special_tokens=True))

    good = certify(subject, trained, Echo(subject.tokenizer, answer=greedy))
    assert good.passed, good.why
    assert row(good, "single turn", "server").same is True
    off_by_one = certify(subject, trained, Echo(subject.tokenizer, more=1, answer=greedy))
    assert "single turn" in wrong(off_by_one)["server"]
    assert "was asked" in off_by_one.why
    other = certify(subject, trained, Echo(subject.tokenizer))
    assert set(wrong(other)) == {"server"}
    assert "answers '?'" in other.why


def test_what_is_sent_to_a_server_is_openais_form() -> None:
    turns = (Turn("user", "q"), Turn("assistant", "", (ToolCall("f", '{"a": 1}'),)), Turn("tool", "r"))
    sent = openai_messages(turns, Form(call_ids="functions.{name}:{number}"))
    assert sent[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert sent[2]["tool_call_id"] == sent[1]["tool_calls"][0]["id"] == "functions.f:0"


def test_differences_are_told_in_words(folder: Path) -> None:
    tokenizer = load_tokenizer(ModelSection(path=str(folder)), folder)
    assert difference([1, 2], [1, 2], tokenizer) == ""
    assert "from token 1 on" in difference([1, 2, 3], [1, 3], tokenizer)
    assert "2 tokens, the template makes 3" in difference([1, 2, 3], [1, 2], tokenizer)
    with pytest.raises(EvalError, match="eos_token_id"):
        require_stops("x")


def test_probes_fit_small_windows() -> None:
    for window in (256, 4096):
        long = next(p for p in probes(window, ()) if p.name == "long")
        assert len(long.turns[0].content.split()) <= window // 3


def _save_with_bos(folder: Path) -> None:
    tokenizer: PreTrainedTokenizerFast = load_tokenizer(ModelSection(path=str(folder)), folder)
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.eos_token_id)])
    tokenizer.save_pretrained(folder)
