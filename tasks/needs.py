"""What a run needs besides its configuration: looked at before anything is started, and all of it told at once."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from eval_suites.asking.needs import lacking
from eval_suites.judge.gold import read_gold
from eval_suites.judge.talk import OPEN_ENDED
from eval_suites.suites.suite import Suite, suite
from infra.cuda import why_no_cuda
from infra.reach import why_unreachable
from infra.real_model import MADE
from infra.settings import secret
from sft_core.config.data import ModelSection, TemplateSection
from sft_core.config.evaluate import EndpointSection, EvalSection
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import variants
from sft_core.config.followups import as_searched
from sft_core.config.located import looked_in
from sft_core.config.reading import Key
from sft_core.config.telling import Lack
from sft_core.config.train import TrainSection
from sft_core.data.localhub import Absent
from sft_core.data.sources import why_no_source
from sft_core.errors import ConfigError, EvalError, ModelError, TemplateError
from sft_core.model.where import local_folder, read_object, why_no_model
from tasks.runs import is_run
from tasks.stages import Workspace

log = logging.getLogger("sft")
LOADED = "rules", "judge"
"""Refusal scorers that are no model."""


def check_needs(found: Iterable[Lack]) -> None:
    """Raises ConfigError where something is missing: names all of it and says how to get it. What will be fetched from
    the hub is told.

    Args:
        found: what `run_lacks` or `evaluation_lacks` said.
    """
    found = list(dict.fromkeys(found))
    if said := [one.what for one in found if one.state != "fetched"]:
        raise ConfigError("\n  ".join(["this cannot run here, and nothing was started:", *dict.fromkeys(said)]))
    for one in found:
        log.info("%s, which will be fetched from the hub", one.what)


def evaluation_lacks(section: EvalSection, place: Workspace) -> list[Lack]:
    """What an evaluation lacks, a sentence each."""
    return [*_evaluation_paths(section, place), *_services(section)]


def _services(section: EvalSection) -> Iterator[Lack]:
    if section.backend == "vllm":
        yield from _package(("eval", "backend"), "eval.backend: vllm", "vllm", "vllm")
        if why := why_no_cuda():
            yield Lack(("eval", "backend"), f"eval.backend: vllm needs CUDA, and {why}; use transformers")
    if section.judge and (section.refusal_scorer == "judge" or any(map(_open_ended, section.suites))):
        yield from _judge_lacks(("eval", "judge"), section.judge.endpoint, "open-ended answers are then kept and "
                                "unscored")


def model_lacks(section: ModelSection, place: Workspace) -> list[Lack]:
    """What a base lacks: it is not there, or its device is not."""
    absent = why_no_model(section, place.mirror)
    found = [_of_hub(("model", "path"), f"the model {section.path!r}", _made_by_make(section.path, absent))
             ] if absent else []
    cuda = "model.device (--device): cuda" if section.device == "cuda" else (
        f"model.attention: {section.attention}" if section.attention in ("varlen", "flash") else None)
    if cuda and (why := why_no_cuda()):
        found.append(Lack(("model", "device" if section.device == "cuda" else "attention"),
                          f"{cuda} needs CUDA, and {why}; or use auto"))
    return found


def named_lacks(models: Iterable[ModelSection], place: Workspace) -> list[Lack]:
    """What models lack that are named on the command line; servers and what the tracker knows are asked later."""
    from eval_suites.backends.remote import is_endpoint

    found = []
    for one in models:
        if not (is_endpoint(one.path) or one.path.startswith("models:/") or is_run(one.path, place)):
            found += [lack if lack.key[-1] != "path" or lack.state == "fetched" else lack._replace(
                what=f"{lack.what}; nor is a run of this workspace called so (`sft runs` lists them)")
                for lack in model_lacks(one, place)]
    return found


def path_lacks(config: ExperimentConfig, place: Workspace) -> list[Lack]:
    """All that an experiment names by a path or a hub id and is not here, and its device; a sentence each."""
    config = as_searched(config)
    return [*model_lacks(config.model, place), *_template_lacks(config, place),
            *_source_lacks(config, place), *_use_lacks(config, place), *_evaluation_paths(config.eval, place),
            *_search_lacks(config),
            *_suite_lacks(("train", "probe", "suites"), config.train.probe.suites, config.eval, place,
                          told=config.eval.suites)]


def data_lacks(config: ExperimentConfig, place: Workspace) -> list[Lack]:
    """What keeps the data of an experiment from being curated, a sentence each: base and template are asked only where
    rows are scored by them, or selected among those that fit."""
    suites = _evaluation_paths(config.eval, place) if config.data.decontaminate.looks else []
    rendered = config.data.scores.measure or config.data.select
    base = [*model_lacks(config.model, place), *_template_lacks(config, place)] if rendered else []
    return [*base, *_position_lacks(config, place), *_source_lacks(config, place), *_use_lacks(config, place), *suites,
            *_score_lacks(config, place)]


def run_lacks(config: ExperimentConfig, place: Workspace) -> list[Lack]:
    """What an experiment lacks, a sentence each."""
    return [*path_lacks(config, place), *_score_lacks(config, place), *_services(config.eval),
            *dict.fromkeys(lack for one in variants(config) for lack in _packages(one.train))]


def _position_lacks(config: ExperimentConfig, place: Workspace) -> list[Lack]:
    """Too few positions for `data.max_tokens`, where the base is on this machine."""
    from sft_core.model.load import check_positions

    if why_no_model(config.model, place.mirror):
        return []
    said = _told(lambda: check_positions(config.model, place.mirror, config.data.max_tokens))
    return [Lack(("data", "max_tokens"), one) for one in said]


def _template_lacks(config: ExperimentConfig, place: Workspace) -> list[Lack]:
    """What keeps the template from training: tried out on the tokenizer where the base is on this machine."""
    section, model = config.template, config.model
    if section.path is not None and not Path(section.path).is_file():
        return [Lack(("template", "path"), f"template.path: {section.path!r} is not a file with a Jinja chat template"
                     f"{looked_in(section.path)}")]
    embedded = model.path == "tiny" and section == TemplateSection()  # what everybody begins with, and is whole
    folder = None if embedded or why_no_model(model, place.mirror) else local_folder(model, place.mirror)
    if folder is None:
        return []
    from sft_core.model.load import load_tokenizer
    from sft_core.templates.choose import choose
    from sft_core.templates.render import Renderer

    try:
        tokenizer = load_tokenizer(model, folder)
        Renderer(choose(section, tokenizer), tokenizer, section)
    except ModelError as error:
        return [Lack(("model", "path"), f"model.path: {error}")]
    except TemplateError as error:
        said = str(error)
        named = re.match(r"template\.(\w+)", said)
        field = named[1] if named else "path" if section.path else "name"
        return [Lack(("template", field), said if named else f"template: {said}")]
    return []


def _packages(train: TrainSection) -> Iterator[Lack]:
    if train.engine == "trl":
        yield from _package(("train", "engine"), "train.engine: trl", "trl", "trl")
    if train.lora.quantize == "nf4":
        yield from _package(("train", "lora", "quantize"), "train.lora.quantize: nf4", "bitsandbytes", "qlora")
    if train.optim.name == "adamw_8bit":
        yield from _package(("train", "optim", "name"), "train.optim.name: adamw_8bit", "bitsandbytes", "qlora")


def _package(key: Key, setting: str, module: str, extra: str) -> list[Lack]:
    return [] if find_spec(module) else [
        Lack(key, f"{setting} needs the package {module}: pip install 'sft-platform[{extra}]'")]


def _source_lacks(config: ExperimentConfig, place: Workspace) -> Iterator[Lack]:
    replay = config.train.replay.sources if config.train.wants_replay else ()
    for section, sources in ((("data",), config.data.sources), (("train", "replay"), replay)):
        for index, source in enumerate(sources):
            if absent := why_no_source(source, place.mirror):
                yield _of_hub((*section, "sources", index, "path"), f"the data set {source.path!r}",
                              _made_by_make(source.path, absent))


def _score_lacks(config: ExperimentConfig, place: Workspace) -> Iterator[Lack]:
    """The model and the judge that score rows."""
    path, judge = config.data.scores.model, config.data.scores.judge
    if path is not None:
        absent = why_no_model(ModelSection(path=path), place.mirror)
        if absent:
            yield _of_hub(("data", "scores", "model"), f"the model {path!r}", absent._replace(
                why=absent.why.removeprefix("model.path: ")))
    if judge is not None:
        yield from _judge_lacks(("data", "scores", "judge"), judge.endpoint, "rows then have no grade")


def _use_lacks(config: ExperimentConfig, place: Workspace) -> list[Lack]:
    """Sources whose licence forbids what the data is for."""
    if config.data.use is None:
        return []
    from tasks.provenance import use_lacks  # brings the hub's client

    return list(use_lacks(config, place.mirror))


def _made_by_make(path: str, absent: Absent) -> Absent:
    """What flows/configs/smollm2.yaml reads, `make real` makes."""
    return absent._replace(why=f"{absent.why}; `make real` makes it") if path in MADE else absent


def _of_hub(key: Key, what: str, absent: Absent) -> Lack:
    dotted = ".".join(map(str, key))
    if absent.state == "missing":
        return Lack(key, absent.why if absent.why.startswith(dotted) else f"{dotted}: {absent.why}")
    return Lack(key, f"{dotted}: {what} is not on this machine" if absent.state == "fetched" else
                f"{dotted}: {what} is not on this machine: {absent.why}; where there is no network, name its folder "
                "there, or a folder that holds it as org/name in SFT_MIRROR or data.mirror", absent.state)


def _evaluation_paths(section: EvalSection, place: Workspace) -> Iterator[Lack]:
    yield from _suite_lacks(("eval", "suites"), section.suites, section, place)
    for field in ("include_path", "data_path"):
        folder = getattr(section, field)
        if folder is not None and not Path(folder).is_dir():
            yield Lack(("eval", field), f"eval.{field} (--{field.replace('_', '-')}): {folder!r} is not a folder"
                       f"{looked_in(folder)}")
    if section.refusal_scorer not in LOADED:
        yield from _classifier_lacks(section, place)
    if section.judge and section.judge.gold:
        gold = Path(section.judge.gold)
        yield from (Lack(("eval", "judge", "gold"), said) for said in _told(lambda: read_gold(gold)))


def _suite_lacks(key: Key, references: Iterable[str], section: EvalSection, place: Workspace,
                 told: Iterable[str] = ()) -> Iterator[Lack]:
    for index, reference in enumerate(references):
        if reference not in told:
            yield from (Lack((*key, index), one.why, one.state)
                        for one in lacking(reference, section, place.mirror))


def _search_lacks(config: ExperimentConfig) -> Iterator[Lack]:
    """Suites that have no tax or no win, where a search asks for one."""
    if (search := config.search) is None:
        return
    if config.eval.part != "search":
        yield Lack(("eval", "part"), "eval.part: a search asks the part search, and what it proposes is asked the "
                                     "other one afterwards (search.confirm); leave eval.part out")
    known = dict[str, Suite]()
    for reference in config.eval.suites:
        with suppress(EvalError):  # told by `lacking`
            one = suite(reference)
            known[one.name] = one
    kinds: dict[str, str] = {name: each.kind for name, each in known.items()}
    yield from _mixed("alignment", search.alignment, known)
    yield from _mixed("capability", search.capability, known)
    if config.eval.judge:
        kinds |= dict.fromkeys(config.eval.judge.suites(config.eval.names), "alignment")
    asked = [("capability", index, name, "tax") for index, name in enumerate(search.capability)]
    asked += [("constraints", index, one.suite, one.metric)
              for index, one in enumerate(search.limits) if one.suite and one.metric != "score"]
    for field, index, name, metric in asked:
        kind = "capability" if metric == "tax" else "alignment"
        if kinds.get(name, kind) != kind:
            fit = sorted(one for one, known in kinds.items() if known == kind)
            yield Lack(("search", field, index), f"search.{field}: {name} has no {metric}, which is of {kind} suites: "
                            f"{', '.join(fit) or 'none is run'}")


def _mixed(field: str, names: Sequence[str], known: Mapping[str, Suite]) -> Iterator[Lack]:
    """Suites that no mean can be taken of."""
    odd = [name for name in names if name in known and known[name].scale == "log"]
    if odd and len(names) > 1:
        yield Lack(("search", field), f"search.{field}: {', '.join(odd)} is scored in nats per byte, which has no mean "
                   "with other suites; name one such suite alone, or hold it by search.constraints")


def _classifier_lacks(section: EvalSection, place: Workspace) -> Iterator[Lack]:
    """The classifier of refusals: there, whole, and with the classes that the configuration says."""
    key: Key = ("eval", "refusal_scorer")
    model = ModelSection(path=section.refusal_scorer)
    if absent := why_no_model(model, place.mirror):
        yield _of_hub(key, f"the classifier {model.path!r}", absent._replace(
            why=f"{absent.why.removeprefix('model.path: ')}; it is rules, judge, or the folder or hub id of a sequence "
                "classifier" if absent.state == "missing" else absent.why))
    folder = None if absent else local_folder(model, place.mirror)
    classes = read_object(folder / "config.json").get("id2label") if folder else None
    named = sorted(map(str, classes.values())) if isinstance(classes, dict) else None
    if not section.refusal_labels or (named and set(named) != set(section.refusal_labels)):
        yield Lack(("eval", "refusal_labels"), "eval.refusal_labels: say of each class of the classifier "
                   f"{model.path!r}{f' ({chr(44).join(named)})' if named else ''}, and of no other, whether it means "
                   "compliance, refusal or partial, e.g. {REJECTION: refusal, NORMAL: compliance}")


def _open_ended(reference: str) -> bool:
    try:
        return suite(reference).scorer == OPEN_ENDED
    except EvalError:  # told by `lacking`
        return False


def _judge_lacks(key: Key, section: EndpointSection, without: str) -> Iterator[Lack]:
    """Key and server of a judge. `without`: what becomes of what it is to judge, where it is left out."""
    endpoint, name = (*key, "endpoint"), ".".join(map(str, key))
    yield from (Lack((*endpoint, "key_env"), said) for said in _told(lambda: secret(section.key_env)))
    if why := why_unreachable(section.url):
        yield Lack((*endpoint, "url"), f"{name}.endpoint: no judge answers at {section.url} ({why}); start it, correct "
                   f"the url, or leave {name} out: {without}")


def _told(look: Callable[[], object]) -> list[str]:
    try:
        look()
    except (ConfigError, EvalError, ModelError) as error:
        return [str(error)]
    return []
