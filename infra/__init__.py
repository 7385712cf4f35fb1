"""Infrastructure: settings, the doors to MLflow and Optuna, local servers, deployments.

bootstrap.py        makes the virtual environment of `make demo` and `make test`
real_model.py       fetches the model and the text of `make real`
daemons.py          processes that outlive the command that started them
bucket.py           the bucket of artifacts, before servers need it
addresses.py        addresses in settings, as all programs read them
postgres.py         one PostgreSQL for everything: its three databases
settings.py         the only reader of environment variables; the environment of every process
disk.py             a full or read-only disk in one sentence
layout.py           whether a folder can hold a workspace of this version
databases.py        drivers and connections of SQL databases
reach.py            whether a configured server answers, within seconds
stores.py           which store an address of MLflow leads to
cuda.py             whether there is a GPU, without torch
alive.py            what a process has open, for those after a kill
children.py         child processes end with their parent
output.py           output whose reader may go
events.py           events.jsonl → metric points, from where the last reading stopped
linking.py          folders stored once, under a second name
runs_view.py        the saved view of an experiment's runs: gate, wins and tax, charts
naming.py           our names, values and folders in MLflow's vocabulary
open_runs.py        tracked runs, ended however their process ends
orchestrator.py     Prefect as a witness: outcomes that do not hang on it
sweep_view.py       a sweep in Prefect: names and tags of its flow runs, and the page of its trials
artifacts.py        tables and pages of a flow run, under keys that stay
watching.py         whether Prefect's server is there; our log in the flow run's
plans.py            what makes a study the same study
hub.py              the Hugging Face hub: what a page says, and a folder sent there
contract.py         what a tracker must do, whatever stands behind it
study_contract.py   what the study of a sweep must do, likewise
door.py             what MLflow and its stores raise, as our errors
registry.py         the door to MLflow's registry: versions, aliases, files that are what was registered
tracking.py         the only door to MLflow: runs, metrics, artifacts, tables
dask.py             the only door to Dask: shards of data on a cluster
shared_stages.py    finished stages for other machines, on the MLflow server
changes.py          which settings a stored study has otherwise
best.py             the trials of a sweep that no other one beats
samplers.py         Optuna's samplers and ranges by name
study_storage.py    where studies are kept: opened, waited for, shared
leases.py           who works on which trial
study_rows.py       trials as Optuna keeps them
stored.py           sweeps in a storage by their name
study.py            the only door to Optuna: any number of workers ask and tell
importances.py      what the objectives of a sweep hang on
sweep_plots.py      a sweep as history, importances and parallel coordinates
pareto.py           a sweep as picture and table
alerts.py           a red night told: a Prefect event, a webhook, an automation
trend.py            the scores of the nights with their control limits as a picture
dashboard.py        optuna-dashboard on a sweep, as long as somebody looks
servers.py          local Prefect and MLflow servers and workers as process groups
serving.py          servers that others make for one model: transformers' own, vLLM's
prefect_door.py     Prefect's server, deaf to other web sites and names
prefect_plugin.py   bare names for `prefect deployment run`
deploy.py           registers the deployments of prefect.yaml
listening.py        servers that others may reach, with authentication
platform.py         up and down: servers, worker and deployments of a workspace
taken.py            runs whose worker ended, scheduled again
standing.py         how they stand
"""
