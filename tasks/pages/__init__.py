"""Pages for a browser: each one file that needs no network and no other file to say what it says.

shell.py   the frame of every page: style, script, and text of others made visible
items.py   what both models answered, item by item: some in the page, the rest in files beside it
curves.py  the course of a training from its events
ledger.py  rows on their way to trained tokens, with the reasons of those that were left out
masks.py   training examples, with what is trained of them (masks.html.jinja)
report.py  two models compared (report.html.jinja)
sweep.py   a sweep: front, trials, how it went (sweep.html.jinja)
nights.py  the nights of a registered model (nights.html.jinja)
index.py   the workspace: what has a page, and how it stands (index.html.jinja)
way.py     the way of the rows as a picture
data.py    the data of a configuration or a run (data.html.jinja)
run.py     one run: the comparison, and what was trained on what, how, when and where (run.html.jinja)
"""
