"""What a user without this platform runs beside lm-eval's CLI: one script per suite and model, one question at a time.

    python -m bench.evaluation_script MODEL SUITE IDS.json TEMPLATE.jinja [--data-path DIR] [--max-new-tokens N]

Answers through the chat template and scores with the same rules, or sums log-probabilities of texts; prints the mean.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval_suites.scorers.registry import SCORERS, score
from eval_suites.suites.items import read_items, read_texts
from eval_suites.suites.suite import suite


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("suite")
    parser.add_argument("ids", type=Path)
    parser.add_argument("template", type=Path)
    parser.add_argument("--data-path", type=Path)
    parser.add_argument("--max-new-tokens", type=int)
    known = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(known.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(known.model)
    tokenizer.chat_template = known.template.read_text(encoding="utf-8")
    chosen, wanted = suite(known.suite), set(json.loads(known.ids.read_text(encoding="utf-8")))
    read = read_texts if chosen.engine == "likelihood" else read_items
    items = [item for item in read(chosen, data_path=known.data_path) if item.item_id in wanted]
    if len(items) != len(wanted):
        raise SystemExit(f"{known.suite}: {len(wanted)} items are asked for and {len(items)} were found")
    ask = _likelihood if chosen.engine == "likelihood" else _answered
    most = min(chosen.max_new_tokens or 0, known.max_new_tokens or chosen.max_new_tokens or 0)
    scores = [ask(model, tokenizer, item, most) for item in items]
    found = [value for value in scores if value is not None]
    mean = f"{sum(found) / len(found):.4f}" if found else "no score"
    print(f"{known.suite}: {mean} over {len(found)} of {len(scores)} items")


def _answered(model: Any, tokenizer: Any, item: Any, most: int) -> float | None:
    """An answer to every user turn, each behind the ones before; the last one is scored where a rule can."""
    said, messages, turns = "", [], len(item.expect.get("questions", "."))
    for message in item.messages:
        messages.append(message)
        if turns == 1 or message["role"] == "user":
            said = _said(model, tokenizer, messages if turns > 1 else item.messages, item, most)
            messages.append({"role": "assistant", "content": said})
            if turns == 1:
                break
    return score(item.kind, item.expect, said).value if item.kind in SCORERS else None


@torch.inference_mode()
def _said(model: Any, tokenizer: Any, messages: Any, item: Any, most: int) -> str:
    ids = tokenizer.apply_chat_template(messages, tools=item.parsed_tools(), add_generation_prompt=True,
                                        return_tensors="pt", return_dict=True)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False,
                          eos_token_id=[tokenizer.eos_token_id, end], pad_token_id=tokenizer.pad_token_id)
    return str(tokenizer.decode(said[0, ids.shape[1]:], skip_special_tokens=True))


@torch.inference_mode()
def _likelihood(model: Any, tokenizer: Any, item: Any, most: int) -> float | None:
    """Minus nats per byte of a text in windows of the model's context, or of an answer behind its prompt."""
    text = item.text
    prompt = tokenizer.apply_chat_template(item.messages, add_generation_prompt=True, tokenize=False) \
        if item.messages else ""
    before = tokenizer.encode(prompt, add_special_tokens=False) or [tokenizer.eos_token_id]
    ids = [*before, *tokenizer.encode(text, add_special_tokens=False)]
    window, nats = model.config.max_position_embeddings, 0.0
    for start in range(0, len(ids) - 1, window):
        part = torch.tensor([ids[start:start + window + 1]])
        targets = part[0, 1:].clone()
        targets[:max(len(before) - 1 - start, 0)] = -100
        nats += float(torch.nn.functional.cross_entropy(model(part[:, :-1]).logits[0], targets, reduction="sum"))
    return -nats / len(text.encode())


if __name__ == "__main__":
    main()
