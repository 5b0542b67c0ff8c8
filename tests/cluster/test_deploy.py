"""The files in deploy/ are what Ray's launcher and its autoscaler on Kubernetes take, for the locked version."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

# Ray reads its variables when it is imported, so the cluster imports it, with its token.
on_cluster = pytest.mark.usefixtures("cluster")
DEPLOY = Path(__file__).parents[2] / "deploy"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


@on_cluster
def test_the_launcher_takes_the_cluster() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read("cluster.yaml"))  # fills in Ray's defaults
    validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"]) == 3
    for start in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in start[-1]


@on_cluster
def test_the_autoscaler_takes_the_cluster_of_kubernetes() -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    cluster = read("kuberay.yaml")
    cluster["metadata"]["namespace"] = "default"  # as Kubernetes fills in
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(config)
    head, search = config["available_node_types"].values()
    assert head["resources"]["CPU"] == 0
    assert (search["resources"]["CPU"], search["min_workers"], search["max_workers"]) == (8, 3, 3)
    for group in (cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in group["template"]["spec"]["volumes"]}


def test_the_version_of_ray_is_the_locked_one() -> None:
    lock = (DEPLOY.parent / "requirements" / "lock.txt").read_text()
    (locked,) = re.findall(r"^ray==(\S+)", lock, re.M)
    assert read("kuberay.yaml")["spec"]["rayVersion"] == locked
