"""The configuration of one experiment: frozen sections, unknown keys refused, a docstring under every field.

One YAML file becomes one `ExperimentConfig`; the same models make the JSON Schema for editors and Prefect's
parameter forms. Only a section travels: no function of the core sees the whole configuration.

section.py     what all sections are made of
reading.py     YAML with line numbers, no key twice
duplicates.py  which rows are the same, and which of them stays
decontaminate.py what to do with rows that hold items of the evaluation
data.py        model, sources, template
normalise.py   what is put right in texts
phrasing.py    plain rows as instructions
selection.py   few rows out of many
pii.py         personal data and secrets
quality.py     what is wrong with answers
scores.py      scores of rows that a model gives
provenance.py  where data comes from, and what it may be used for
mixture.py     how often each example is used in an epoch
train.py       optimiser, adapters, replay, KL
evaluate.py    evaluation, judge, gate
constraints.py limits of a search
experiment.py  tracking, search, and the whole
conditions.py  searched fields that are only drawn beside certain values of others
search.py      a search space against the configuration that it varies
synth.py       synthesis: a configuration of its own
followups.py   runs that follow a search
telling.py     what is wrong, in the words of the file
synth_file.py  its file
located.py     which fields are paths, and what they are relative to
given.py       a file with its overrides, as it was given
file.py        one file, `--set`, all problems at once
"""
