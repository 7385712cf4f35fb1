"""What can be asked. One YAML per suite; own items in rows/, own lm-eval tasks in lm_tasks/.

suite.py      a suite, and which there are
chat_item.py  one item, as a row of JSON
items.py      the items of a suite, sampled, in every variant
sample.py     which items are asked
perturb.py    the same question in another form
readers/      published benchmarks as their authors ship them
"""
