"""Prefect tasks: one thin task per stage. Check the mark, call the core, record, return what was found.

stages.py      the workspace; look at the mark, then make
shared.py      a stage that another machine may have made, or may need
mirror.py      local folders that stand for the hub
pace.py        how fast earlier runs of a model went on this machine, and how fast a new one will
needs.py       what a run needs besides its configuration
inputs.py      what a run reads, and whether any of it has changed
curate.py      the stage curate
scores.py      who gives rows scores: a model, a judge
prepare.py     the stage prepare
provenance.py  the stage manifest: where data comes from and what it may be used for
mixture.py     what the rows come to in training, before it and of a run
data_view.py   what a curation came to, as tables
data_rows.py   its rows for a person, with what stands there
plan.py        what a run will do, take and find out, before it starts
sweep_plan.py  how long a sweep will take
apart.py       calls in processes of their own
measure.py     evaluation in this process, or in one for each GPU
evaluate.py    the stage evaluate, of base, tuned model or anything else
ledger.py      the ledger for a person
train.py       the stage train
afar.py        training by processes of their own, in the log of the flow run
join.py        a further machine for it
interpolate.py the stage interpolate
judge.py       open-ended answers judged by an LLM or by people
verdict.py     base results × tuned results → verdict, flips
experiment.py  one run: its folder and its place in the tracker
lineage.py     what a model came out of, with every hash, written and looked at again
record.py      the stage record
facts.py       what a run is, what changed and what it came out of, in words
metrics.py     what MLflow shows of a verdict, in groups
run_page.py    what MLflow shows of a run besides its numbers
pages/         pages for a browser
prefect_page.py what Prefect shows of a run: the verdict with its links, every suite, the ledger
settled.py     runs that are whole, told so without a look at their stages
promotion.py   which model of the registry is the champion, since when, by whom and why
bisect.py      differences between two runs, and the fewest that account for a loss
catalog.py     registered models for a person, and the run behind one
runs.py        recorded runs, found again
named.py       the model that a person names
night.py       one night of a registered model: champion, candidates and base against their stored results
nights.py      the nights that were recorded: what is known already, and their course
untracked.py   the nights whose tracker was away: noted, and recorded by the next one
shown.py       a run for a person, from its folder
listing.py     the runs of a workspace: done, under way, stopped
columns.py     columns of that list: any number or setting of a run
reconcile.py   what trackers show, made to agree with the folders
clean.py       what takes room, who needs it, and what may go
removal.py     runs taken away, by the rules of clean
versions.py    what a machine computes with, against what a sweep began with or results were measured with
earlier.py     what a sweep takes from earlier ones
causes.py      why trials failed, without what is each one's own
trial.py       one trial of a sweep in its own process
rungs.py       looks at a trial under way, and whether it is proved hopeless
front.py       the front of a sweep from the results of its trials
common.py      what trials have in common, made by one worker of all machines
proposal.py    what a sweep proposes, and how that fares on other items
followups.py   the runs that follow a search: which there are, and what they say
crew.py        the workers of a sweep that this machine starts
synth/         rows that a model writes
story.py       what SFT buys and costs, pooled over seeds
imported.py    a model file made a folder
licences.py    under which licence bases and data are, as far as they say
card.py        the model card of what is exported
export.py      a model as a folder for others, or on the hub
tiny.py        the embedded base, trained again
doctor.py      pre-flight of an experiment
parity.py      the parity certificate, alone or against a server
serve.py       a model behind a server, certified
chat.py        a conversation with a model, token by token
show.py        prepared examples, raw rows and suites for a person
"""
