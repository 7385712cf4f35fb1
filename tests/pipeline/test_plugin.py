"""`prefect deployment run NAME` with a bare name; that Prefect really loads the plugin is in test_deploy.py."""

import pytest

from infra.prefect_plugin import full_name


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("/bin/prefect deployment run sft-sweep", "/bin/prefect deployment run sft-sweep/sft-sweep"),
        ("__main__.py deployments inspect x", "__main__.py deployments inspect x/x"),
        ("prefect deployment run x -p trials=2 --watch", "prefect deployment run x/x -p trials=2 --watch"),
        ("prefect deployment run flow/x", "prefect deployment run flow/x"),
        ("prefect deployment run --id 1234", "prefect deployment run --id 1234"),
        ("prefect deployment run", "prefect deployment run"),
        ("prefect deployment ls x", "prefect deployment ls x"),
        ("prefect work-pool run x", "prefect work-pool run x"),
        ("sft deployment run x", "sft deployment run x"),
        ("prefect", "prefect"),
    ],
)
def test_only_bare_deployment_names_are_doubled(given: str, wanted: str) -> None:
    assert full_name(given.split()) == wanted.split()
