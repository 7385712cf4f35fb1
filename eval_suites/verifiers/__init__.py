"""Who says whether a generated answer may be trained on: rules, reward models, judges, behind one contract.

contract.py  what is verified, and by whom
rules.py     numbers, JSON, tool calls, forms, lengths, and the scorers of suites
reward.py    sequence classifiers of transformers
judged.py    grades of a judge
named.py     the verifiers that a configuration names
sampling.py  what became of every answer, and what that says
"""
