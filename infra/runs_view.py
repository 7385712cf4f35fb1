"""The saved view of an experiment's runs in MLflow: gate, wins and tax as columns, and the charts that matter first.

MLflow keeps what its menu *Views* offers in tags of the experiment; the form is that of its pages (3.17), and what they
do not know in it they leave out.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence

from infra.naming import VIEW

TAG = f"mlflow.sharedViewState.{VIEW}"
NAME = "Wins and tax"
LONGEST = 5000
"""Characters of an experiment's tag in MLflow."""
MOST = 24
"""Metrics that are columns and charts; a page with more is none to look at."""
FIRST = ("tax", "win")
"""Groups before all others, which follow in the order of their names."""
CURVES = ("train/loss", "train/sft", "train/replay", "train/kl", "validation/loss", "train/lr", "train/tokens_per_s")
_WIDTHS = {"sft.gate": 90, "sft.lr": 80, "sft.lambda": 90, "sft.beta": 80, "sft.epochs": 90, "sft.method": 90,
           "sft.base": 120}
"""Tags that are columns → pixels."""
_FIXED = ["0", "attributes.`Run Name`", "runDateAndNestInfo"]
_CURVE = {"lineSmoothness": 0, "xAxisScaleType": "linear", "scaleType": "linear", "range": {}, "xAxisKey": "step",
          "selectedXAxisMetricKey": "", "yAxisKey": "metric", "yAxisExpressions": [], "ignoreOutliers": False,
          "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
_COMPRESSED = "deflate;"


def runs_view(metrics: Sequence[str], before: str | None) -> str | None:
    """The tag's text: these metrics and those of the view so far, taxes and wins first.

    Args:
        metrics: names in MLflow.
        before: the tag so far.

    Returns: None where somebody has saved another view in its place, which stays.
    """
    had = _metrics_of(before) if before else []
    if had is None:
        return None
    shown = sorted({*metrics, *had}, key=lambda metric: (_rank(metric), metric))[:MOST]
    while len(text := _text(shown)) > LONGEST:
        shown.pop()
    return text


def _rank(metric: str) -> int:
    group = metric.partition("/")[0]
    return FIRST.index(group) if group in FIRST else len(FIRST)


def _metrics_of(text: str) -> list[str] | None:
    """The metrics of a view that this module made; None of another one."""
    try:
        view = json.loads(text)
        if view["updatedAt"] != view["createdAt"]:
            return None  # MLflow's pages set the first when somebody saves it
        state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix(_COMPRESSED))))
        return [chart["metricKey"] for chart in state["compareRunCharts"] if chart["type"] == "BAR"]
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return None


def _text(metrics: Sequence[str]) -> str:
    gate, *tags = [f"tags.`{tag}`" for tag in _WIDTHS]
    columns = [gate, *(f"metrics.`{metric}`" for metric in metrics), *tags]
    charts = [*(_chart(metric, "BAR", "verdict") for metric in metrics),
              *(_chart(metric, "LINE", "learning") | _CURVE for metric in CURVES)]
    sections = [{"uuid": uuid, "name": name, "display": True, "isReordered": True, "deleted": False,
                 "isGenerated": False} for uuid, name in (("verdict", NAME), ("learning", "Learning"))]
    state = {"searchFilter": "", "orderByKey": "attributes.start_time", "orderByAsc": False, "startTime": "ALL",
             "lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs",
             "selectedColumns": columns, "columnOrder": [*_FIXED, *columns, "attributes.`Duration`"],
             "columnWidths": {f"tags.`{tag}`": pixels for tag, pixels in _WIDTHS.items()},
             "compareRunCharts": charts, "compareRunSections": sections, "isAccordionReordered": True}
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": NAME, "createdAt": 0, "updatedAt": 0, "state": _COMPRESSED + packed})


def _chart(metric: str, kind: str, section: str) -> dict[str, object]:
    return {"uuid": f"{section}-{metric}", "type": kind, "runsCountToCompare": 20, "metricSectionId": section,
            "deleted": False, "isGenerated": False, "displayName": metric, "metricKey": metric}
