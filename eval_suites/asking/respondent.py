"""A model ready to be asked: loaded in this process, in vLLM, or behind a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from transformers import GenerationConfig

from eval_suites.backends.cache import Cached
from eval_suites.backends.contract import Backend
from eval_suites.backends.generate import Answerer, ChatForm, Templated, stop_ids
from eval_suites.backends.local import Local
from eval_suites.backends.remote import Remote, endpoint_of, is_endpoint
from sft_core.config.data import ModelSection, TemplateSection
from sft_core.config.synth import PLACE
from sft_core.model.load import compute_dtype, load_model, load_tokenizer, locate, model_identity, resolve_device
from sft_core.stage import fingerprint
from sft_core.templates.given import with_date


class ChatFormat(NamedTuple):
    """A chat template by its text: what `ChatForm` needs."""

    jinja: str
    stops: tuple[str, ...] = ()


class Engine(Protocol):
    """What a section says of who computes."""

    @property
    def backend(self) -> str:
        """`transformers` or `vllm`."""

    @property
    def batch_tokens(self) -> int | None:
        """Padded tokens of a batch; None: what free memory holds."""


class Respondent(NamedTuple):
    """A model and how it is talked to; `form` is None where it has no chat template.

    Behind a server there are no weights, no tokenizer and no `backend`, and `answerer` asks the server. In vLLM
    `network` is a model without weights, for its config.
    """

    network: Any
    tokenizer: Any
    form: ChatForm | None
    backend: Backend | None
    answerer: Answerer | None
    name: str  # of the backend
    label: str = "the model"

    @property
    def vocabulary(self) -> str:
        """Hash of the tokenizer's tokens with their ids; empty behind a server."""
        return fingerprint(sorted(self.tokenizer.get_vocab().items())) if self.tokenizer is not None else ""


def identity_of(model: ModelSection, mirror: Path | None) -> str:
    """Content hash of the model; of a server its address and the model's name, as the weights are not seen."""
    if is_endpoint(model.path):
        return fingerprint(endpoint_of(model.path))
    return str(model_identity(model, mirror)["digest"])


def own_form(section: ModelSection, mirror: Path | None) -> ChatFormat | None:
    """The chat template in the model folder; its stops are in the folder's generation config. One that writes today's
    date writes the same one every day."""
    if is_endpoint(section.path):
        return None
    tokenizer = load_tokenizer(section, locate(section, mirror))
    if not tokenizer.chat_template:
        return None
    return ChatFormat(with_date(tokenizer.get_chat_template(), TemplateSection().date))


def plain_form(text: str, until: Sequence[str], tokenizer: Any) -> ChatFormat:
    """A text with a place for the prompt as a chat template, so that a base model goes on with it. It begins with BOS
    where the tokenizer writes one by itself.

    Args:
        text: holds `{prompt}`, where all that is said stands, turn by turn.
        until: texts that end an answer.
    """
    before, _, behind = text.partition(PLACE)
    begun = tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
    parts = ["{{ bos_token }}"] * begun + [_literal(before), "{{ messages | map(attribute='content') | join('\n\n') }}",
                                           _literal(behind)]
    return ChatFormat("".join(parts), tuple(until))


def _literal(text: str) -> str:
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def load_respondent(section: ModelSection, form: ChatForm | None, mirror: Path | None, settings: Engine,
                    cache: Path | None, key: str | None = None) -> Respondent:
    """Load for inference: weights in the compute precision, as a server holds them, and greedy decoding.

    Args:
        settings: backend and batch size.
        cache: folder with the answers of all models; None: answers are kept for the life of the process.
        key: API key of a model that is a server.

    Raises:
        EvalError, ModelError: the model or its engine cannot be used.
    """
    if is_endpoint(section.path):
        return _served(section, cache, key)
    identity = identity_of(section, mirror)
    if settings.backend == "vllm":
        from eval_suites.backends.vllm import open_vllm

        network, tokenizer, backend = open_vllm(section, locate(section, mirror))
        return ready(network, tokenizer, form, Cached(backend, cache, identity), section.path)
    device = resolve_device(section)
    loaded = load_model(section, mirror=mirror, dtype=compute_dtype(section, device))
    model = loaded.model.to(device).eval()
    local = Local(model, settings.batch_tokens)
    return ready(model, loaded.tokenizer, form, Cached(local, cache, identity), section.path)


def _served(section: ModelSection, cache: Path | None, key: str | None) -> Respondent:
    from eval_suites.backends.endpoint import Endpoint

    where = endpoint_of(section.path)
    answerer = Remote(Endpoint(where, key).chat, where, cache)
    return Respondent(None, None, None, None, answerer, f"endpoint {where.url}, {where.model}", section.path)


def respondent_of(model: Any, tokenizer: Any, form: ChatForm | None, batch_tokens: int | None) -> Respondent:
    """A model of this process made ready to be asked; its answers are not kept."""
    return ready(model, tokenizer, form, Local(model, batch_tokens), "the model under training")


def ready(network: Any, tokenizer: Any, form: ChatForm | None, backend: Backend, label: str) -> Respondent:
    """Greedy decoding, the template's stops.

    The tokenizer no longer foretells "indexing errors" of long prompts: those are cut or left unscored, and counted.
    """
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    if form is not None:
        tokenizer.chat_template = form.jinja
    ends = stop_ids(network, tokenizer, form.stops if form else ())
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    # Nothing but the stops: a penalty or a temperature in one model's config would make another protocol of it.
    network.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=pad, do_sample=False)
    answerer = Templated(backend, tokenizer, form, ends) if form is not None else None
    return Respondent(network, tokenizer, form, backend, answerer, backend.name, label)
