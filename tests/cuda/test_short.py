"""Memory that runs out on CUDA, wherever it can: the forecast's advice is told, and what was saved is good."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sft_core.config.train import TrainSection
from sft_core.errors import Interrupted, TrainingError
from sft_core.train.finish import TrainReport
from sft_core.train.inputs import TrainInputs
from sft_core.train.reference import with_reference
from sft_core.train.trainer import train
from tests.cuda.ledger import Ledger
from tests.cuda.pseudo import pseudo_cuda
from tests.cuda.test_walk import StopAfter

LORA = {"method": "lora", "beta": 0.1, "lambda_": 0.5}
SET_UP, SAVED = "no memory left while the run was set up", "no memory left while the trained model was saved"
PLACES = {"the model": ({"make_policy"}, SET_UP), "the proof": ({"choose_backend", "hidden_of"}, SET_UP),
          "moments": ({"restore_moments"}, "no memory left while its last checkpoint was restored"),
          "forward": ({"take", "hidden_of"}, "no memory left in step 2 "),
          "backward": ({"take", "_engine_run_backward"}, "no memory left in step 2 "),
          "clipping": ({"take", "clip_grad_norm_"}, "no memory left in step 2 "),
          "update": ({"take", "_fused_adam"}, "no memory left in step 2 "),
          "validation": ({"validation_loss"}, "no memory left in a validation"),
          "probe": ({"probed"}, "in a probe"), "merge": ({"merge_adapter"}, SAVED),
          "reading back": ({"_read_back"}, SAVED)}
"""Functions of the way, and what is told of a run that finds no memory within them."""


class Halves(NamedTuple):
    """A run that was stopped after a step, and how it ends when nothing comes between."""

    folder: Path
    ended: TrainReport


def _run(inputs: TrainInputs, section: TrainSection, out: Path, **more: Any) -> TrainReport:
    def probed(model: Any, tokenizer: Any) -> dict[str, float]:
        (model.get_input_embeddings().weight * 2).sum()
        return {"probe": 0.0}

    return train(inputs, section, out, probe=probed, **more)


@pytest.fixture(scope="module")
def halves(inputs: Callable[..., TrainInputs], train_section: Callable[..., TrainSection],
           tmp_path_factory: pytest.TempPathFactory) -> Halves:
    folder = tmp_path_factory.mktemp("halves")
    with pseudo_cuda():
        with pytest.raises(Interrupted):
            _run(inputs(), train_section(**LORA), folder, on_events=StopAfter(1), sync_every_s=0.0)
        whole = shutil.copytree(folder, folder.with_name("whole"))
        return Halves(folder, _run(inputs(), train_section(**LORA), whole))


@pytest.mark.parametrize("place", PLACES)
def test_no_memory_is_told_with_what_takes_less(place: str, halves: Halves, inputs: Callable[..., TrainInputs],
                                                train_section: Callable[..., TrainSection], tmp_path: Path,
                                                device: Ledger) -> None:
    out = shutil.copytree(halves.folder, tmp_path / "out")
    functions, told = PLACES[place]
    device.short_in = frozenset(functions)
    with pytest.raises(TrainingError, match=told) as error:
        _run(inputs(), train_section(**LORA), out)
    assert "forecast now" in str(error.value)
    assert "train.gradient_checkpointing: true" in str(error.value)
    assert {file.name for file in out.glob("checkpoints/step-1/*")} == {"meta.json", "state.pt", "weights.safetensors"}
    if place in ("update", "reading back"):  # where most is under way
        assert _run(inputs(), train_section(**LORA), out).final == halves.ended.final


@pytest.mark.parametrize("place", ["make_policy", "_said"])
def test_no_memory_for_the_base_that_is_asked_is_told(place: str, inputs: Callable[..., TrainInputs],
                                                      train_section: Callable[..., TrainSection], tmp_path: Path,
                                                      device: Ledger) -> None:
    device.short_in = frozenset({"_keep_all", place})
    section = train_section(kl={"beta": 0.1, "on": "assistant", "reference": "cache"})
    with pytest.raises(TrainingError, match="the base was asked .*holds all of the base.*kl.reference: copy"):
        with_reference(inputs(), section, tmp_path)
    assert with_reference(inputs(), section, tmp_path).kept, "asked again, with memory"
