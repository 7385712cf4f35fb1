"""One model through several suites.

needs.py      what suites need besides a model
run.py        all suites of an evaluation
share.py      a share of their items, for the answers alone
respondent.py a model ready to be asked
expected.py   how many items a suite will ask, before any model is loaded
opened.py     the items of one suite, opened for one model
protocol.py   what makes two scores of a suite comparable
again.py      asks items again to measure the A/A floor
probe.py      a few items on a model that is being trained
questions.py  what suites ask, with options and answers, for decontamination
"""
