"""Evaluation: from a model folder to per-item results and a verdict.

A room imports only from those above it (tests/house):

results.py   per-item results, on disk and in memory
statistics/  scores → evidence: rates, intervals, paired differences, the A/A floor
refusal/     how English refuses
scorers/     pure functions: what was expected and the answer → score
suites/      what can be asked: one YAML per suite, and what reads them and their items
backends/    what computes answers and likelihoods, and keeps them
judge/       answers judged by an LLM, a classifier or people
verifiers/   which generated answers may be trained on
lm_door/     the only door to lm-eval
asking/      one model through several suites
verdict/     base results × tuned results → Verdict
front/       several models × two objectives → what is proved of which
report/      the verdict as tables, plot and page
parity/      the certificate: training, evaluation, template and server see the same ids
"""
