"""`sft serve`: a real server that answers by the model's name and ends with the command; what it refuses."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from eval_suites.backends.contract import Draw
from eval_suites.backends.endpoint import Endpoint
from eval_suites.parity.certificate import Certificate
from flows.serve import How, run_serve
from infra import serving
from infra.servers import Command, free_port
from infra.serving import Address, Served, choose_engine, start_serving
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EndpointSection
from sft_core.errors import ConfigError, OrchestrationError
from sft_core.tiny.paths import BASE_FOLDER
from tasks.serve import Up


def test_a_served_model_answers_by_its_name_until_ctrl_c(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder, port = tmp_path / "served model", free_port()
    folder.mkdir()
    for file in BASE_FOLDER.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 3]}')
    process = start("serve", folder, "--port", port, "--anyway")
    assert process.stdout
    told = []
    while not told or not told[-1].startswith("end"):
        told.append(process.stdout.readline())
        assert told[-1], process.communicate()[1]
    assert told[0].startswith("parity ")
    name = next(line for line in told if line.startswith("measure")).split("#")[1].split("'")[0]
    asked = Endpoint(EndpointSection(url=f"http://127.0.0.1:{port}/v1", model=name))
    assert asked.chat([{"role": "user", "content": "Hi"}], max_tokens=4).completion_tokens > 0
    greedy, drawn = ({asked.chat([{"role": "user", "content": "Hi"}], max_tokens=12, how=how and how(seed)).text
                      for seed in range(3)} for how in (None, lambda seed: Draw(2.0, 1.0, seed)))
    assert (len(greedy), len(drawn)) == (1, 3), "its generation_config.json does not say do_sample"
    listed = httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False).raise_for_status().json()["data"]
    assert [one["id"] for one in listed] == [name]
    taken = start("serve", folder, "--port", port)
    assert (taken.wait(120), "cannot be listened at" in taken.communicate()[1]) == (2, True)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert process.stdout.read().endswith("ended\n")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)


def test_what_fails_its_certificate_is_not_served_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ended = SimpleNamespace(process=SimpleNamespace(poll=lambda: 1), log=tmp_path / "log")
    ended.log.write_text("Killed")
    up = Up(ended, "http://127.0.0.1:1/v1", "m", "transformers", Certificate((), False, "it stops elsewhere"))  # type: ignore[arg-type]

    @contextmanager
    def served(*_: Any) -> Iterator[Up]:
        yield up

    monkeypatch.setattr("flows.serve.served", served)
    monkeypatch.setenv("SFT_HOME", str(tmp_path))
    asked, at = ModelSection(path="m"), Address(1, "0.0.0.0")
    assert not run_serve(asked, at, How("auto", "auto", anyway=False), None)
    said = capsys.readouterr().out
    assert "FAIL: it stops elsewhere" in said
    assert "not served" in said
    with pytest.raises(OrchestrationError, match=r"ended by itself(?s:.*)Killed"):
        run_serve(asked, at, How("auto", "auto", anyway=True), None)
    assert "everybody who reaches 0.0.0.0:1 may ask it" in capsys.readouterr().out


def test_vllm_is_taken_where_it_can_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = {"vllm": object(), "openai": object()}
    monkeypatch.setattr(serving, "find_spec", there.get)
    monkeypatch.setattr(serving, "why_no_cuda", lambda: None)
    assert [choose_engine(asked, device) for asked, device in (
        ("auto", "cuda"), ("vllm", "cuda"), ("auto", "cpu"), ("transformers", "cuda"))] == [
        "vllm", "vllm", "transformers", "transformers"]
    monkeypatch.setattr(serving, "why_no_cuda", lambda: "there is no driver")
    assert choose_engine("auto", "cuda") == "transformers"
    with pytest.raises(ConfigError, match="--engine vllm: there is no driver"):
        choose_engine("vllm", "cuda")
    there.clear()
    with pytest.raises(OrchestrationError, match=r"sft-platform\[serve\]"):
        choose_engine("auto", "cpu")
    begun: list[Command] = []
    monkeypatch.setattr(serving, "start", begun.append)
    monkeypatch.setattr(serving, "healthy", lambda service: service)
    start_serving(Served(tmp_path, "m", "cuda", "bfloat16", True, 0.8), Address(9, "::"), tmp_path / "log", "vllm")
    line = " ".join(begun[0].arguments)
    assert "--served-model-name m --host :: --port 9 --dtype bfloat16 --gpu-memory-utilization 0.80" in line
    assert line.endswith("--trust-remote-code")
    assert begun[0].url == "http://127.0.0.1:9"
    assert (tmp_path / "log" / "m").resolve() == tmp_path
