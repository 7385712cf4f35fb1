"""The adapter folder is all that peft needs: it is loaded in a fresh process that knows nothing of this platform."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft_core.config.train import TrainSection
from sft_core.train.finish import TrainReport
from sft_core.train.inputs import TrainInputs
from sft_core.train.trainer import train

Section = Callable[..., TrainSection]
IDS = torch.arange(4, 24)[None]
AFTER = """
import sys, torch
assert not any(name.startswith("sft_core") for name in sys.modules)
with torch.no_grad():
    torch.save((model.eval()(input_ids=torch.arange(4, 24)[None]).logits, len(tokenizer)), OUT)
"""


@pytest.fixture(params=[pytest.param(True, marks=pytest.mark.chaos), False], ids=["tied", "untied"])
def trained(request: pytest.FixtureRequest, train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
            make_llama: Callable[..., Any]) -> TrainReport:
    """A run with adapters whose template adds a token that the base does not know."""
    base = Path(shutil.copytree(train_inputs.model.path, tmp_path / "base"))
    make_llama(tie_word_embeddings=request.param).save_pretrained(base)
    data = Path(shutil.copytree(train_inputs.prepared, tmp_path / "data"))
    template = json.loads((data / "template.json").read_text())
    (data / "template.json").write_text(json.dumps({**template, "added_tokens": ["<|new|>"], "stops": ["<|new|>"]}))
    model = train_inputs.model.model_copy(update={"path": str(base)})
    section = train_section(method="lora", lr=1e-2, epochs=3, lora={"rank": 4})
    return train(replace(train_inputs, prepared=data, model=model), section, tmp_path / "run")


def _run(code: str, folder: Path, tmp_path: Path) -> tuple[torch.Tensor, int]:
    out = tmp_path / "said.pt"
    code = f"ADAPTER, OUT = {str(folder)!r}, {str(out)!r}\n{code}{AFTER}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    logits, tokens = torch.load(out)
    return logits, tokens


def test_peft_loads_an_adapter_with_new_tokens(trained: TrainReport, tmp_path: Path) -> None:
    """By the lines of its README, and by peft's own one line."""
    assert trained.adapter_folder is not None
    with torch.no_grad():
        served = AutoModelForCausalLM.from_pretrained(trained.model_folder).eval()(input_ids=IDS).logits
    readme = (trained.adapter_folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    assert "resize_token_embeddings(65" in code
    assert "65 rows" in readme
    one_line = ("from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n"
                "tokenizer = AutoTokenizer.from_pretrained(ADAPTER)\n"
                "model = AutoPeftModelForCausalLM.from_pretrained(ADAPTER)\n")
    for lines in (code, one_line):
        logits, tokens = _run(lines, trained.adapter_folder, tmp_path)
        assert tokens == 65
        torch.testing.assert_close(logits, served, rtol=1e-4, atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(trained.adapter_folder)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(trained.model_folder).chat_template


def test_an_adapter_on_the_base_as_it_is_needs_no_resizing(train_inputs: TrainInputs, train_section: Section,
                                                           tmp_path: Path) -> None:
    report = train(train_inputs, train_section(method="lora", lora={"rank": 4}), tmp_path)
    assert report.adapter_folder is not None
    readme = (report.adapter_folder / "README.md").read_text()
    assert "resize" not in readme
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    with torch.no_grad():
        served = AutoModelForCausalLM.from_pretrained(report.model_folder).eval()(input_ids=IDS).logits
    torch.testing.assert_close(_run(code, report.adapter_folder, tmp_path)[0], served, rtol=1e-4, atol=1e-4)
