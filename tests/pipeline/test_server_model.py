"""A model behind an OpenAI-compatible server (a fake one, over real HTTP) that does not answer all the time."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection
from tasks.evaluate import evaluate, named
from tasks.stages import Workspace

spec = importlib.util.spec_from_file_location("fake_server", Path(__file__).parents[1] / "evals" / "fake_server.py")
fake_server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake_server)


def test_what_a_server_left_unanswered_is_asked_again_and_the_rest_is_not(tmp_path: Path) -> None:
    asked: list[str] = []
    ill = True

    def say(body: dict[str, Any], number: int) -> object:
        question = body["messages"][-1]["content"]
        asked.append(question)
        return (400, {}, "ill") if ill and sum(map(ord, question)) % 2 else "I cannot help with that."

    place, section = Workspace(tmp_path, None), EvalSection(suites=("refusal",), limit=8)
    with fake_server.serve(say) as (url, _):
        subject = named(ModelSection(path=f"{url}#m"), "auto", section, place, lambda: None)
        first = evaluate.fn(subject, section, place)["refusal"]
        failed = {item.prompt for item in first.items if item.score is None}
        assert 0 < len(failed) < first.n
        ill = False
        asked.clear()
        second = evaluate.fn(subject, section, place)["refusal"]
        assert all(item.score is not None for item in second.items)
        assert sorted(asked) == sorted(failed)
        asked.clear()
        assert evaluate.fn(subject, section, place)["refusal"].items == second.items
        assert asked == []
