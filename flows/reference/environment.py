"""The page of environment variables and of optional parts."""

from __future__ import annotations

import tomllib
from pathlib import Path

from flows.reference.tables import table

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"

HEAD = """# Environment variables and extras

Variables say where things are and hold what a configuration may not: passwords. In addresses a user and a password are
percent-quoted (`p/w` is `p%2Fw`); they are written and shown as `***`, and left out of deployments: start a worker with
them in its environment, its jobs have them from there. An empty variable counts as unset. `make reference` made this
page.
"""
VARIABLES = {
    "SFT_HOME": ("the workspace, a folder on a disk with file locks", "`.sft` in the current folder"),
    "SFT_MIRROR": ("a folder that holds hub ids as `org/name`, models and data sets, asked before the hub", "the hub"),
    "SFT_DATABASE_URL": ("one PostgreSQL for Prefect, MLflow and studies: `postgresql://user:password@host/sft`",
                         "SQLite and journal files in the workspace"),
    "SFT_ARTIFACTS": ("where MLflow's artifacts are: a folder, or `s3://bucket/prefix`",
                      "`mlartifacts` in the workspace"),
    "SFT_STUDY_STORAGE": ("where sweeps are kept, for workers of several machines: an Optuna storage URL",
                          "a journal file in the workspace"),
    "SFT_SHARE": ("`mlflow`: stages that trials have in common are shared by the MLflow server, for machines without a "
                  "common folder", "not shared"),
    "SFT_DASK": ("a Dask cluster that works on data: the address of its scheduler, `tcp://host:8786`, or `local:2` "
                 "for two processes of this machine ([how](../howto/data-cluster.md))", "processes of this machine"),
    "SFT_ADDRESS": ("under which other machines of a run with `train.machines` reach this one, where it has several",
                    "that of the interface towards them"),
    "SFT_NIGHTLY_WEBHOOK": ("where a red night is posted to as JSON", "nobody is told but Prefect and MLflow"),
    "MLFLOW_TRACKING_URI": ("an MLflow server of your own", "that of `sft up`, else SQLite in the workspace"),
    "MLFLOW_TRACKING_USERNAME": ("who asks MLflow, where it wants to know (`sft up --host`)", "nobody"),
    "MLFLOW_TRACKING_PASSWORD": ("with the password", "none"),
    "MLFLOW_S3_ENDPOINT_URL": ("the server of the bucket in SFT_ARTIFACTS; keys are boto3's own variables", "Amazon's"),
    "PREFECT_API_URL": ("a Prefect server of your own",
                        "that of the active profile of Prefect, of `sft up`, else a temporary one per command"),
    "PREFECT_API_AUTH_STRING": ("how clients say who they are, where the server asks", "none"),
    "PREFECT_SERVER_API_AUTH_STRING": ("the same for the server that `sft up --host` starts", "none"),
    "PREFECT_HOME": ("Prefect's own state", "`prefect` in the workspace"),
    "OPENAI_API_KEY": ("key of a model behind a server (`http://HOST/v1#NAME`)", "none"),
    "CUDA_VISIBLE_DEVICES": ("which GPUs are seen", "all"),
    "OMP_NUM_THREADS": ("threads of one process; a tiny model gains nothing from a second one",
                        "the cores, shared out among the workers of a sweep"),
    "HF_TOKEN": ("who you are on the hub, for `sft push` and models that are not open", "what `hf auth login` keeps"),
    "HF_ENDPOINT": ("another server that speaks as the hub does", "huggingface.co"),
    "HF_HUB_OFFLINE": ("`1`: nothing outside this machine is tried; earlier downloads are used", "online"),
}
"""Name → what it says, and what holds without it."""
EXTRAS = {
    "auth": "`sft up --host`: MLflow asks for a user",
    "dashboard": "`sft dashboard`: optuna-dashboard on a sweep",
    "dask": "shards of data on a Dask cluster (`SFT_DASK`)",
    "dev": "tests, linters, the documentation",
    "gguf": "`sft model import`: GGUF files made folders",
    "ifeval": "what lm-eval's `ifeval` checks answers with; besides, NLTK's `punkt_tab`",
    "kubernetes": "pods as workers of a sweep (`infra/kubernetes.yaml`)",
    "names": "names of people among the personal data that `data.pii` looks for",
    "postgres": "databases for many workers and servers",
    "qlora": "a base in 4 bits (`train.lora.quantize: nf4`), moments in 8 (`train.optim.name: adamw_8bit`)",
    "s3": "artifacts in a bucket",
    "serve": "transformers' own server: `sft serve`, `sft parity --serve`",
    "trl": "the second engine of training",
    "vllm": "the second backend of evaluation, and its server for `sft serve`; CUDA",
}


def environment_page() -> str:
    """Markdown: variables, then extras with what they install."""
    listed = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    variables = table(("variable", "says", "without it"), [
        (f"`{name}`", *said) for name, said in VARIABLES.items()])
    extras = table(("extra", "for", "installs"), [
        (f"`{name}`", EXTRAS.get(name, "–"), "" if name == "dev" else ", ".join(f"`{one}`" for one in listed[name]))
        for name in sorted(listed)])
    return (f"{HEAD}\n## Variables\n\n{variables}\nA configuration names the variable of an API key (`key_env`), never "
            "the key. The variables of Prefect, MLflow, PyTorch and the Hugging Face libraries work as these libraries "
            "say; the platform only fills gaps, among them telemetry, which is off.\n\n"
            "## Extras\n\nParts that most people do not need: `pip install 'sft-platform[NAME]'`, in a checkout "
            f"`.venv/bin/pip install -c constraints.txt -e '.[NAME]'`. What needs an absent one says so with its "
            f"line.\n\n{extras}")
