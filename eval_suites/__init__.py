"""Evaluation: from a model folder to per-item results and a verdict.

suites.py   what can be run: one YAML per suite
lm_door.py  the only door to lm-eval
scorers.py  pure functions: item and answer → score
stats.py    paired intervals and tests
verdict.py  base results × tuned results → Verdict
"""
