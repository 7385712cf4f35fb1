"""Templates with tokenizers of other kinds, and with what is said written out by hand. `test_families.py` has more
templates, with what is said read off their renderings."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sft_core.config.data import TemplateSection
from sft_core.conversation import Conversation, Origin, Rejected, ToolCall, Turn, Why
from sft_core.templates.choose import choose
from sft_core.templates.messages import messages_of
from sft_core.templates.render import IGNORE, Example, Rendered, Renderer
from sft_core.templates.template import Template


@dataclass(frozen=True)
class Family:
    """What is known of a template from its text. `says` is an answer as a model must write it, up to its stop."""

    says: str
    eos: str = "</s>"
    strips: bool = False  # white space around contents is the template's to drop
    tokens: tuple[str, ...] = ()
    refuses: frozenset[str] = frozenset({"tool"})
    says_after_tool: str = ""  # where that differs
    opens: bool = False  # it opens an answer with a thought that it does not write
    rewrites: frozenset[str] = frozenset()  # conversations of which each turn is its own example
    calls: str = ""  # a tool call as it must be written
    jinja: str = ""  # none: the file of this name in trl, or the built-in one


IM = ("<|im_start|>", "<|im_end|>")
JSON_CALL = '<tool_call>\n{{"name": "weather", "arguments": {{"town": "Bako"}}}}\n</tool_call><|im_end|>'
MULTI = frozenset({"multi", "spaces"})
NOTHING: frozenset[str] = frozenset()
QWEN = {"eos": "<|im_end|>", "tokens": IM, "refuses": NOTHING}
GPT_OSS: dict[str, Any] = {
    "says": "<|channel|>final<|message|>{}<|return|>", "eos": "<|return|>", "refuses": NOTHING, "rewrites": MULTI,
    "calls": ' to=functions.weather<|channel|>commentary json<|message|>{{"town": "Bako"}}<|call|>',
    "tokens": ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>")}
PHI: dict[str, Any] = {"says": "{}<|end|>", "eos": "<|endoftext|>",
                       "tokens": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")}
TRL = {
    "qwen2_5": Family("{}<|im_end|>", calls=JSON_CALL, **QWEN),
    "qwen3": Family("<think>\n\n</think>\n\n{}<|im_end|>", calls="<think>\n\n</think>\n\n" + JSON_CALL,
                    rewrites=MULTI | {"tool"}, strips=True, **QWEN),
    "gptoss": Family(**GPT_OSS),
    "phi3_training": Family(**PHI),
}
BUILT_IN = {
    "chatml": Family("{}<|im_end|>", refuses=NOTHING, calls=JSON_CALL),
    "llama3": Family("{}<|eot_id|>", refuses=NOTHING,
                     calls='{{"name": "weather", "parameters": {{"town": "Bako"}}}}<|eot_id|>'),
    "alpaca": Family("{}</s>"),
    "zephyr": Family("{}</s>"),
    "gemma": Family("{}<end_of_turn>"),
    "mistral": Family("{}</s>"),
}
OWN = {
    "llama-2": Family(" {} </s>", strips=True, jinja=(
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
        "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}"
        "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if loop.index0 == 0 and system != false %}"
        "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}"
        "{% else %}{% set content = m['content'] %}{% endif %}"
        "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")),
    "system with the last question": Family(
        "{}</s>", rewrites=frozenset(), tokens=("[INST]", "[/INST]"), jinja=(
            "{{ bos_token }}{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
            "{% set rest = messages[1:] if messages[0]['role'] == 'system' else messages %}"
            "{% set last = rest | selectattr('role', 'equalto', 'user') | list | length %}{% set n = namespace(i=0) %}"
            "{% for m in rest %}{% if m['role'] == 'user' %}{% set n.i = n.i + 1 %}"
            "{{ '[INST]' + (system + '\\n\\n' if system and n.i == last else '') + m['content'] + '[/INST]' }}"
            "{% elif m['tool_calls'] or m['role'] == 'tool' %}{{ raise_exception('no tools') }}"
            "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}")),
    "vicuna": Family(" {}</s>", refuses=frozenset({"tool"}), jinja=(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + ' ' }}"
        "{% elif m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
        "{% elif m['role'] == 'assistant' %}{{ 'ASSISTANT: ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")),
    "upper-case roles": Family("{}</s>", jinja=(
        "{% for m in messages %}{{ '[' + m['role'] | upper + ']\\n' + m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[ASSISTANT]\\n' }}{% endif %}")),
    "system dropped": Family("{}<|im_end|>", tokens=IM, refuses=frozenset({"system", "tool"}), jinja=(
        "{% for m in messages if m['role'] in ('user', 'assistant') %}"
        "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")),
    "stops only where it ends": Family("{}</s>", rewrites=MULTI, jinja=(
        "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + ('</s>' if loop.last and not "
        "add_generation_prompt else '') }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}")),
}
FAMILIES = {**{f"trl {name}": family for name, family in TRL.items()},
            **{f"built-in {name}": family for name, family in BUILT_IN.items()}, **OWN}
CALL = ToolCall("weather", '{"town": "Bako"}')


def turns(*said: str) -> tuple[Turn, ...]:
    return tuple(Turn("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(said))


CHATS: dict[str, tuple[Turn, ...]] = {
    "single": turns("Q hi", "hello"),
    "multi": turns("Q hi", "hello", "Q and?", "more"),
    "system": (Turn("system", "S be kind"), *turns("Q hi", "hello")),
    "empty system": (Turn("system", ""), *turns("Q hi", "hello")),
    "spaces": turns("  Q hi\n", "  hello \n", "\nQ and?", "more\n\nlines  "),
    "unicode": turns("Q 你好 – ½ e\u0301 🙂", "Grüße, 世界 🙂 \u200b ok"),
    "tool": (Turn("user", "Q in Bako?"), Turn("assistant", "", (CALL,)), Turn("tool", "T grey"),
             Turn("assistant", "It is.")),
}


def trl_file(name: str) -> str:
    """The text of a template that trl carries, without importing trl."""
    found = importlib.util.find_spec("trl")
    if not found or not found.submodule_search_locations:
        pytest.skip("needs trl")
    return (Path(found.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def with_tokens(inner: Tokenizer, family: Family, jinja: str) -> PreTrainedTokenizerFast:
    spelled = set(re.findall(r"<\|[\w▁ ]+\|>|<｜[\w▁]+｜>", jinja)) | {*family.tokens, family.eos, "<s>", "<unk>"}
    inner.add_special_tokens([AddedToken(text, normalized=False) for text in sorted(spelled)])
    inner.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>", "<tool_call>")])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=family.eos, bos_token="<s>", unk_token="<unk>",
                                   pad_token=family.eos)


CORPUS = ["user\nassistant\n\n\n system \n hello hello there\n\n Q hi and? more\n\nlines It is. be kind in Bako? grey",
          "weather town name arguments <|user|>\n ASSISTANT: USER: [INST] [/INST] is, the of to a."] * 30


def merging() -> Tokenizer:
    """Byte-level BPE with merges over white space."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=500, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return inner


def unigram(scheme: str) -> Tokenizer:
    """Like SentencePiece: ▁ before a text, unknown characters, a normaliser."""
    inner = Tokenizer(models.Unigram())
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    inner.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False))
    return inner


def word_pieces() -> Tokenizer:
    """Like BERT: lower case, no white space at all."""
    inner = Tokenizer(models.WordPiece(unk_token="<unk>"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["<unk>"], show_progress=False))
    return inner


@dataclass(frozen=True)
class Case:
    """A family with a tokenizer, ready to render."""

    family: Family
    tokenizer: PreTrainedTokenizerFast
    template: Template
    renderer: Renderer

    def apply(self, turns: tuple[Turn, ...], **options: Any) -> Any:
        """What `apply_chat_template` makes of the turns."""
        return self.tokenizer.apply_chat_template(messages_of(turns, self.template.form), return_dict=False,
                                                  chat_template=self.template.jinja, **options)


def case_of(name: str, inner: Tokenizer) -> Case:
    family = FAMILIES[name]
    built_in = name.removeprefix("built-in ") if name.startswith("built-in") else None
    jinja = "" if built_in else family.jinja or trl_file(name.removeprefix("trl "))
    tokenizer = with_tokens(inner, family, jinja)
    tokenizer.chat_template = jinja or None
    section = TemplateSection.model_validate({"name": built_in or "model"})
    template = choose(section, tokenizer)
    return Case(family, tokenizer, template, Renderer(template, tokenizer, section))


def runs_of(example: Example) -> list[list[int]]:
    """The trained tokens, neighbours together."""
    before = [IGNORE, *example.targets[:-1]]
    return [list(run) for trained, run in groupby(before, key=lambda target: target != IGNORE) if trained]


def check_prompts(case: Case, turns: tuple[Turn, ...], examples: tuple[Example, ...], bytewise: bool) -> None:
    """Every answer stands behind exactly what the model is asked with, and is trained from its first token on.

    Where tokens are longer than a byte an earlier answer's border can hold two tokens that a later prompt has as one.
    """
    asked = [at for at, turn in enumerate(turns) if turn.role == "assistant"]
    asked = asked if bytewise or len(examples) > 1 else asked[:1]
    for number, at in enumerate(asked):
        prompt = case.apply(turns[:at], add_generation_prompt=True)
        example = examples[number if len(examples) > 1 else 0]
        assert example.input_ids[: len(prompt)] == prompt
        assert case.renderer.prompt(turns[:at]) == prompt
        assert example.targets[len(prompt) - 1] == example.input_ids[len(prompt)]
        if number == 0 or len(examples) > 1:
            assert set(example.targets[: len(prompt) - 1]) <= {IGNORE}


def check_stops(case: Case, turns: tuple[Turn, ...], examples: tuple[Example, ...]) -> None:
    stops = case.tokenizer.convert_tokens_to_ids(list(case.template.stops))
    runs = [run for example in examples for run in runs_of(example)]
    assert all(run[-1] in stops for run in runs)
    assert sum(token in stops for run in runs for token in run) >= sum(turn.role == "assistant" for turn in turns)


@pytest.mark.parametrize("name", sorted(FAMILIES))
class TestContract:
    """Ids are bytes here, so that texts can be compared exactly."""

    @pytest.fixture
    def case(self, name, byte_tokenizer):
        return case_of(name, byte_tokenizer().backend_tokenizer)

    @pytest.mark.parametrize("chat", sorted(CHATS))
    def test_every_character(self, case, chat):
        turns, family = CHATS[chat], case.family
        found = case.renderer.render(Conversation(turns, Origin("s", "f", 1)))
        if chat in family.refuses:
            assert isinstance(found, Rejected)
            assert found.why is Why.TEMPLATE_REFUSED
            return
        assert isinstance(found, Rendered), found
        assert (len(found.examples) > 1) == (chat in family.rewrites)
        said = "".join(answer_of(family, turns, at) for at, turn in enumerate(turns) if turn.role == "assistant")
        trained = "".join(case.tokenizer.decode(run) for example in found.examples for run in runs_of(example))
        assert squeezed(trained, family) == squeezed(said, family)
        check_stops(case, turns, found.examples)
        check_prompts(case, turns, found.examples, bytewise=True)
        if not family.opens:
            assert found.examples[-1].input_ids == case.apply(turns)

    def test_last_assistant_trains_one_turn(self, case):
        section = TemplateSection(train_on="last_assistant")
        renderer = Renderer(case.template, case.tokenizer, section)
        found = renderer.render(Conversation(CHATS["multi"], Origin("s", "f", 1)))
        assert isinstance(found, Rendered)
        (example,) = found.examples
        assert [case.tokenizer.decode(run) for run in runs_of(example)] == [case.family.says.format("more")]


@pytest.mark.parametrize("name", ["trl qwen2_5", "trl qwen3", "trl gptoss", "trl phi3_training", "llama-2", "vicuna",
                                  "upper-case roles", *(name for name in FAMILIES if name.startswith("built-in"))])
@pytest.mark.parametrize("kind", ["merging", "unigram always", "unigram first", "word pieces"])
def test_other_tokenizers(name, kind):
    """Where ids are no bytes: the same ids as the chat template has, and what is trained begins and ends as it must."""
    kinds = {"merging": merging, "unigram always": lambda: unigram("always"), "unigram first": lambda: unigram("first"),
             "word pieces": word_pieces}
    case = case_of(name, kinds[kind]())
    for chat in ("single", "multi", "unicode"):
        found = case.renderer.render(Conversation(CHATS[chat], Origin("s", "f", 1)))
        assert isinstance(found, Rendered), found
        check_stops(case, CHATS[chat], found.examples)
        check_prompts(case, CHATS[chat], found.examples, bytewise=False)
        whole, ids = case.apply(CHATS[chat]), found.examples[-1].input_ids
        prompt = case.apply(CHATS[chat][:-1], add_generation_prompt=True)
        # A token can straddle the border of prompt and answer ("\n\n" before a word falls apart): inference decides.
        straddled = whole[: len(prompt)] != prompt
        assert ids == whole or straddled and case.tokenizer.decode(ids) == case.tokenizer.decode(whole)
        answers = case.tokenizer.decode([token for one in found.examples for run in runs_of(one) for token in run])
        assert "Q" not in answers.replace("</", "")


def answer_of(family: Family, turns: tuple[Turn, ...], at: int) -> str:
    if turns[at].tool_calls:
        return family.calls.format()
    after_tool = turns[at - 1].role == "tool" and family.says_after_tool
    return (after_tool or family.says).format(turns[at].content)


def squeezed(text: str, family: Family) -> str:
    return "".join(text.split()) if family.strips else text
