"""lm-eval's own command line and ours agree to the last item: prompts by hash, scores by item, totals by metric.

One process of lm-eval per protocol, over all shipped lm-eval suites at once. MMLU and GSM8K are the genuine files of
the mirror; the others have the hub's shape and a few rows, so that the tasks' own code runs without a network.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import langdetect
import nltk
import pytest
from nltk.tokenize.punkt import PunktTrainer, save_punkt_params

from eval_suites.lm_door import needs as lm_door_needs
from eval_suites.lm_door.door import LmDoor, language_model, same_languages
from eval_suites.lm_door.rows import Told, rows
from eval_suites.report.readings import readings
from eval_suites.results import ItemResult, SuiteResult, mean_metric
from eval_suites.suites.suite import Suite, suite
from sft_core.config.data import ModelSection
from sft_core.errors import EvalError
from sft_core.model.load import load_model
from sft_core.stage import fingerprint
from sft_core.tiny.paths import BASE_FOLDER

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
HUB = SHARED / "hub"
pytestmark = pytest.mark.skipif(not (HUB / "cais" / "mmlu").is_dir(), reason=f"no mirror of cais/mmlu at {HUB}")
JINJA = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
LONGEST = 12  # new tokens
WINDOW = 1024  # tokens
SUBJECT = "mmlu_abstract_algebra"  # all of its 100 items
GSM8K = (0, 1, 2)  # the first ones: lm-eval draws examples anew for `--samples` that leave some out
CHATS = range(10)  # of the subject
IFEVAL = ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc")
COMPLETION = ("gsm8k", "hellaswag", "arc_easy", "arc_challenge", "truthfulqa_mc2", "wikitext")


class Cli(NamedTuple):
    """What lm-eval's own command wrote: samples by task, and results by task."""

    samples: dict[str, list[dict[str, Any]]]
    results: dict[str, dict[str, Any]]


Commands = dict[str, Callable[[], Cli]]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror in the hub's layout: genuine rows of MMLU, GSM8K, IFEval and WikiText-2, made-up rows of the rest."""
    root = tmp_path_factory.mktemp("mirror")
    for name in ("cais/mmlu", "openai/gsm8k"):
        (root / name).parent.mkdir(parents=True)
        (root / name).symlink_to(HUB / name)
    _hub(root / "google/IFEval", {"train": _ifeval()})
    endings = [{"ind": n, "activity_label": "Baking", "ctx_a": f"A man mixes {n} eggs.", "ctx_b": "then he",
                "ctx": f"A man mixes {n} eggs. then he", "endings": ["eats a car.", "bakes [title] a cake.", "flies.",
                                                                   f"counts to {n} again and again."],
                "source_id": "x", "split": "val", "split_type": "indomain", "label": str(n % 4)} for n in range(6)]
    _hub(root / "Rowan/hellaswag", {"train": endings[:2], "validation": endings})
    arc = [{"id": f"q{n}", "question": f"What is {n} plus one?", "answerKey": "ABCD"[n % 4], "choices": {
        "text": [str(n + d) for d in range(4)], "label": list("ABCD")}} for n in range(5)]
    _hub(root / "allenai/ai2_arc", {split: arc for split in ("train", "validation", "test")},
         ("ARC-Easy", "ARC-Challenge"))
    truth = [{"question": f"Can pigs fly {n} miles?", "mc1_targets": {"choices": ["No.", "Yes."], "labels": [1, 0]},
              "mc2_targets": {"choices": ["No.", "They cannot.", "Yes.", "Sure."], "labels": [1, 1, 0, 0]}}
             for n in range(4)]
    _hub(root / "truthfulqa/truthful_qa", {"validation": truth}, ("multiple_choice",))
    text = (SHARED / "wikitext2" / "test.txt").read_text(encoding="utf-8")
    pages = [{"page": text[at:at + 4000]} for at in range(0, 12_000, 4000)]  # each several windows
    _hub(root / "EleutherAI/wikitext_document_level", {s: pages for s in ("train", "validation", "test")},
         ("wikitext-2-raw-v1",))
    return root


def _ifeval(everything: bool = False) -> list[dict[str, Any]]:
    """Real prompts, all or some, of whose instructions some are about sentences and capital words: these need punkt."""
    rows = [json.loads(line) for line in (SHARED / "ifeval" / "input_data.jsonl").read_text().splitlines()]
    needs = ("length_constraints:number_sentences", "change_case:capital_word_frequency")
    chosen = [next(row for row in rows if kind in row["instruction_id_list"]) for kind in needs]
    keys = sorted({key for row in rows for kwargs in row["kwargs"] for key in kwargs})
    return [dict(row, kwargs=[{key: kwargs.get(key) for key in keys} for kwargs in row["kwargs"]])
            for row in (rows if everything else [*rows[:3], *chosen])]


def _hub(folder: Path, splits: Mapping[str, list[dict[str, Any]]], configs: tuple[str, ...] = ("default",)) -> None:
    head = "---\nconfigs:\n"
    for config in configs:
        (folder / config).mkdir(parents=True)
        head += f"- config_name: {config}\n  data_files:\n"
        for split, some in splits.items():
            (folder / config / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
            head += f"  - split: {split}\n    path: {config}/{split}.jsonl\n"
    (folder / "README.md").write_text(head + "---\n")


@pytest.fixture(scope="module")
def punkt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """punkt_tab in the layout of NLTK's data, trained here on a text."""
    root = tmp_path_factory.mktemp("nltk")
    folder = root / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    text = (SHARED / "wikitext2" / "test.txt").read_text(encoding="utf-8")[:60_000]
    nltk.data.path.insert(0, str(root))  # before saving: NLTK writes nowhere else
    save_punkt_params(PunktTrainer(text).get_params(), dir=str(folder))
    yield root
    nltk.data.path.remove(str(root))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded base with a chat template, and a window in which five examples of MMLU fit and GSM8K's do not."""
    folder = tmp_path_factory.mktemp("model") / "base"
    shutil.copytree(BASE_FOLDER, folder)
    for file, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        settings = json.loads((folder / file).read_text())
        assert key in settings
        (folder / file).write_text(json.dumps(settings | {key: WINDOW}))
    (folder / "chat_template.jinja").write_text(JINJA)
    return folder


def start(model: Path, mirror: Path, out: Path, tasks: Sequence[str], *more: str) -> subprocess.Popen[str]:
    """lm-eval's own command, started where the mirror's folders carry the names of the hub.

    With a cache of its own: the library would take rows that another mirror of the same names once held.
    """
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args",
               f"pretrained={model},dtype=float32", "--tasks", ",".join(tasks), "--device", "cpu", "--batch_size", "1",
               "--gen_kwargs", f"max_gen_toks={LONGEST}", "--log_samples", "--output_path", str(out), *more]
    samples = {"gsm8k": list(GSM8K), SUBJECT: list(CHATS)} if "gsm8k" in tasks else {}
    samples = {task: numbers for task, numbers in samples.items() if task in tasks}
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1",
                                "NLTK_DATA": nltk.data.path[0],
                                "HF_DATASETS_CACHE": str(out.with_name(f"{out.name}-cache"))}
    return subprocess.Popen([*command, *(("--samples", json.dumps(samples)) if samples else ())], cwd=mirror,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def commands(model: Path, mirror: Path, punkt: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Three of them at once: MMLU with five examples, the other completions, and everything as a chat."""
    root = tmp_path_factory.mktemp("cli")
    chats = ("--apply_chat_template", "--fewshot_as_multiturn", "true", "--num_fewshot", "5")
    asked: dict[str, tuple[Sequence[str], tuple[str, ...]]] = {
        "mmlu": ((SUBJECT,), ("--num_fewshot", "5")), "completion": (COMPLETION, ()),
        "chat": (("gsm8k", "ifeval", SUBJECT), chats)}
    running = {name: start(model, mirror, root / name, tasks, *more) for name, (tasks, more) in asked.items()}

    def finished(name: str) -> Cli:
        said, _ = running[name].communicate(timeout=300)
        assert running[name].returncode == 0, said[-3000:]
        return written(root / name, asked[name][0])

    yield {name: cache(partial(finished, name)) for name in asked}
    for process in running.values():
        process.kill()
        process.wait()


def written(out: Path, tasks: Sequence[str]) -> Cli:
    results = json.loads(next(out.glob("*/results_*.json")).read_text())["results"]
    files = {task: next(out.glob(f"*/samples_{task}_2*.jsonl")) for task in tasks}
    return Cli({task: [json.loads(line) for line in file.read_text().splitlines()] for task, file in files.items()},
               results)


class Ours(NamedTuple):
    """Runs shipped suites on the model."""

    model: Path
    mirror: Path

    def __call__(self, chosen: Suite, tmp_path: Path, *ids: str) -> dict[str, ItemResult]:
        """Items by id."""
        loaded = load_model(ModelSection(path=str(self.model), device="cpu"), mirror=None)
        door = LmDoor(chosen, include_path=None, mirror=self.mirror, scratch=tmp_path)
        lm = language_model(loaded.model.eval(), loaded.tokenizer, 4096, chosen.name)
        ran = door.run(lm, chosen=set(ids) or None, max_new_tokens=LONGEST)
        return {item.item_id: item for item in ran.items}


@pytest.fixture(scope="module")
def ours(model: Path, mirror: Path) -> Ours:
    return Ours(model, mirror)


def compare(found: Mapping[str, ItemResult], reference: Cli, metric: str, tasks: Sequence[str]) -> None:
    """Item by item the prompt's hash and the score, then lm-eval's own total."""
    name, _, chosen = metric.partition(",")
    seen = 0
    for task in tasks:
        samples = [sample for sample in reference.samples[task] if sample["filter"] == chosen]
        total = weight = 0.0
        for sample in samples:
            item, value = found[f"{task}/{sample['doc_id']}"], sample[name]
            assert item.ids == fingerprint(sample["prompt_hash"]), item.item_id
            wanted = value[0] / value[1] if isinstance(value, list) else float(value)
            assert item.score == pytest.approx(wanted, abs=1e-12 if wanted in (0.0, 1.0) else 1e-5), item.item_id
            assert item.score is not None
            total, weight = total + item.weight * item.score, weight + item.weight
        mean = math.exp(-total / weight) if name == "byte_perplexity" else total / weight
        assert mean == pytest.approx(reference.results[task][metric], rel=1e-5, abs=1e-12)
        seen += len(samples)
    assert seen == len(found)


def test_mmlu_subject_equals_lm_evals_command(ours: Ours, commands: Commands, tmp_path: Path) -> None:
    """All items of a genuine subject, five examples each."""
    chosen = suite("mmlu").model_copy(update={"tasks": (SUBJECT,)})
    found = ours(chosen, tmp_path)
    assert len(found) == 100
    assert {item.score for item in found.values()} == {0.0, 1.0}
    compare(found, commands["mmlu"](), "acc,none", [SUBJECT])


def test_gsm8k_item_0_has_lm_evals_prompt(ours: Ours, commands: Commands, tmp_path: Path) -> None:
    found = ours(suite("gsm8k"), tmp_path, *(f"gsm8k/{number}" for number in GSM8K))
    reference = commands["completion"]()
    first = next(sample for sample in reference.samples["gsm8k"] if sample["doc_id"] == 0)
    assert found["gsm8k/0"].ids == fingerprint(first["prompt_hash"])
    assert "Janet" in found["gsm8k/0"].prompt
    compare(found, reference, "exact_match,strict-match", ["gsm8k"])
    for sample in reference.samples["gsm8k"]:
        item = found[f"gsm8k/{sample['doc_id']}"]
        assert item.metrics[f"exact_match,{sample['filter']}"] == sample["exact_match"]
        assert item.answer == sample["resps"][0][0]


@pytest.mark.parametrize(("name", "tasks"), [
    ("hellaswag", ("hellaswag",)), ("arc", ("arc_easy", "arc_challenge")), ("truthfulqa", ("truthfulqa_mc2",)),
    ("wikitext", ("wikitext",))])
def test_the_other_suites_equal_lm_evals_command(ours: Ours, commands: Commands, tmp_path: Path, name: str,
                                                 tasks: tuple[str, ...]) -> None:
    chosen = suite(name)
    assert chosen.metric is not None
    assert chosen.tasks == tasks
    compare(ours(chosen, tmp_path), commands["completion"](), chosen.metric, tasks)


def test_chats_equal_lm_evals_command(ours: Ours, commands: Commands, tmp_path: Path) -> None:
    """The same suites through the template, examples as turns, and IFEval with all of its metrics."""
    reference = commands["chat"]()
    for name in ("mmlu", "gsm8k"):
        chosen = suite(f"{name}@chat")
        assert chosen.chat
        tasks = (SUBJECT,) if name == "mmlu" else ("gsm8k",)
        ids = [f"{tasks[0]}/{number}" for number in (CHATS if name == "mmlu" else GSM8K)]
        found = ours(chosen.model_copy(update={"tasks": tasks}), tmp_path, *ids)
        compare(found, reference, str(chosen.metric), tasks)
    sent = reference.samples["gsm8k"][0]["arguments"]["gen_args_0"]["arg_0"]
    assert sent.count("<|im_start|>user") == sent.count("<|im_start|>assistant") == 6  # five examples as turns
    found = ours(suite("ifeval"), tmp_path)
    compare(found, reference, "prompt_level_strict_acc,none", ["ifeval"])
    for name in IFEVAL:
        assert mean_metric(found.values(), f"{name},none") == pytest.approx(reference.results["ifeval"][f"{name},none"])


def test_all_four_numbers_of_ifeval_are_lm_evals_over_all_real_prompts(punkt: Path, tmp_path: Path) -> None:
    """And every kind of instruction has its own, whose sum is the whole; a prompt is a cluster of its instructions."""
    _hub(tmp_path / "hub" / "google/IFEval", {"train": _ifeval(everything=True)})
    task = LmDoor(suite("ifeval"), include_path=None, mirror=tmp_path / "hub", scratch=tmp_path).tasks["ifeval"]
    said = ["no comma", "", "* one\n* two\n\nP.S. *this* is [that] and <<so>>, my answer is yes.", '{"a": 1}', "WHY?"]
    samples = []
    for number, doc in enumerate(task.eval_docs):
        answer = said[number % len(said)] + " " + " ".join(["word"] * (number % 400))
        samples.append({"doc_id": number, "doc": doc, "target": 0, "arguments": [("x", {})], "resps": [[answer]],
                        "filtered_resps": [answer], "filter": "none", "metrics": list(IFEVAL), "doc_hash": "",
                        "prompt_hash": "", "target_hash": "", **task.process_results(doc, [answer])})
    found = rows("ifeval", task, samples, "prompt_level_strict_acc,none", Told({}, {}, {}), "cluster")
    assert len(found) == len({one.cluster for one in found}) == 541
    for name, aggregate in task.aggregation().items():
        wanted = aggregate([sample[name] for sample in samples])
        assert mean_metric(found, f"{name},none") == pytest.approx(wanted, abs=1e-12)
        assert 0.05 < wanted < 0.95, "the answers are right and wrong"
    assert found[0].why == ("not followed: detectable_format:number_highlighted_sections, "
                            "length_constraints:number_words")
    result = SuiteResult("ifeval", "alignment", {}, tuple(found), 0.0)
    kinds = [one for one in readings(result, result, 0.05) if one.part and one.label == "inst_level_strict_acc"]
    assert sum(one.marks for one in kinds) == sum(len(sample["inst_level_strict_acc"]) for sample in samples) == 834
    assert len(kinds) == 25
    assert sum(one.marks * one.value[0] for one in kinds) / 834 == pytest.approx(
        mean_metric(found, "inst_level_strict_acc,none"))


def test_the_language_of_an_answer_is_found_alike_each_time() -> None:
    mixed = "die man in the hand"
    assert len({langdetect.detect(mixed) for _ in range(300)}) > 1
    with same_languages():
        assert len({langdetect.detect(mixed) for _ in range(100)}) == 1


def test_completion_is_the_other_protocol_of_a_chat_suite(ours: Ours, punkt: Path, tmp_path: Path) -> None:
    chat, plain = (ours(suite(f"ifeval{how}"), tmp_path) for how in ("@chat", "@completion"))
    assert len(plain) == len(chat) == 5
    assert all(plain[key].ids != chat[key].ids for key in plain)


def test_what_ifeval_lacks_is_named(tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def opened() -> None:
        LmDoor(suite("ifeval"), include_path=None, mirror=mirror, scratch=tmp_path)

    with mock.patch.object(lm_door_needs, "find_spec", lambda name: None if name == "langdetect" else object()), \
            pytest.raises(EvalError, match=r"ifeval needs langdetect; install.*\[ifeval\]"):
        opened()
    with mock.patch.object(nltk.data, "path", [str(tmp_path)]), \
            mock.patch.object(nltk, "download", lambda *_, **how: print("no host", file=how["print_error_to"])), \
            pytest.raises(EvalError, match="punkt_tab.*NLTK_DATA"):
        opened()
    assert capsys.readouterr().err == ""


def test_a_data_set_that_is_missing_names_the_mirror(mirror: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with offline(), pytest.raises(EvalError, match="hellaswag.*SFT_MIRROR"):
        LmDoor(suite("hellaswag"), include_path=None, mirror=empty, scratch=tmp_path)


@contextmanager
def offline() -> Iterator[None]:
    """As in a process that was started with HF_HUB_OFFLINE: the library reads it at import."""
    import datasets
    import huggingface_hub.constants as hub

    with mock.patch.object(hub, "HF_HUB_OFFLINE", True), mock.patch.object(datasets.config, "HF_HUB_OFFLINE", True):
        yield
