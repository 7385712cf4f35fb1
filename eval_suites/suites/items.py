"""The items of a suite: from its own rows or a published benchmark's files, sampled, in every variant."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from eval_suites.scorers.registry import SCORERS
from eval_suites.suites.chat_item import BadRow, ChatItem, LikelihoodItem, chat_item, likelihood_item, parse_lines
from eval_suites.suites.perturb import VARIANTS
from eval_suites.suites.readers.all import READERS, TEXT_READERS
from eval_suites.suites.sample import of_part, quotas, rank
from eval_suites.suites.suite import Suite
from sft_core.config.evaluate import Limit
from sft_core.errors import EvalError

__all__ = ["ChatItem", "LikelihoodItem", "content_hash", "read_items", "read_texts"]

EVERYTHING = Limit()
Item = TypeVar("Item", ChatItem, LikelihoodItem)


def read_items(chosen: Suite, limit: Limit = EVERYTHING, data_path: Path | None = None) -> list[ChatItem]:
    """The items of a suite of the engine `generate`, in the order of the file, each followed by its variants.

    Args:
        limit: the part, and items per kind (task) or in all: a sample of it drawn by a fixed hash of the ids; `weight`
            says how many items of the part each stands for. All variants of a drawn item are asked.
        data_path: `eval.data_path`, where suites with a reader find their files.

    Raises:
        EvalError: the file is missing, a row is not valid, a kind has no scorer, an id is there twice, or the part has
            no items.
    """
    items = _read(chosen, data_path, READERS, chat_item if chosen.scorer else _of_known_kind)
    drawn = _sample(chosen, items, limit, lambda item: item.group)
    if chosen.system is not None:
        drawn = [item._replace(messages=_with_system(item, chosen.system)) for item in drawn]
    return [one for item in drawn for one in _expanded(item, chosen.variants)]


def read_texts(chosen: Suite, limit: Limit = EVERYTHING, data_path: Path | None = None) -> list[LikelihoodItem]:
    """The items of a suite of the engine `likelihood`; arguments as for `read_items`.

    Raises:
        EvalError: the file is missing, a row is not valid, an id is there twice, the part has no items, or there are
            answers in a suite that does not ask through the chat template.
    """
    items = _read(chosen, data_path, TEXT_READERS, likelihood_item)
    if not chosen.chat and any(item.messages for item in items):
        raise EvalError(f"suite {chosen.name} measures answers behind conversations; give it chat: true")
    return _sample(chosen, items, limit, lambda item: item.kind)


def _read(chosen: Suite, data_path: Path | None, readers: Mapping[str, Callable[[Path], list[Item]]],
          parse: Callable[[Any], Item]) -> list[Item]:
    file = chosen.items_at(data_path)
    try:
        items = readers[_known(chosen, readers)](file) if chosen.reader else _rows(file, parse)
    except (OSError, UnicodeDecodeError) as error:
        hint = " (below eval.data_path)" if chosen.reader else ""
        raise EvalError(f"the items of suite {chosen.name}{hint} cannot be read: {error}") from error
    twice = [item_id for item_id, count in Counter(item.item_id for item in items).items() if count > 1]
    if twice:
        raise EvalError(f"{file} has an id twice ({twice[0]!r}); results are paired by id")
    if not items:
        raise EvalError(f"suite {chosen.name} has no items: {file} is empty")
    return items


def _of_known_kind(row: Any) -> ChatItem:
    item = chat_item(row)
    if item.kind not in SCORERS:
        raise BadRow(f"there is no scorer for kind {item.kind!r}; kinds are {', '.join(sorted(SCORERS))}, or give the "
                     "suite a scorer: package.module:function")
    return item


def _known(chosen: Suite, readers: Mapping[str, object]) -> str:
    if chosen.reader not in readers:
        raise EvalError(f"suite {chosen.name}: there is no reader {chosen.reader!r} for the engine {chosen.engine}; "
                        f"readers are {', '.join(sorted(readers))}")
    return str(chosen.reader)


def _rows(file: Path, parse: Callable[[Any], Item]) -> list[Item]:
    found = []
    for where, row in parse_lines(file.read_text(encoding="utf-8"), file):
        try:
            found.append(parse(row))
        except BadRow as error:
            raise EvalError(f"{where} is not an item: {error}") from error
    return found


def _sample(chosen: Suite, items: list[Item], limit: Limit, stratum: Callable[[Item], str]) -> list[Item]:
    """The items that are asked of each stratum of the part, each weighing what it stands for: N_stratum / n_stratum."""
    if limit == EVERYTHING:
        return items
    by_id, ids = {item.item_id: item for item in items}, dict[str, list[str]]()
    for item in items:
        ids.setdefault(stratum(item), []).append(item.item_id)
    part = of_part(chosen.name, ids, {item.item_id: item.cluster for item in items}, limit)
    strata = {name: [by_id[one] for one in some] for name, some in part.items()}
    weights = {}
    asked = quotas({name: len(group) for name, group in strata.items()}, limit)
    for name, group in strata.items():
        # Languages and the like ask every cluster once: then all strata draw the same clusters, and stay paired.
        once = len({item.cluster for item in group}) == len(group)
        drawn = sorted(group, key=lambda item: rank(item.cluster if once else item.item_id))[:asked[name]]
        weights.update({item.item_id: len(group) / len(drawn) for item in drawn})
    return [item._replace(weight=weights[item.item_id]) for item in items if item.item_id in weights]


def _with_system(item: ChatItem, system: str) -> list[dict[str, str]]:
    """The suite's system prompt in front; an item's own one follows it in the same turn."""
    first, *rest = item.messages
    if first["role"] != "system":
        return [{"role": "system", "content": system}, *item.messages]
    return [{"role": "system", "content": f"{system}\n\n{first['content']}"}, *rest]


def _expanded(item: ChatItem, variants: Sequence[str]) -> Iterator[ChatItem]:
    """The item, and behind it its variants, which are new questions; the clean item's id is their cluster."""
    if not variants:
        yield item
        return
    cluster = item.item_id
    yield item._replace(task="clean", cluster=cluster)
    for variant in variants:
        if variant not in VARIANTS:
            raise EvalError(f"there is no variant {variant!r}; variants are {', '.join(VARIANTS)}")
        changed = VARIANTS[variant](item)
        if changed.messages == item.messages:
            continue  # this item cannot be asked in that form
        yield changed._replace(item_id=f"{item.item_id}~{variant}", task=variant, cluster=cluster)


def content_hash(chosen: Suite, data_path: Path | None) -> str:
    """Hash of what a suite reads asks from outside this package: its items, a benchmark's files.

    '' for a shipped suite, which the code's version covers.

    Raises:
        EvalError: a published benchmark is asked for without `eval.data_path`.
    """
    if chosen.engine == "lm_eval" or (chosen.reader is None and chosen.folder is None):
        return ""
    digest = hashlib.sha256()
    at = chosen.items_at(data_path)
    for file in sorted(one for one in at.rglob("*") if one.is_file()) if at.is_dir() else [at]:
        digest.update(file.name.encode() + b"\0" + (file.read_bytes() if file.is_file() else b""))
    return digest.hexdigest()[:16]
