"""Families of chat templates: where their Jinja stands, and what their tokenizer and configuration say."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

HERE = Path(__file__).parent
OFF, ON = {"enable_thinking": False}, {"enable_thinking": True}


@dataclass(frozen=True)
class Family:
    """A template with what its tokenizer and its configuration say."""

    eos: str = "</s>"
    keywords: tuple[dict[str, Any], ...] = field(default=({},))
    stop: tuple[str, ...] = ()
    source: str = "own"  # or trl, or built-in
    ids: str = "call{number:05d}"
    """Of tool calls, as its publisher counts them: number in the conversation, place in the turn."""


IM, EOT, COHERE, END = "<|im_end|>", "<|eot_id|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>"
GLM = ("<|user|>", "<|observation|>")
FAMILIES: dict[str, Family] = {
    **{name: Family(IM) for name in ("falcon-h1", "internlm-3", "olmo-3-think", "phi-4",
                                     "phi-4-reasoning", "qwen-3-2507-thinking", "qwen-3-coder", "qwq", "smollm-2",
                                     "yi")},
    "kimi-k2": Family(IM, ids="functions.{name}:{place}"),
    **{name: Family(IM, ids="functions.{name}:{number}") for name in ("kimi-k2-0905", "kimi-k2-thinking")},
    **{name: Family() for name in ("command-r-plus", "deepseek-v2", "falcon-3", "llama-2", "magistral", "mistral-v1",
                                   "mistral-v3", "mistral-v7-tekken", "olmo-2", "vicuna")},
    **{name: Family(COHERE) for name in ("aya", "command-r7b", "command-r-plus")},
    "apertus": Family("<|assistant_end|>", ({}, ON)), "deepseek-v3.1": Family(END, ({}, {"thinking": True})),
    "deepseek-v3.2": Family(END, ({}, {"thinking": True})), "ernie-4.5": Family("<|end_of_sentence|>"),
    "exaone-3.5": Family("[|endofturn|]"), "exaone-4": Family("[|endofturn|]", ({}, ON)),
    "glm-4-9b": Family("<|endoftext|>", stop=GLM), "glm-4.7": Family("<|endoftext|>", ({}, OFF), GLM),
    "granite-3.3": Family("<|end_of_text|>", ({}, {"thinking": True})), "granite-4": Family("<|end_of_text|>"),
    "hunyuan-a13b": Family("<|eos|>", ({}, OFF)), "jamba": Family("<|eom|>"), "llama-4": Family("<|eot|>"),
    "minimax-m1": Family("<end_of_sentence>"), "minimax-m2": Family("[e~["), "nemotron-nano-2": Family("<SPECIAL_12>"),
    "phi-4-mini": Family("<|endoftext|>"), "seed-oss": Family("<seed:eos>", ({}, {"thinking_budget": 0})),
    "smollm-3": Family(IM, ({}, OFF)),
    **{name: Family(IM, ({}, OFF), source="trl") for name in (
        "qwen3", "qwen3_training", "qwen3_5_think", "qwen3_8", "nemotron_3_nano", "nemotron_3_ultra")},
    "qwen3_5_nothink": Family(IM, ({}, ON), source="trl"),
    **{name: Family(IM, source="trl") for name in ("qwen2_5", "qwen2_5_training", "qwen3_instruct_2507", "qwen3_vl",
                                                   "lfm2", "lfm2_v2", "lfm2_2_5")},
    **{name: Family(EOT, source="trl") for name in ("llama3", "llama3_training", "llama3_1", "llama3_2")},
    **{name: Family("<end_of_turn>", source="trl") for name in ("gemma", "gemma3_training")},
    "gemma4": Family("<turn|>", source="trl"), "gemma4_v5": Family("<turn|>", ({}, ON), source="trl"),
    "diffusion_gemma": Family("<turn|>", (ON,), source="trl"),
    "glm4moe": Family("<|endoftext|>", ({}, OFF), GLM, "trl"), "gptoss": Family("<|return|>", source="trl"),
    "gptoss_training": Family("<|return|>", source="trl"), "phi3": Family("<|endoftext|>", source="trl"),
    "phi3_5_training": Family("<|endoftext|>", source="trl"), "deepseekv3": Family(END, source="trl"),
    "deepseek_r1_distill": Family(END, source="trl"), "cohere": Family(COHERE, source="trl"),
    "cohere2_training": Family(COHERE, source="trl"), "muse_glimmer": Family("<|eot|>", source="trl"),
    "idefics3_training": Family("<end_of_utterance>", source="trl"),
    **{f"built-in {name}": Family(source="built-in") for name in (
        "alpaca", "chatml", "gemma", "llama3", "mistral", "zephyr")},
}
SPELLED = re.compile(r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|\[/?[A-Z_]{3,}\]|</?think>|</?seed:\w+>|</?tool_calls?>"
                     r"|<(?:start|end)_of_\w+>|<\|\w+>|<\w+\|>|\]~!?b\[?\]?|\[e~\[|\[\|\w+\|\]|</?arg_\w+>"
                     r"|<SPECIAL_\d+>|<(?:beginning|end)_of_\w+>|<end_of_utterance>|<\|\"\|>")


def jinja_of(name: str) -> str | None:
    family = FAMILIES[name]
    if family.source == "built-in":
        return None
    if family.source == "own":
        return (HERE / f"{name}.jinja").read_text(encoding="utf-8")
    found = importlib.util.find_spec("trl")
    if not found or not found.submodule_search_locations:
        pytest.skip("needs trl")
    return (Path(found.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@lru_cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """Ids are bytes, and one for each control token that the template spells."""
    jinja = jinja_of(name)
    inner = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in bytes_to_unicode().items()}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    eos = FAMILIES[name].eos
    found = {*SPELLED.findall(jinja or ""), eos, "<s>", "<pad>", *FAMILIES[name].stop}
    plain = {text for text in found if re.fullmatch(r"</?(think|tool_call|tool_response|arg_\w+)>", text)}
    inner.add_special_tokens([AddedToken(text, normalized=False) for text in sorted(found - plain)])
    inner.add_tokens([AddedToken(text, normalized=False) for text in sorted(plain)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=eos, bos_token="<s>", pad_token="<pad>")
    made.chat_template = jinja
    return made
