"""No idle knobs: every field of every section is read by somebody outside the configuration itself."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from sft_core.config import section
from sft_core.config.experiment import ExperimentConfig

Sft = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]

RECORDER = """
import json, os, sys
from sft_core.config import file as loader, section

ROOM, LOADER = os.path.dirname(section.__file__), loader.__file__

seen = set()

def spy(self, name):
    if name in type(self).__pydantic_fields__:
        frame = sys._getframe(1)
        while (file := frame.f_code.co_filename) != LOADER and (
                frame.f_code is spy.__code__ or os.path.dirname(file) == ROOM):
            frame = frame.f_back  # the room's properties and functions read for whoever asks them
        if file != LOADER and f"{os.sep}pydantic{os.sep}" not in file:  # which only check
            said_by = next(one for one in type(self).__mro__ if name in vars(one).get("__annotations__", {}))
            seen.add(f"{said_by.__name__}.{name}")
    return object.__getattribute__(self, name)

section.Section.__getattribute__ = spy
from flows import cli

for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
print("SEEN" + json.dumps(sorted(seen)))
"""


def fields() -> set[str]:
    """Every field of every section of an experiment, as Section.field, by the section that says it."""
    found: set[str] = set()
    ahead: list[type[section.Section]] = [ExperimentConfig]
    while ahead:
        model = ahead.pop()
        for one in (one for one in model.__mro__ if issubclass(one, section.Section)):
            found |= {f"{one.__name__}.{name}" for name in vars(one).get("__annotations__", {})
                      if name in model.model_fields}
        ahead += [one for info in model.model_fields.values() for one in sections_in(info.annotation)]
    return found


def sections_in(annotation: Any) -> Iterator[type[section.Section]]:
    """The sections within a type."""
    if isinstance(annotation, type) and issubclass(annotation, section.Section):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from sections_in(part)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A mirror with one small data set of the hub's shape."""
    folder = tmp_path / "hub" / "someone" / "chats"
    (folder / "default").mkdir(parents=True)
    rows = [{"instruction": f"Say the number {n}.", "output": f"The number is {n}."} for n in range(20)]
    (folder / "default" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: default/train.jsonl\n---\n"
    )
    return tmp_path / "hub"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A sequence classifier that knows nothing."""
    folder = tmp_path / "classifier"
    raw = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    BertForSequenceClassification(BertConfig(vocab_size=2, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                             intermediate_size=8, pad_token_id=1)).save_pretrained(folder)
    return folder


def test_every_field_is_read(config: Path, home: Path, hub: Path, prefect_api: str, classifier: Path) -> None:
    def run(*changes: str) -> list[str]:
        return ["run", str(config), *(part for change in changes for part in ("--set", change))]

    from_hub = ("data.sources=[{path: tiny:sft, limit: 60}, {path: someone/chats, subset: default, "
                "phrasings: [{prompt: '{instruction}', answer: '{output}'}]}]")
    sweep = json.dumps({"space": {"train.optim.lr": {"low": 1e-4, "high": 1e-3, "log": True},
                                  "train.epochs": {"choices": [0.1, 0.2], "when": {"seed": 0}}},
                        "alignment": ["tiny_refusal"], "capability": ["tiny_mmlu"], "trials": 1, "confirm": 0,
                        "rungs": {"train": [0.5], "items": [0.5]}})
    commands = [
        run(from_hub, "train.kl.beta=0.1", "train.kl.on=both", "eval.limit=2", "train.epochs=0.2",
            "tracking.registered_model=knobs", "train.checkpoint_every_s=0.001", "data.max_tokens=40",
            "train.kl.reference=cache", "train.optim.schedule=wsd", "train.optim.name=muon",
            "data.mixture={size: 2000, most_repeats: 99, languages: {en: {most: 1.0}}, tasks: {sums: {least: 0.0}}}",
            "data.sources.1.task=sums", "data.sources.1.share=0.5", "data.select={share: 0.8, diverse: true}",
            "data.duplicates={keep: newest, prefer: [chats]}", "data.pii.action=redact",
            "data.quality.drop=[refusal]", "data.scores.measure=[ifd]", "data.scores.keep={ifd: [0, null]}",
            f"data.scores.judge={{endpoint: {{url: {prefect_api}/v1, model: nobody, retries: 0}}, "
            "max_ungraded_share: 1}"),
        run("train.method=lora", "train.interpolate=0.5", "eval.held_back=0.5", "eval.limit=2", "train.epochs=0.2",
            "train.probe.suites=[tiny_refusal, tiny_mmlu]",
            "train.probe.items=2", "train.stopping.patience=1", "train.stopping.metric=tiny_refusal",
            "train.validate_every_steps=2", "eval.suites=[tiny_mmlu, tiny_refusal, open_ended]",
            f"eval.judge={{endpoint: {{url: {prefect_api}/v1, model: nobody, retries: 0}}}}",
            f"eval.refusal_scorer={classifier}", "eval.refusal_labels={LABEL_0: compliance, LABEL_1: refusal}"),
        ["sweep", str(config), "--set", f"search={sweep}", "--set", "eval.limit=2", "--set",
         "train.epochs=0.1"],
    ]
    environment = {"SFT_HOME": str(home), "SFT_MIRROR": str(hub), "PREFECT_API_URL": prefect_api}
    done = subprocess.run([sys.executable, "-c", RECORDER, json.dumps(commands)], cwd=ROOT, capture_output=True,
                          text=True, timeout=400, env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = set(json.loads(done.stdout.split("SEEN")[-1]))
    assert fields() - seen == set()
    assert len(seen) > 60
