"""The backend `vllm`: answers and prompt log-probabilities from vLLM's offline engine (extra `vllm`, CUDA).

Written against vLLM's documented interface (`LLM`, `SamplingParams`, token prompts, `prompt_logprobs`); it has not been
run by its authors. Shared beginnings and batching are vLLM's own.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from eval_suites.backends.contract import (
    NOT_FINITE,
    Continuation,
    Draw,
    Generation,
    Likelihood,
    Prompt,
    Stops,
    check_asked,
)
from sft_core.config.data import ModelSection
from sft_core.errors import EvalError
from sft_core.model.load import compute_dtype, load_tokenizer, resolve_device


def open_vllm(section: ModelSection, folder: Path) -> tuple[Any, Any, Vllm]:
    """A model without weights for its config, the tokenizer, and the engine.

    Raises:
        EvalError: vLLM is not installed.
    """
    try:
        vllm = importlib.import_module("vllm")
    except ImportError as error:
        raise EvalError(f"eval.backend: vllm needs the extra (pip install 'sft-platform[vllm]', CUDA): {error}; or set "
                        "eval.backend: transformers") from error
    dtype = str(compute_dtype(section, resolve_device(section))).removeprefix("torch.")
    engine = vllm.LLM(model=str(folder), dtype=dtype, enable_prefix_caching=True,
                      trust_remote_code=section.trust_remote_code)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=section.trust_remote_code)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, trust_remote_code=section.trust_remote_code)
    window = int(engine.llm_engine.model_config.max_model_len)
    return network, load_tokenizer(section, folder), Vllm(vllm, engine, window, dtype)


def _failed(said: Any) -> str:
    """Why what vLLM gave is no answer; '' where it is one. The probability of what was chosen tells of logits."""
    if said.finish_reason == "abort":
        return "vLLM gave the request up (finish_reason abort)"
    return "" if math.isfinite(said.cumulative_logprob) else NOT_FINITE


def _drawn(draw: Draw | None) -> dict[str, Any]:
    """vLLM draws an answer with a seed from a stream of its own, too."""
    return draw._asdict() if draw else {"temperature": 0.0}


class Vllm:
    """vLLM's engine as a `Backend`.

    Args:
        module: the package.
        engine: its `LLM`.
        window: its `max_model_len`.
        dtype: of the weights.
    """

    def __init__(self, module: Any, engine: Any, window: int, dtype: str) -> None:
        self._vllm, self._engine, self._window, self._dtype = module, engine, window, dtype

    @property
    def name(self) -> str:
        """Engine, version, precision."""
        return f"vllm {version('vllm')}, {self._dtype}"

    @property
    def window(self) -> int:
        """Two less than vLLM's own: a likelihood hands over its last token too, where a forward pass does without, and
        has to generate one more."""
        return self._window - 2

    @property
    def batch_tokens(self) -> int:
        """Batches are vLLM's own."""
        return 0

    def likelihoods(self, asked: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        """See `Backend`; `prompt_logprobs` gives each token of a prompt with its rank."""
        check_asked(asked, self.window)
        full = [(one.context + one.continuation)[-(self.window + 1):] for one in asked]
        how = self._vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        outputs = self._engine.generate([{"prompt_token_ids": list(ids)} for ids in full], how, use_tqdm=False)
        for place, (one, ids, output) in enumerate(zip(asked, full, outputs, strict=True)):
            count = len(one.continuation)
            found = [step[token] for step, token in zip(output.prompt_logprobs[-count:], ids[-count:], strict=True)]
            yield place, Likelihood(sum(step.logprob for step in found), all(step.rank == 1 for step in found))

    def generate(self, asked: Sequence[Prompt], stops: Stops) -> Iterator[tuple[int, Generation]]:
        """See `Backend`; stops that are text are looked for afterwards, as they only cut the answer."""
        how = [self._vllm.SamplingParams(**_drawn(one.draw), max_tokens=one.longest, stop_token_ids=sorted(stops.ids),
                                         ignore_eos=True, detokenize=False, logprobs=0) for one in asked]
        outputs = self._engine.generate([{"prompt_token_ids": list(one.ids)} for one in asked], how, use_tqdm=False)
        for place, output in enumerate(outputs):
            said = tuple(output.outputs[0].token_ids)
            if why := _failed(output.outputs[0]):
                yield place, Generation(said, False, why)
                continue
            ended = bool(said) and said[-1] in stops.ids
            ids = said[:-1] if ended else said
            yield place, Generation(ids, ended or (stops.done is not None and stops.done(ids)))
