"""Flows, the command line and the shipped configurations. No torch at import time.

cli.py         the command `sft`
around.py      what every flow does around its work
forms.py       what people give a flow on Prefect's page
logs.py        what libraries log of a flow, in our words
experiment.py  the flow sft-experiment
steps.py       what it is made of, as three calls for a notebook
settled.py     an experiment that is whole, told again
place.py       the workspace and the tracker of a command
sweep.py       the flow sft-sweep
pool.py        the flow sft-trial: a worker of a sweep for work pools
rung.py        the flow sft-rung: a look at a trial under way
trial.py       what the process of one trial does
worker.py      a worker of a sweep
nightly.py     the flow sft-nightly
promotion.py   promote, rollback
registry.py    models, lineage
synth.py       the flow sft-synth
bisect.py      which difference between two runs accounts for a loss
evaluation.py  eval, compare, suites
data.py        data check, show and report
checking.py    a configuration, and all that it needs, looked at before anything starts
panels.py      the heads under which its help lists the commands
cli_begin.py   what its commands do first, the configuration that they are given
cli_data.py    its commands data check, show and report
cli_evaluation.py its commands eval, compare, suites and parity
cli_workspace.py its commands plan, runs, show, rm, join, clean, reconcile and dashboard
cli_pages.py   its command open
cli_judging.py its commands judge and human
cli_registry.py its commands promote, rollback, models, lineage and bisect
cli_synth.py   its command synth
cli_model.py   its command model import
cli_using.py   its commands chat, serve, export and push
cli_nights.py  its commands nightly and nights
cli_platform.py its commands up, down and status
judging.py     open-ended answers judged: judge, human export, human import
doctor.py      pre-flight
plan.py        what a run will do and cost
runs.py        the runs of this workspace
show.py        one run, all that is known of it
remove.py      runs taken away
clean.py       what takes room in the workspace
reconcile.py   what trackers show agrees with the workspace
using.py       models exported, and sent to the hub
chat.py        a conversation with one model, or with two side by side
serve.py       a certified server for one model
parity.py      the parity certificate
story.py       the story of the tiny world
console.py     tables on the terminal
reference/     the reference pages of the documentation, made from the code
configs/       demo, sweep, alpaca, smollm2; synth/: reject, self-instruct
"""
