"""The Kubernetes work pool without a cluster: what Prefect's own worker makes of it is a job that Kubernetes takes."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.deploy import ROOT

pytest.importorskip("prefect_kubernetes", reason="the extra kubernetes is not installed")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="Kubernetes' schemas are not installed")
POOL = json.loads((ROOT / "infra" / "kubernetes-pool.json").read_text())
(TRIAL,) = yaml.safe_load((ROOT / "infra" / "kubernetes.yaml").read_text())["deployments"]
OLDEST, NEWEST = "1.29.0", "1.37.0"


@pytest.fixture(autouse=True)
def server(prefect_api: str) -> Iterator[None]:
    """Where the worker would look blocks up that the template names."""
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield


def job(**values: Any) -> dict[str, Any]:
    """The manifest of a flow run's job, as the worker of the pool sends it to Kubernetes."""
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    given = TRIAL["work_pool"]["job_variables"] | values
    made = asyncio.run(KubernetesWorkerJobConfiguration.from_template_and_values(POOL, given))
    made.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="busy-bee"))
    return dict(made.job_manifest)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("values", [
    {}, {"gpus": 0, "tolerations": [], "node_selector": {"kubernetes.io/arch": "amd64"}},
    {"volumes": [{"name": "workspace", "persistentVolumeClaim": {"claimName": "sft"}},
                 {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}]},
])
def test_every_job_is_one_that_kubernetes_takes(version: str, values: dict[str, Any]) -> None:
    kubernetes_validate.validate(job(**values), version, strict=True)


def test_a_pod_has_gpu_memory_secrets_and_a_command_that_is_there() -> None:
    made = job(gpus=2)["spec"]
    pod = made["template"]["spec"]
    (container,) = pod["containers"]
    assert (made["backoffLimit"], pod["restartPolicy"]) == (0, "Never"), "the sweep itself tries again"
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 2}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    volumes = {one["name"]: one for one in pod["volumes"]}
    mounted = {one["mountPath"]: volumes[one["name"]] for one in container["volumeMounts"]}
    assert mounted["/dev/shm"]["emptyDir"] == {"medium": "Memory"}
    assert container["envFrom"] == [{"secretRef": {"name": "sft"}}]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["SFT_HOME"] in mounted
    assert not {"SFT_STUDY_STORAGE", "MLFLOW_TRACKING_URI", "SFT_DATABASE_URL"} & environment.keys()
    (script,) = entry_points(group="console_scripts", name=container["args"][0])
    assert script.dist is not None
    assert script.dist.name == "prefect"
    command = [sys.executable, "-m", *container["args"], "--help"]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    image = (ROOT / "infra" / "Dockerfile").read_text()
    assert container["image"].partition(":")[0] in image
    assert "ENTRYPOINT" not in image, "the arguments are the command"
    assert Path(TRIAL["entrypoint"].partition(":")[0]).suffix == ".py"
    assert (ROOT / TRIAL["entrypoint"].partition(":")[0]).is_file()
