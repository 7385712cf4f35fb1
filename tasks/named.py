"""The model that a person names: where it lies, the run that made it, and how it is talked to. Light: a registry or a
model is opened only for a name that needs it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from infra.contract import Tracker
from sft_core.config.data import ModelSection, TemplateSection
from sft_core.errors import TrackingError
from sft_core.stage import read_json, use
from tasks.runs import ALL, Recorded, find, in_full, is_run, local_runs
from tasks.stages import Workspace

if TYPE_CHECKING:
    from eval_suites.asking.respondent import ChatFormat

Opener = Callable[[], Tracker]
"""Opens the tracker, which takes a second, for references that need it."""
REGISTRY = "models:/"
MADE_BY = "sft.json"
"""In an exported folder: the run that made the model."""
_WORD = re.compile(r"[\w.-]+")
_NUMBERED = re.compile(r"[^/]+/\d+")


class Named(NamedTuple):
    """A model. `path` is its folder, a hub id, `tiny` or a server's address; `run` is the one that made it, if any."""

    reference: str
    path: str
    run: Recorded | None


def named_model(reference: str, place: Workspace, tracker: Opener) -> Named:
    """The model behind a run's name, the beginning of one, or its id, NAME@ALIAS, NAME/VERSION (also behind
    `models:/`), models:/NAME, a folder, a hub id, `tiny` or http://HOST/v1#NAME.

    Raises:
        TrackingError: no such registered model or run, or its files are gone or others than were registered.
    """
    if Path(reference).expanduser().is_dir():
        return Named(reference, reference, _run_in(Path(reference).expanduser(), place))
    if is_run(reference, place):
        run = local_runs(place.runs).get(reference) or find(reference, place, tracker(), ALL)
        use(model := run.model())
        return Named(reference, str(model), run)
    if _is_registered(reference, tracker):
        return _registered(reference, place, tracker())
    if reference == "tiny" or not _WORD.fullmatch(reference) or (place.mirror and (place.mirror / reference).is_dir()):
        return Named(reference, reference, None)
    if (full := in_full(reference, place)) != reference:
        return named_model(full, place, tracker)
    _refuse_misspelt(reference, place, tracker)
    return Named(reference, reference, None)


def _refuse_misspelt(reference: str, place: Workspace, tracker: Opener) -> None:
    """Raises TrackingError for what looks like the name of a run or of a registered model and is none. Ids of the hub
    have a slash, but for some of its oldest models, which go by one with a slash too."""
    near = get_close_matches(reference, sorted(local_runs(place.runs), reverse=True))
    if not near:
        with suppress(TrackingError):  # no store yet
            models = {one.name for one in tracker().registered()}
            near = [f"models:/{name}" for name in get_close_matches(reference, sorted(models))]
    if near:
        raise TrackingError(f"there is no run {reference!r}; did you mean {' or '.join(near[:3])}? `sft runs` lists "
                            "all runs, `sft models` what is registered; a hub id is ORGANISATION/NAME")


def _is_registered(reference: str, tracker: Opener) -> bool:
    """Whether a name can only be one of the registry. What ends in a number may be a hub id all the same."""
    if reference.startswith(REGISTRY) or ("@" in reference and "://" not in reference):
        return True
    return bool(_NUMBERED.fullmatch(reference)) and bool(tracker().registered(reference.partition("/")[0]))


def _registered(reference: str, place: Workspace, tracker: Tracker) -> Named:
    from tasks.catalog import version_named  # it brings Prefect

    found = version_named(reference, tracker)
    if found is None:
        raise TrackingError(f"there is no registered model {reference.removeprefix(REGISTRY)} in the registry of "
                            f"{tracker.shown}; `sft models` lists all, and runs go by their own name (`sft runs`)")
    alias = next((name for name, version in tracker.aliases(found.name).items() if version == found.version), None)
    if alias:  # then its files are compared with what was registered
        folder = tracker.resolve_alias(found.name, alias).folder
    else:
        folder = found.folder or find(found.run_id, place, tracker, ALL).model()
    use(folder)
    with suppress(TrackingError):  # a registered model outlives its run
        return Named(reference, str(folder), find(found.run_id, place, tracker, ALL - {"model"}))
    return Named(reference, str(folder), None)


def is_folder(reference: str) -> bool:
    """Whether a name is that of a folder, and not of a registered model that a folder happens to be called as."""
    folder = Path(reference).expanduser()
    return folder.is_dir() and (not _NUMBERED.fullmatch(reference) and not _WORD.fullmatch(reference)
                                or any((folder / name).is_file() for name in ("config.json", "adapter_config.json")))


def run_in(folder: Path, place: Workspace) -> str:
    """Name or id of the run that made the model of a folder: of a run, its model's, or one that was exported.

    Raises:
        TrackingError: the folder does not say.
    """
    if run := _run_in(folder, place):
        return run.name
    if (folder / MADE_BY).is_file():
        return str(read_json(folder / MADE_BY, "run", "mlflow_run_id")["mlflow_run_id"])
    raise TrackingError(f"{folder} does not say which run made it: it is no model folder of a run in {place.root}, and "
                        f"holds no {MADE_BY}, as `sft export` writes; `sft runs` lists all runs")


def _run_in(folder: Path, place: Workspace) -> Recorded | None:
    """The run of this workspace whose model this folder is, as `sft run` prints it."""
    here = folder.resolve()
    return next((run for run in local_runs(place.runs).values()
                 if here in (run.folder.resolve(), (run.folder / "model").resolve())), None)


def spoken_through(model: ModelSection, template: str, place: Workspace) -> tuple[str, ChatFormat]:
    """The template that a model is talked to through, and its name: `model` for one of its own.

    Raises:
        ModelError, TemplateError: there is no such model, or no such template for it.
    """
    from eval_suites.asking.respondent import ChatFormat, own_form
    from sft_core.model.load import load_tokenizer, locate
    from sft_core.templates.choose import NoStop, choose

    try:
        made = choose(TemplateSection.model_validate({"name": template}),
                      load_tokenizer(model, locate(model, place.mirror)))
        return made.name, ChatFormat(made.jinja, made.stops)
    except NoStop:  # what ends its answers stands in the generation config alone, as with GLM
        own = own_form(model, place.mirror)
        assert own is not None, "it has been rendered"
        return "model", own
