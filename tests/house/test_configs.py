"""Every shipped configuration loads and names suites that exist; the command line reads them."""

from pathlib import Path

import pytest

from eval_suites.suites.suite import load_suites
from sft_core.config.file import load

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "flows" / "configs").glob("*.yaml"))


def test_there_are_shipped_configs() -> None:
    assert {"demo.yaml", "sweep.yaml", "alpaca.yaml", "smollm2.yaml"} <= {file.name for file in SHIPPED}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_config_loads_and_its_suites_exist(file: Path) -> None:
    config = load(file).config
    assert set(config.eval.suites) <= set(load_suites())
    assert config.name == file.stem
