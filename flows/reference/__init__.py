"""The reference pages of the documentation, made from the code: `python -m flows.reference`, or `make reference`.

__main__.py      writes them into docs/reference
pages.py         which pages there are
models.py        the fields of a configuration's sections
examples.py      units and examples that no type says
configuration.py the page of every field
synthesis.py     the page of every field of synthesis
commands.py      the page of every command, and of exit codes
environment.py   the page of variables and extras
files.py         the page of the workspace's files
metrics.py       the page of metrics in MLflow
suites.py        the page of the shipped suites
tables.py        Markdown tables
"""
