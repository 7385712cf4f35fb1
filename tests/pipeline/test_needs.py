"""What a run needs is looked at before anything is started, and all that is missing is told at once."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import nltk
import pytest
import yaml

from eval_suites.asking.needs import lacking
from eval_suites.lm_door import needs
from flows.checking import checked
from infra.settings import read_settings
from sft_core.config.evaluate import EvalSection
from sft_core.config.file import load
from sft_core.data import localhub
from sft_core.errors import ConfigError
from tasks.needs import evaluation_lacks, path_lacks, run_lacks
from tasks.stages import Workspace
from tasks.trial import found_in

Sft = Callable[..., subprocess.CompletedProcess[str]]


def test_all_that_is_missing_is_told_at_once_and_before_anything(sft: Sft, config: Path, home: Path) -> None:
    """`ifeval` was valid and failed minutes later, one thing after the other."""
    settings = yaml.safe_load(config.read_text())
    settings["eval"] |= {"suites": ["tiny_mmlu", "gsm8k", "bfcl", "nosuch", "./no.yaml", "open_ended",
                                    "lm:nosuch", "lm:arc_easy"],
                         "backend": "vllm", "judge": {
                             "endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m", "key_env": "NO_KEY_HERE"},
                             "gold": "no-gold.jsonl"}}
    config.write_text(yaml.safe_dump(settings))
    said = ("needs the data set openai/gsm8k: HF_HUB_OFFLINE is set", "reads bfcl as its authors ship it",
            "there is no suite 'nosuch'", "no.yaml cannot be read", "lm-eval has no task of this name",
            "suite lm:arc_easy needs the data set allenai/ai2_arc: HF_HUB_OFFLINE",
            "eval.backend: vllm needs CUDA, and torch", "pip install 'sft-platform[vllm]'",
            "NO_KEY_HERE, which is not set", "no judge answers at http://127.0.0.1:9/v1",
            "no-gold.jsonl cannot be read", "mysql needs the package MySQLdb")
    for command in (("config", "check"), ("run",)):
        done = sft(*command, config, "--set", "tracking.uri=mysql://a@b/c", HF_DATASETS_CACHE=str(home / "none"))
        assert done.returncode == 2, done.stderr
        assert [one for one in said if one not in done.stderr] == []
        assert len(done.stderr.strip().splitlines()) == 1 + len(said), done.stderr
        places = [line.strip().split("://")[0].split(": ")[0] for line in done.stderr.strip().splitlines()[1:]]
        assert {one.rstrip("0123456789") for one in places} == {f"{config}:", "--set tracking.uri=mysql"}, places
    done = sft("eval", "tiny", "--suite", "gsm8k", "--suite", "bfcl", HF_DATASETS_CACHE=str(home / "none"))
    assert [one for one in said[:2] if one not in done.stderr] == []
    assert not list(home.glob("stages/*"))


def test_an_earlier_download_and_a_mirror_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import config as library

    monkeypatch.setattr(library, "HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(localhub, "knock", lambda *_: (_ for _ in ()).throw(OSError("no host")))
    section = EvalSection(suites=("gsm8k",))
    assert "the hub does not give it (no host)" in lacking("gsm8k", section, None)[0].why
    (tmp_path / "openai" / "gsm8k").mkdir(parents=True)
    assert lacking("gsm8k", section, tmp_path) == []
    (tmp_path / "openai___gsm8k").mkdir()
    assert lacking("gsm8k", section, None) == []
    monkeypatch.setattr(localhub, "knock", lambda *_: None)
    assert [one.state for one in lacking("hellaswag", section, None)] == ["fetched"]


def test_a_judge_that_nobody_asks_is_not_missed(tmp_path: Path) -> None:
    judge = {"endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m"}}
    place = Workspace(tmp_path, None)
    assert evaluation_lacks(EvalSection.model_validate({"suites": ["tiny_mmlu"], "judge": judge}), place) == []
    asked = {"suites": ["tiny_mmlu"], "judge": judge, "refusal_scorer": "judge"}
    assert len(evaluation_lacks(EvalSection.model_validate(asked), place)) == 1


def test_the_wheel_that_holds_punkt_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where GitHub is out of reach and a package index is not."""
    (tmp_path / needs.IN_WHEEL / needs.PUNKT).mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk, "download", lambda *_, **__: False)
    said, = needs.missing(["ifeval"])
    assert "pip install --no-deps llama-index-core" in said
    (tmp_path / "llama_index_core-0.1.dist-info").mkdir()
    (tmp_path / "llama_index_core-0.1.dist-info" / "METADATA").write_text("Name: llama-index-core\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert needs.missing(["ifeval"]) == []


@pytest.mark.parametrize("change", [{"train.optim.name": "adamw_8bit"},
                                    {"train.method": "lora", "train.lora.quantize": "nf4"}], ids=str)
def test_bits_need_their_library_before_anything(change: dict[str, str], config: Path, home: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.needs.find_spec", lambda name: None)
    found = load(config, [f"{key}={value}" for key, value in change.items()]).config
    told = run_lacks(found, Workspace(home, None))
    assert [one for one in told if one.what == f"{list(change)[-1]}: {list(change.values())[-1]} needs the package "
            "bitsandbytes: pip install 'sft-platform[qlora]'"]
    settings = yaml.safe_load(config.read_text())
    settings["search"] = {"alignment": ["tiny_refusal"], "capability": ["tiny_mmlu"], "space": {
        list(change)[-1]: {"choices": ["none" if "lora" in str(change) else "adamw", list(change.values())[-1]],
                           "when": dict(list(change.items())[:-1])},
        **{field: {"choices": ["full", value]} for field, value in list(change.items())[:-1]}}}
    config.write_text(yaml.safe_dump(settings))
    assert [one.what for one in run_lacks(load(config).config, Workspace(home, None))] == [one.what for one in told]


def test_whatever_a_configuration_names_is_looked_for_before_anything(tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """`valid`, said `sft config check` of a model and of data that are not there."""
    for name, text in {"empty.jsonl": "", "picture.png": "x", "adapter/adapter_config.json": "{}",
                       "notes/readme.md": "hi", "judge/config.json": '{"id2label": {"0": "NO", "1": "YES"}}',
                       "judge/model.safetensors": "x"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    sources = ("nosuch.jsonl", "empty.jsonl", "picture.png", "notes", "tiny:stf", "org/rows")
    file = tmp_path / "all.yaml"
    file.write_text("\n".join([
        "name: x", "model: {path: adapter, device: cuda}", "template: {name: chatml}", "data:", "  max_tokens: 64",
        "  mirror: nowhere", "  sources:", *(f"    - path: {one}" for one in sources), "train:",
        "  optim: {lr: 1.0e-3}", "  replay: {lambda: 1, sources: [{path: nosuch.txt}]}", "  probe: {suites: [no.yaml]}",
        "eval:", "  suites: [tiny_mmlu]", "  include_path: all.yaml", "  data_path: nowhere",
        "  refusal_scorer: judge/", "  refusal_labels: {NO: refusal}", "gate: {alhpa: 1}"]) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(localhub, "knock", lambda *_: (_ for _ in ()).throw(OSError("no host")))
    with pytest.raises(ConfigError) as caught:
        checked(Path("all.yaml"), ["seed=x"], read_settings({"SFT_HOME": str(tmp_path / "home")}))
    said = str(caught.value)
    for wanted in (
            "all.yaml has 16 problems:", "--set seed=x: seed: ", "all.yaml:24: gate.alhpa: unknown key",
            "all.yaml:2: model.path: adapter holds an adapter for None, not a model",
            "all.yaml:2: model.device (--device): cuda needs CUDA, and torch", "all.yaml:6: data.mirror: 'nowhere'",
            "all.yaml:8: data.sources.0.path: there is no nosuch.jsonl",
            "all.yaml:9: data.sources.1.path: empty.jsonl is empty",
            "all.yaml:10: data.sources.2.path: picture.png is of an unknown kind",
            "all.yaml:11: data.sources.3.path: the folder notes holds no data file",
            "all.yaml:12: data.sources.4.path: there is no tiny:stf", "all.yaml:13: data.sources.5.path: the data set",
            "all.yaml:16: train.replay.sources.0.path: there is no nosuch.txt", "all.yaml:17: the suite no.yaml cannot",
            "all.yaml:20: eval.include_path (--include-path): 'all.yaml' is not a folder",
            "all.yaml:21: eval.data_path",
            "all.yaml:22: eval.refusal_scorer: judge/model.safetensors is"):
        assert wanted in said, said
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(("template", "jinja", "said"), [
    ("{kwargs: {thinkin: true}}", "", "2: template.kwargs: the chat template reads no thinkin; it reads no var"),
    ("{name: chatml, stop: [<|end|>]}", "", "2: template.stop: the chat template ends an answer with <|im_end|>"),
    ("{name: model}", "", "2: template.name is model and this tokenizer has no chat template"),
    ("{path: own.jinja}", "{% for m in messages %}", "2: template: the chat template is no Jinja"),
    ("{path: own.jinja}", "{% for m in messages %}{{ m.content }}{% endfor %}",
     "2: template: the chat template writes no stop token behind"),
    ("{path: own.jinja}", "{{ raise_exception('no') }}", "2: template: the chat template refuses these turns: no"),
])
def test_the_template_is_tried_before_anything(template: str, jinja: str, said: str, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.jinja").write_text(jinja)
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    Path("all.yaml").write_text("\n".join([
        "model: {path: tiny}", f"template: {template}", "data: {sources: [{path: rows.jsonl}]}", "train: {}"]))
    for look in (run_lacks, path_lacks):
        with pytest.raises(ConfigError) as caught:
            checked(Path("all.yaml"), [], read_settings({"SFT_HOME": str(tmp_path / "home")}), look)
        assert f"all.yaml:{said}" in str(caught.value)


def test_what_make_real_makes_is_said_to_be_made_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(Path("flows/configs/smollm2.yaml").absolute(), []).config
    monkeypatch.chdir(tmp_path)
    said = [lack.what for lack in path_lacks(config, Workspace(tmp_path, None))]
    assert len(said) == 2
    assert all("; `make real` makes it" in one for one in said), said


def test_a_search_asks_each_suite_for_what_its_kind_has(sweep: Path, tmp_path: Path) -> None:
    """An alignment suite has no tax: that was a KeyError of the worker, after the trial was paid for."""
    settings = yaml.safe_load(sweep.read_text())
    settings["search"] |= {"capability": ["tiny_refusal", "tiny_mmlu"],
                           "constraints": ["tax.tiny_mmlu <= 1", "win.tiny_mmlu >= 1", "score.tiny_mmlu >= 0.1"]}
    sweep.write_text(yaml.safe_dump(settings))
    said = [one.what for one in run_lacks(load(sweep).config, Workspace(tmp_path, None)) if one.key[0] == "search"]
    assert said == [
        "search.capability: tiny_refusal has no tax, which is of capability suites: tiny_mmlu",
        "search.constraints: tiny_mmlu has no win, which is of alignment suites: tiny_refusal",
    ]


def test_a_search_takes_no_mean_of_shares_and_nats(sweep: Path, tmp_path: Path) -> None:
    changes = ["eval.suites=[tiny_mmlu, tiny_refusal, perplexity_text]",
               "search.capability=[tiny_mmlu, perplexity_text]"]
    found = run_lacks(load(sweep, changes).config, Workspace(tmp_path, None))
    assert [one.what for one in found if one.key == ("search", "capability")] == [
        "search.capability: perplexity_text is scored in nats per byte, which has no mean with other suites; name one "
        "such suite alone, or hold it by search.constraints"]
    alone = load(sweep, [*changes, "search.capability=[perplexity_text]"])
    assert not [one for one in run_lacks(alone.config, Workspace(tmp_path, None)) if one.key[0] == "search"]


def test_what_a_search_holds_back_is_there(sweep: Path, tmp_path: Path) -> None:
    """A suite of one cluster cannot be divided: told before trial 0, and not where nothing is to be confirmed."""
    row = {"id": "a", "kind": "bare", "cluster": "c", "messages": [{"role": "user", "content": "2 + 2?"}],
           "expect": {"answers": ["4"]}}
    (tmp_path / "one.jsonl").write_text(json.dumps(row))
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"about": "One.", "kind": "alignment", "engine": "generate",
                                                       "items": "one.jsonl", "max_new_tokens": 8}))
    settings = yaml.safe_load(sweep.read_text())
    settings["eval"] |= {"suites": ["tiny_mmlu", "tiny_refusal", str(tmp_path / "one.yaml")]}
    sweep.write_text(yaml.safe_dump(settings))
    place = Workspace(tmp_path, None)
    assert run_lacks(load(sweep).config, place) == []
    found = run_lacks(load(sweep, ["search.confirm=0.5", "eval.held_back=0.4", "eval.part=held_back"]).config, place)
    assert [one.key for one in found] == [("eval", "suites", 2), ("eval", "part")]
    assert found[0].what == (
        "suite one has no items in its part held_back: of its 1 clusters, which are never divided, a share of 0.4 "
        "(eval.held_back, or search.confirm) is 0; hold back another share, or leave the suite out")
    only = run_lacks(load(sweep, ["search.confirm=0.5"]).config, place)
    assert "a share of 0.5" in only[0].what


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_trial_without_a_score_says_of_which_suite(sweep: Path, value: float | None) -> None:
    search = load(sweep).config.search
    assert search is not None
    suites = {"tiny_refusal": {"tuned": value}, "tiny_mmlu": {"tax": 0.5}}
    found = found_in({"suites": suites, "run": "r", "mlflow_run_id": "id"}, search)
    assert found.values is None
    assert found.why == "no alignment, as tiny_refusal has no score; see the run's report"
