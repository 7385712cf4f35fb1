"""The table of docs/GPU.md is what the forecast says."""

from bench.memory import DOCS, METHODS, MODELS, table


def test_the_table_in_the_docs_is_the_forecast_s() -> None:
    """Of two models, for speed; all of them are there."""
    docs = DOCS.read_text(encoding="utf-8")
    told = table(("1 B (Llama 3.2)", "14 B (Qwen 2.5)")).splitlines()
    assert len(told) == 2 + 2 * len(METHODS)
    assert all(line in docs for line in told), "run python -m bench.memory --write"
    assert all(f"| {model} | {method} | " in docs for model in MODELS for method in METHODS)
