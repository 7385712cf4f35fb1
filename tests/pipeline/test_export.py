"""`sft export` and `sft push` of a real run of LoRA: folders that load without this platform, their card, and a server
that speaks as the hub does."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from infra.contract import Tracker
from infra.tracking import open_tracker
from sft_core.config.data import ModelSection, SourceSection
from sft_core.errors import ConfigError, DiskError, HubError, ModelError, TrackingError
from sft_core.model.export import export_model
from sft_core.model.load import load_model
from sft_core.tiny.paths import BASE_FOLDER
from tasks.catalog import named_run
from tasks.chat import How, speakers
from tasks.export import Sending, Shape, export_told, push_told
from tasks.licences import licence_of_model, licence_of_source
from tasks.named import named_model
from tasks.stages import Workspace
from tests.pipeline.conftest import ROOT, SMALL, Warm, environment
from tests.pipeline.hub_server import TOKEN, Hub, hub_server

HOSTILE = "evil\u202e`[x](javascript:1)|<script>"
LORA = {**SMALL, "name": "lora",
        "data": {**SMALL["data"], "sources": [{"path": "tiny:sft", "limit": 40, "name": HOSTILE}]},
        "train": {**SMALL["train"], "method": "lora", "epochs": 0.5, "replay": {"lambda": 0.0}},
        "eval": {**SMALL["eval"], "suites": ["tiny_refusal"], "limit": 3, "floor_items": 0, "parity": "off"},
        "tracking": {"experiment": "tests", "registered_model": "assistant"}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_api: str, warm: Warm) -> Workspace:
    """A workspace with one run of LoRA, whose model is registered."""
    folder = tmp_path_factory.mktemp("using")
    (folder / "lora.yaml").write_text(yaml.safe_dump(LORA, sort_keys=False))
    done = warm.run(["run", str(folder / "lora.yaml")], environment(folder / "home", prefect_api))
    assert done.returncode == 0, done.stderr
    return Workspace(folder / "home", None)


@pytest.fixture
def tracker(place: Workspace) -> Callable[[], Tracker]:
    return lambda: open_tracker(f"sqlite:///{place.root}/mlflow.db", "tests", place.root, make=False)


@pytest.fixture
def run(place: Workspace) -> str:
    return next(place.runs.iterdir()).name


def exported(model: str, out: Path, place: Workspace, tracker: Callable[[], Tracker], **shape: str) -> Path:
    list(export_told(ModelSection(path=model), out, Shape(**shape), place, tracker))
    return out


@torch.inference_mode()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=torch.arange(5, 45)[None]).logits


def test_what_is_exported_is_the_stored_model_for_plain_transformers(
    run: str, place: Workspace, tracker: Callable[[], Tracker], tmp_path: Path
) -> None:
    out = exported(run, tmp_path / "out", place, tracker, shard="1MB", licence="mit")
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) == 3
    assert all(shard.stat().st_size < 1.01e6 for shard in shards)
    stored = place.runs / run / "model"
    pair = [AutoModelForCausalLM.from_pretrained(folder) for folder in (stored, out)]
    assert torch.equal(*map(logits, pair))
    assert pair[0].dtype == pair[1].dtype == torch.bfloat16
    assert pair[1].generation_config.eos_token_id == pair[0].generation_config.eos_token_id
    chat = [{"role": "user", "content": "Hi"}]
    one, two = (AutoTokenizer.from_pretrained(folder).apply_chat_template(chat, add_generation_prompt=True)
                for folder in (stored, out))
    assert one == two
    wide = exported(run, tmp_path / "wide", place, tracker, dtype="float32")
    assert AutoModelForCausalLM.from_pretrained(wide).dtype == torch.float32
    with safe_open(wide / "model.safetensors", "pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"F32"}  # noqa: SIM118
    assert not list(tmp_path.glob(".*"))


def test_an_adapter_loads_with_plain_peft_and_says_what_the_merged_model_says(
    run: str, place: Workspace, tracker: Callable[[], Tracker], tmp_path: Path
) -> None:
    out = exported(run, tmp_path / "adapter", place, tracker, form="adapter")
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= {
        file.name for file in out.iterdir()}
    assert str(BASE_FOLDER) not in "".join((out / name).read_text() for name in ("README.md", "adapter_config.json"))
    whole = AutoModelForCausalLM.from_pretrained(BASE_FOLDER, dtype=torch.float32)
    found = logits(PeftModel.from_pretrained(whole, out)).log_softmax(-1)
    merged = logits(AutoModelForCausalLM.from_pretrained(place.runs / run / "model", dtype=torch.float32))
    base = logits(AutoModelForCausalLM.from_pretrained(BASE_FOLDER, dtype=torch.float32))
    gap, moved = (float((found - one.log_softmax(-1)).abs().max()) for one in (merged, base))
    assert gap < 0.1 * moved
    assert ModelCard.load(out / "README.md").data.library_name == "peft"
    for model, shape, said in ((run, {"form": "adapter", "dtype": "float16"}, "--dtype is of merged"),
                               ("tiny", {"form": "adapter"}, "tiny is no run of LoRA")):
        with pytest.raises(ConfigError, match=said):
            exported(model, tmp_path / "no", place, tracker, **shape)


def test_the_card_tells_the_verdict_the_data_and_the_limits_and_obeys_no_name(
    run: str, place: Workspace, tracker: Callable[[], Tracker], tmp_path: Path
) -> None:
    out = exported(run, tmp_path / "out", place, tracker)
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "apache-2.0"  # of base and data alike
    assert "lora" in card.data.tags
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.metric_type) == ("tiny_refusal", "score")
    verdict = json.loads((place.runs / run / "verdict.json").read_text())
    assert verdict["gate"] != "pass"
    assert "GATE OF THIS MODEL IS UNDECIDED" in card.text or "FAILED ITS GATE" in card.text
    assert "would most likely not have been seen on 6 items" in card.text
    assert "LoRA of rank 8" in card.text
    assert "Chat template: chatml. Weights are stored in bfloat16." in card.text
    assert "says nothing about larger models" in card.text
    assert re.search(r"sft run config.yaml", card.text)
    digest = next(iter(json.loads((place.runs / run / "lineage.json").read_text())["sources"][0]["files"].values()))
    assert digest[:12] in card.text
    before_config = card.text.partition("```yaml")[0]
    assert "<script>" not in before_config
    assert "\u202e" not in card.text
    assert r"\[x\](javascript:1)\|" in before_config
    assert str(tmp_path) not in card.text
    (place.runs / run / "verdict.json").rename(kept := tmp_path / "verdict.json")
    try:
        told = (exported(run, tmp_path / "unjudged", place, tracker) / "README.md").read_text()
    finally:
        kept.rename(place.runs / run / "verdict.json")
    assert "NOT JUDGED" in told


def test_a_model_of_somebody_else_keeps_its_card_or_gets_one_that_says_what_is_not_known(
    place: Workspace, tracker: Callable[[], Tracker], tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(BASE_FOLDER, foreign)
    said = (exported(str(foreign), tmp_path / "one", place, tracker) / "README.md").read_text()
    assert "that it did not train" in said
    assert "not known; ask whoever published it" in said
    (foreign / "README.md").write_text("# mine")
    assert (exported(str(foreign), tmp_path / "two", place, tracker) / "README.md").read_text() == "# mine"


def test_names_of_models_lead_to_their_run(run: str, place: Workspace, tracker: Callable[[], Tracker]) -> None:
    path = (place.runs / run / "model").resolve()
    for name in ("assistant@candidate", "assistant/1", "models:/assistant", "models:/assistant@candidate", run,
                 run[:-2], str(path)):
        named = named_model(name, place, tracker)
        assert named.run is not None
        assert named.run.name == run
        assert (Path(named.path) / "model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()
    assert named_model("org/7", place, tracker).path == "org/7"
    assert named_model("gpt2", place, tracker).path == "gpt2"
    for misspelt, meant in ((run.replace("lora", "lroa"), run), ("asistant", "models:/assistant")):
        with pytest.raises(TrackingError, match=f"there is no run.*did you mean {meant}"):
            named_model(misspelt, place, tracker)
    for name in ("assistant@nosuch", "assistant/7", "models:/nosuch"):
        with pytest.raises(TrackingError, match="registry"):
            named_model(name, place, tracker)


def test_a_folder_leads_to_the_run_that_made_its_model(
    run: str, place: Workspace, tracker: Callable[[], Tracker], tmp_path: Path
) -> None:
    out = exported(run, tmp_path / "out", place, tracker)
    for folder in (out, place.runs / run / "model", (place.runs / run / "model").resolve(), place.runs / run):
        assert named_run(str(folder), place, tracker())[0].name == run
    with pytest.raises(TrackingError, match="does not say which run made it"):
        named_run(str(BASE_FOLDER), place, tracker())


def test_an_export_overwrites_nothing_and_a_broken_one_leaves_nothing(
    place: Workspace, tracker: Callable[[], Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / ".new.mine").mkdir()  # looks like a draft, and is somebody's
    for there in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(ConfigError, match="overwrites nothing"):
            exported("tiny", there, place, tracker)
    out = tmp_path / "new"
    with monkeypatch.context() as patch:
        patch.setattr("sft_core.model.export._cast", lambda model, *_: model.lm_head.weight.data.mul_(2))
        with pytest.raises(ModelError, match="was not written: read back"):
            exported(str(tiny_base), out, place, tracker)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", _full)
        with pytest.raises(DiskError, match="cannot write the folder"):
            exported(str(tiny_base), out, place, tracker)
    large = load_model(ModelSection(path=str(tiny_base)), mirror=None).model
    with torch.no_grad():
        large.model.norm.weight.fill_(1e6)
    shutil.copytree(tiny_base, tmp_path / "large")
    large.save_pretrained(tmp_path / "large")
    with pytest.raises(ModelError, match="beyond 65504"):
        exported(str(tmp_path / "large"), out, place, tracker, dtype="float16")
    assert not out.exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == [".new.mine", "full", "large"]
    out.mkdir()
    assert (exported(str(tiny_base), out, place, tracker) / "config.json").is_file()


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_rounding_is_told_from_a_wrong_model(tiny_base: Path, tmp_path: Path) -> None:
    """A base in float32, exported in less: near, and no longer the same."""
    for dtype in (torch.bfloat16, torch.float16):
        made = export_model(ModelSection(path=str(tiny_base)), None, tmp_path / str(dtype), dtype, "5GB", {})
        assert 1e-9 < made.divergence < 1e-3


def test_a_run_is_talked_to_beside_its_base(run: str, place: Workspace, tracker: Callable[[], Tracker]) -> None:
    tuned, base = speakers(ModelSection(path=run), "base", "auto", place, tracker)
    assert (tuned.name, base.name) == (run, "tiny")
    assert base.note.startswith(f"the template of {run}")
    said = [one.ask("user", "Hi", How(4), lambda _: None) for one in (tuned, base)]
    assert all(one.tokens for one in said)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server, which the library takes for the hub; it reads these when it is imported."""
    with hub_server() as running:
        for name, value in {"ENDPOINT": running.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


def test_a_push_is_there_as_it_was_exported_and_leaves_no_weights_of_before(
    run: str, place: Workspace, tracker: Callable[[], Tracker], hub: Hub, tmp_path: Path
) -> None:
    """In shards by the real command, then in one file, beside which loaders would take the shards."""
    wanted = os.environ | {"SFT_HOME": str(place.root), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1",
                           "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "flows.cli", "push", run, "me/tuned", "--shard-size", "1MB"],
                          cwd=ROOT, env=wanted, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"sent to {hub.url}/me/tuned" in done.stdout
    assert "its gate is" in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    assert hub.visibility == {"me/tuned": "private"}
    assert "model.safetensors.index.json" in hub.repos["me/tuned"]
    list(push_told(ModelSection(path=run), Sending("me/tuned"), Shape(), place, tracker))
    files = hub.repos["me/tuned"]
    assert [name for name in files if name.endswith(("safetensors", "index.json"))] == ["model.safetensors"]
    assert files["model.safetensors"] == (place.runs / run / "model" / "model.safetensors").read_bytes()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template


def test_a_dry_run_shows_all_that_would_go_and_sends_nothing(
    run: str, place: Workspace, tracker: Callable[[], Tracker], hub: Hub
) -> None:
    said = "\n".join(push_told(ModelSection(path=run), Sending("me/x", dry=True), Shape(), place, tracker))
    assert re.search(r"[\d,]+ bytes  model.safetensors", said)
    assert "## Verdict" in said
    assert "nothing was sent" in said
    assert hub.repos == {}
    assert not list(place.scratch.glob("pushing-*"))


def test_what_the_hub_refuses_is_said_without_the_token(
    run: str, place: Workspace, tracker: Callable[[], Tracker], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(error: type[Exception], said: str, name: str = "me/x") -> None:
        with pytest.raises(error, match=said) as raised:
            list(push_told(ModelSection(path=run), Sending(name), Shape(), place, tracker))
        assert TOKEN not in str(raised.value)

    hub.refuse = 403
    refused(HubError, "the token may not write there")
    hub.refuse = None
    refused(ConfigError, "is no hub id", "a/b/c")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    refused(HubError, "check name, network and HF_ENDPOINT")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("infra.hub.get_token", lambda: None)
    refused(HubError, "there is no token; `hf auth login`")
    assert hub.repos == {}


def test_licences_are_what_files_and_pages_say_and_never_guessed(tmp_path: Path, hub: Hub) -> None:
    def of(text: str, file: str = "README.md") -> str | None:
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / file).write_text(text)
        found = licence_of_source(SourceSection(path=str(tmp_path / "data" / "rows.jsonl")), None)
        (tmp_path / "data" / file).unlink()
        return found and f"{found.name}: {found.said}"

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").touch()
    assert of("---\nlicense: mit\n---\n") == "mit: mit"
    assert of("---\nlicense: other\nlicense_name: mine\nlicense_link: https://x.y\n---\n") == "None: mine, https://x.y"
    assert of("# d\n\n- Licence: CC BY-NC 4.0 (not for money)\n", "SOURCE.md") == "None: CC BY-NC 4.0 (not for money)"
    assert of("\n   Apache License\n Version 2.0", "LICENSE.txt") == "None: Apache License"
    assert of("---\nlicense: [\n---\nWe have a licence.") is None
    assert of("nothing") is None
    assert of("We have no licence: ask us") is None
    hub.pages = {"org/base": {"license": "apache-2.0"}, "org/rows": {"license": "cc-by-4.0"}}
    base, rows = licence_of_model(ModelSection(path="org/base"), None), licence_of_source(
        SourceSection(path="org/rows"), None)
    assert base is not None
    assert rows is not None
    assert (base.name, rows.name) == ("apache-2.0", "cc-by-4.0")
    assert licence_of_model(ModelSection(path="org/gone"), None) is None
    assert licence_of_model(ModelSection(path=str(tmp_path / "gone")), None) is None
