"""The example of a RayJob: its pods are valid, and its command is one that `tta-server score` takes."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import run

FILE = Path(__file__).parents[2] / "helm" / "examples" / "rayjob.yaml"


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
    return loaded


def templates(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.deploy
def test_its_pods_are_valid(job: dict[str, Any]) -> None:
    """Kubernetes' own schema knows pods; that of a RayJob is not part of it."""
    validator = pytest.importorskip("kubernetes_validate")
    for template in templates(job):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        validator.validate(pod, "1.31", strict=True)
        broken = {**pod, "spec": {**pod["spec"], "containers": "none"}}
        with pytest.raises(validator.ValidationError):
            validator.validate(broken, "1.31", strict=True)


def test_all_pods_have_one_image_and_see_the_same_volume(job: dict[str, Any]) -> None:
    containers = [template["spec"]["containers"][0] for template in templates(job)]
    assert len({container["image"] for container in containers}) == 1
    assert all({"name": "data", "mountPath": "/data"} in container["volumeMounts"] for container in containers)
    assert all(template["spec"]["securityContext"]["runAsNonRoot"] for template in templates(job))


def test_its_workers_have_room_for_its_actors(job: dict[str, Any]) -> None:
    words = shlex.split(job["spec"]["entrypoint"])
    least, most = map(int, words[words.index("--ray-actors") + 1].split(":"))
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    cpus = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert (least, most) == (workers["minReplicas"] * cpus, workers["maxReplicas"] * cpus)


def test_its_command_is_one_of_ours(job: dict[str, Any], tmp_path: Path) -> None:
    """It is refused only for its images, which are not here."""
    program, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "tta-server"
    words = [word for word in words if word != "--ray"]
    place = words.index("--ray-actors")
    del words[place : place + 2]
    done = run(*[str(tmp_path / "none") if word == "/data/photos" else word for word in words])
    assert (done.returncode, "does not exist" in done.stderr) == (2, True)
