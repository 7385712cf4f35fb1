"""`sft parity` as a user calls it: ids alone, against transformers' own server, and on a finished run."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from infra.servers import free_port
from infra.serving import Address, Served, start_serving
from sft_core.config.data import ModelSection
from sft_core.tiny.paths import BASE_FOLDER
from tasks.parity import Serving, certificate, certificate_of
from tasks.stages import Done, Workspace

Sft = Callable[..., subprocess.CompletedProcess[str]]
JINJA = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """The tiny base, saved as a chat model is."""
    folder = tmp_path / "chat"
    shutil.copytree(BASE_FOLDER, folder)
    (folder / "chat_template.jinja").write_text(JINJA)
    stop = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|im_end|>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, stop], "pad_token_id": 1}))
    return folder


def test_a_real_server_agrees_by_prompt_tokens_and_greedy_text(served: Path, tmp_path: Path) -> None:
    """And it is gone afterwards; a server of another template is found out by its prompt tokens."""
    place = Workspace(tmp_path / "home", None)
    made = certificate_of(ModelSection(path=str(served)), "auto", Serving(start=True), place, tracker=None)  # type: ignore[arg-type]
    assert made.passed, made.why
    rows = [row for row in made.rows if row.path == "server"]
    assert sum(row.same is True for row in rows) >= 6
    assert not list(place.scratch.glob("serving-*"))
    other = tmp_path / "other"
    shutil.copytree(served, other)
    (other / "chat_template.jinja").write_text(JINJA.replace("assistant\n", "assistant"))
    service = start_serving(Served(other, "another", "cpu", "float32"), Address(free_port()), tmp_path / "log")
    try:
        made = certificate_of(ModelSection(path=str(served)), "auto",
                              Serving(url=f"{service.url}/v1", name="another"), place, tracker=None)  # type: ignore[arg-type]
    finally:
        service.stop()
    assert not made.passed
    assert {row.path for row in made.rows if row.same is False} == {"server"}
    assert "it was asked" in made.why


def test_the_command_prints_a_table_and_ends_with_1_on_a_mismatch(sft: Sft, served: Path, home: Path) -> None:
    done = sft("parity", served)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((home / "parity.json").read_text())
    assert written["passed"] is True
    assert {row["path"] for row in written["rows"]} >= {"training", "evaluation", "lm-eval scores",
                                                        "generation_config.json"}
    (served / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    failed = sft("parity", served, "--json", home / "elsewhere.json")
    assert failed.returncode == 1, failed.stderr
    assert "FAIL" in failed.stdout
    assert "<|im_end|> does not end them here" in failed.stdout
    assert json.loads((home / "elsewhere.json").read_text())["passed"] is False


def test_what_cannot_be_asked_is_said(sft: Sft, served: Path) -> None:
    both = sft("parity", served, "--serve", "--endpoint", "http://127.0.0.1:1/v1")
    assert (both.returncode, "one of the two" in both.stderr) == (2, True)
    nobody = sft("parity", served, "--endpoint", f"http://127.0.0.1:{free_port()}/v1")
    assert nobody.returncode == 1
    assert "no answer from http://127.0.0.1" in nobody.stderr


def test_a_finished_run_is_compared_with_its_own_training(sft: Sft, config: Path, home: Path) -> None:
    assert sft("run", config, "--set", "train.replay.lambda=0", "--set", "eval.suites=[tiny_refusal]").returncode == 0
    run = next((home / "runs").glob("*/run.json")).parent
    from sft_core.config.file import load

    loaded = load(run / "config.yaml").config
    trained = Done("", run, {}, reused=True)
    place = Workspace(home, None)
    made = certificate(trained, loaded, place)
    assert made is not None
    assert made.passed, made.why
    template = run / "model" / "chat_template.jinja"
    template = template.resolve()
    before = template.read_text()
    template.write_text(before.replace("<|im_start|>", "<|im_start|> "))
    made = certificate(trained, loaded, place)
    assert made is not None
    assert {row.path for row in made.rows if row.same is False} == {"training"}
    off = loaded.model_copy(update={"eval": loaded.eval.model_copy(update={"parity": "off"})})
    assert certificate(trained, off, place) is None
