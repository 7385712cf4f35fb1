"""A process that has imported what `sft` imports, and forks one child for every command: half of a short command's time
is imports. As the trials of a sweep are begun.

Reads one order as a line of JSON, answers with the child's process id and then with its exit code.
"""

import json
import os
import runpy
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import datasets  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import mlflow  # noqa: F401
import scipy.stats  # noqa: F401
import torch  # noqa: F401
import transformers  # noqa: F401

import flows.cli
from infra.children import Forked

HOOK = Path(__file__).parents[1] / "reached" / "sitecustomize.py"


def command(order: dict[str, Any]) -> int:
    """In the child: the command line, in the environment of the order and of no other."""
    os.environ.clear()
    os.environ.update(order["environment"])
    os.dup2(os.open(order["err"], os.O_WRONLY | os.O_CREAT), 2)
    sys.argv = [flows.cli.__file__, *order["arguments"]]
    os.chdir(order["folder"])
    runpy.run_path(str(HOOK))
    try:
        flows.cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


os.chdir(Path(__file__).parents[3])
for line in sys.stdin:
    order = json.loads(line)
    child = Forked(partial(command, order), Path(order["out"]), {})
    print(child.pid, flush=True)
    while (code := child.poll()) is None:
        time.sleep(0.01)
    print(code, flush=True)
