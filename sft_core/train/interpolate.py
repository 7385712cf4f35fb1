"""A model on the way from a base to what was trained of it: W = W_base + α · (W_tuned − W_base), every weight.

WiSE-FT (Wortsman et al. 2022, https://arxiv.org/abs/2109.01903, section 3): often most of the gain for a part of the
tax. Adapters are in the tuned weights by then, so that theirs are scaled by α as well.
"""

from __future__ import annotations

from pathlib import Path

import torch

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.errors import ModelError
from sft_core.model.load import LoadedModel, load_model
from sft_core.stage import whole_folder
from sft_core.train.artifact import card_text, write_model, writing
from sft_core.train.inputs import TrainInputs, served_template
from sft_core.train.rounding import Form, Stored, forms, rounded


def interpolate(inputs: TrainInputs, section: TrainSection, tuned: Path, out: Path) -> Stored:
    """Write the model folder `out` from the base and the model folder that was trained of it; returns its form, of
    which no loss is measured.

    Rows of tokens that the base lacks begin where training began them. Both models are loaded in float32, in main
    memory; the weights are stored in the dtype of the tuned folder, rounded stochastically where that is below
    float32, as nothing is measured. What neither has moved is stored as it is.

    Raises:
        ModelError: a folder cannot be loaded, or the two are not of one shape.
        TrainingError: the folder cannot be written.
    """
    template = served_template(inputs.prepared)
    here = inputs.model.model_copy(update={"device": "cpu", "attention": "auto"})
    base = load_model(here, mirror=inputs.mirror, added=template.added)
    trained = load_model(ModelSection(path=str(tuned), device="cpu", trust_remote_code=here.trust_remote_code),
                         mirror=None)
    form, = forms("base", trained.dtype, measured=False)
    _move(base, trained, section.interpolate, form, inputs.seed)
    facts = {"base": here.path, "revision": here.revision or "-", "template": template.name,
             "of the way from the base to the trained model": f"{section.interpolate:g}", "weights": str(form)}
    with whole_folder(out, writing) as draft:
        write_model(trained.model, trained.tokenizer, template, draft)
        with writing(out):
            (draft / "README.md").write_text(card_text(
                f"{Path(here.path).name}, {section.interpolate:g} of the way to its fine-tune", facts,
                section.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    return Stored(str(form), base=None, trained=None, loss=None, merge_gap=None, tried={}, quantized_gap=None,
                  remark="")


@torch.no_grad()
def _move(base: LoadedModel, trained: LoadedModel, share: float, form: Form, seed: int) -> None:
    """Move the trained model's weights, in place."""
    begun = dict(base.model.named_parameters())
    moved = dict(trained.model.named_parameters())
    other = sorted(name for name in begun.keys() | moved.keys()
                   if name not in begun or name not in moved or begun[name].shape != moved[name].shape)
    if other:
        raise ModelError(f"train.interpolate: the base {base.folder} and the trained model {trained.folder} differ in "
                         f"{len(other)} weights (first: {other[0]}), so that there is no way from one to the other; "
                         "train this base again, or set train.interpolate: 1")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in moved.items():
        mixed = torch.lerp(begun[name], parameter, share)
        parameter.data = mixed if name in base.whole else rounded(mixed, form, generator)
