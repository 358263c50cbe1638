"""The files that start clusters, checked by what reads them: Ray's own preparation and schema for `ray up`, Ray's
reading of KubeRay's resources, Kubernetes' schemas for pods, Ray Serve's schema, bash and shellcheck for every line of
shell. No cloud, no Kubernetes, nothing is started."""

import copy
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from raycadian.cluster import worker_limits
from raycadian.serving.environment import LIMITS

ROOT = Path(__file__).parents[1]
CLOUDS = {"aws": ROOT / "cluster.yaml", "gcp": ROOT / "deploy" / "cluster-gcp.yaml"}
MANIFESTS = ROOT / "serve" / "kubernetes"
SCRIPTS = sorted((ROOT / "deploy").glob("*.sh"))
KUBERAY = json.loads((ROOT / "tests" / "golden" / "kuberay.json").read_text())
SHELLCHECK = Path(sys.executable).parent / "shellcheck"


def _pinned(package: str) -> str:
    (version,) = re.findall(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    return version


def _cloud(name: str) -> dict:
    return yaml.safe_load(CLOUDS[name].read_text())


def _prepared(name: str) -> dict:
    """As `ray up` has it before it asks the cloud for anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(_cloud(name))
    validate_config(config)
    return config


@functools.cache
def _documents() -> list[dict]:
    return [one for path in sorted(MANIFESTS.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]


def _manifest(kind: str) -> dict:
    (found,) = (one for one in _documents() if one["kind"] == kind)
    return found


def _ray_clusters() -> dict[str, dict]:
    places = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
    found = {}
    for kind, path in places.items():
        found[kind] = _manifest(kind)["spec"]
        for key in path:
            found[kind] = found[kind][key]
    return found


def _templates() -> dict[str, dict]:
    """Every pod template, by where it stands."""
    found = {"RayJob/submitter": _manifest("RayJob")["spec"]["submitterPodTemplate"]}
    for kind, spec in _ray_clusters().items():
        found[f"{kind}/head"] = spec["headGroupSpec"]["template"]
        found |= {f"{kind}/{group['groupName']}": group["template"] for group in spec["workerGroupSpecs"]}
    return found


def _autoscaled(kind: str) -> dict:
    """What Ray's autoscaler makes of the cluster; it checks the result with the schema of `ray up`."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    return _derive_autoscaling_config_from_ray_cr(
        {"metadata": _manifest(kind)["metadata"], "spec": _ray_clusters()[kind]}
    )


def _shellcheck(script: str, *options: str) -> None:
    done = subprocess.run([SHELLCHECK, *options, "-"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- ray up ----


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_prepares_and_accepts_the_file(cloud):
    config = _prepared(cloud)
    types = config["available_node_types"]
    assert config["provider"]["type"] == cloud
    assert set(types) == {"head", "driver", "cpu", "gpu_spot"}  # none of the provider's examples was merged in
    assert all(spec["min_workers"] == 0 for spec in types.values()), "an idle cluster must cost one machine"
    assert types["head"]["max_workers"] == 0
    assert 0 < config["idle_timeout_minutes"] <= 10
    assert max(spec["max_workers"] for spec in types.values()) <= config["max_workers"] <= 20


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_field_that_ray_does_not_know_is_refused(cloud):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(_cloud(cloud) | {"idle_timeout_minute": 5})
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        validate_config(config)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_resources_are_said_and_not_left_to_the_cloud(cloud):
    types = _prepared(cloud)["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["driver"]["resources"] == {"CPU": 0, "driver": 1, "memory": 5_600_000_000}
    for name in ("cpu", "gpu_spot"):
        assert types[name]["resources"]["CPU"] > 0
        assert types[name]["resources"]["memory"] > 5e8  # else a driver of a trial would find no place anywhere
    assert types["gpu_spot"]["resources"]["GPU"] == 1
    assert "GPU" not in types["cpu"]["resources"]
    limits = worker_limits(_cloud(cloud))  # what a sweep plans with
    assert limits["CPU"] == 8 * 8 + 4 * 4
    assert (limits["GPU"], limits["driver"]) == (4, 1)


def test_only_gpu_workers_are_spot():
    aws, gcp = (_prepared(cloud)["available_node_types"] for cloud in CLOUDS)
    spot = {n for n, s in aws.items() if s["node_config"].get("InstanceMarketOptions") == {"MarketType": "spot"}}
    assert spot == {"gpu_spot"}
    spot = {n for n, s in gcp.items() if s["node_config"].get("scheduling", {}).get("provisioningModel") == "SPOT"}
    assert spot == {"gpu_spot"}


def test_nothing_is_open_to_the_world():
    for spec in _prepared("aws")["available_node_types"].values():
        assert spec["node_config"]["SecurityGroupIds"]  # without it Ray makes one with port 22 open to everybody
        assert spec["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
        assert all(disk["Ebs"]["Encrypted"] for disk in spec["node_config"]["BlockDeviceMappings"])
    gcp = _prepared("gcp")
    assert gcp["provider"]["use_internal_ips"]
    for spec in gcp["available_node_types"].values():
        interfaces = spec["node_config"]["networkInterfaces"]  # without it Ray adds one with an outside address
        assert interfaces and not any("accessConfigs" in one for one in interfaces)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_node_has_the_token_and_every_ray_start_asks_for_it(cloud):
    config = _prepared(cloud)
    mounts = config["file_mounts"]
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"
    for local in mounts.values():
        assert local.startswith("~") or (ROOT / local).exists(), local
    starts = [c for k in ("head", "worker") for c in config[f"{k}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    for command in starts:
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/.ray/auth_token" in command
    assert "RAY_enable_autoscaler_v2=1" in starts[0]
    assert all("node.sh" in one for one in config["setup_commands"])
    assert 'chmod 600 "$token"' in (ROOT / "deploy" / "node.sh").read_text()


def test_the_clouds_differ_only_where_they_must():
    aws, gcp = _cloud("aws"), _cloud("gcp")
    same = set(aws) - {"provider", "auth", "available_node_types", "setup_commands", "head_setup_commands"}
    assert {key: aws[key] for key in same} == {key: gcp[key] for key in same}
    for name, spec in aws["available_node_types"].items():
        other = gcp["available_node_types"][name]
        assert {k: v for k, v in spec.items() if k != "node_config"} == {
            k: v for k, v in other.items() if k != "node_config"
        }


# ---- Kubernetes ----


@pytest.mark.parametrize("document", _documents(), ids=lambda d: d["kind"])
def test_manifests_have_only_known_fields(document):
    if document["apiVersion"] == "ray.io/v1":
        jsonschema.validate(document, KUBERAY)
    else:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_fields_are_really_checked():
    wrong = copy.deepcopy(_manifest("RayCluster"))  # it is parsed once for all tests
    wrong["spec"]["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParam"):
        jsonschema.validate(wrong, KUBERAY)


@pytest.mark.parametrize("place", _templates())
def test_pods_pass_kubernetes_own_schema(place):
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": _templates()[place]}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("place", _templates())
def test_pods_are_not_root_and_bounded(place):
    spec = _templates()[place]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is place.endswith("/head")  # only the autoscaler speaks to Kubernetes
    for one in spec["containers"]:
        secure = one["securityContext"]
        assert secure["runAsNonRoot"] is True and secure["allowPrivilegeEscalation"] is False
        assert secure["capabilities"] == {"drop": ["ALL"]} and secure["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"cpu", "memory"} <= set(one["resources"]["limits"])
        assert one["image"] == f"REPLACE_ME/raycadian:ray-{_pinned('ray')}"


@pytest.mark.parametrize("kind", _ray_clusters())
def test_clusters_ask_for_the_token(kind):
    spec = _ray_clusters()[kind]
    assert spec["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"].get("serviceType", "ClusterIP") == "ClusterIP"
    assert not any(one["kind"] == "Secret" for one in _documents()), "a secret doesn't belong into a file"


def test_ray_reads_the_groups_as_meant():
    types = _autoscaled("RayCluster")["available_node_types"]
    counts = {name: (spec["min_workers"], spec["max_workers"]) for name, spec in types.items()}
    assert counts == {"headgroup": (0, 0), "driver": (0, 1), "cpu": (0, 8), "gpu-spot": (0, 4)}
    resources = {name: spec["resources"] for name, spec in types.items()}
    assert {name: one["CPU"] for name, one in resources.items()} == {
        "headgroup": 0,
        "driver": 0,
        "cpu": 8,
        "gpu-spot": 4,
    }
    assert [name for name, one in resources.items() if one.get("GPU")] == ["gpu-spot"]
    assert [name for name, one in resources.items() if one.get("driver")] == ["driver"]
    assert _autoscaled("RayCluster")["idle_timeout_minutes"] == 5


def test_the_head_says_what_the_groups_may_grow_to():
    limits, labels = worker_limits(_autoscaled("RayCluster")), _ray_clusters()["RayCluster"]["headGroupSpec"]["labels"]
    assert labels == {"raycadian.io/max-cpus": f"{limits['CPU']}", "raycadian.io/max-gpus": f"{limits['GPU']}"}


def test_the_job_runs_on_the_same_cluster():
    clusters = _ray_clusters()
    assert clusters["RayJob"] == clusters["RayCluster"]
    job = _manifest("RayJob")["spec"]
    assert job["shutdownAfterJobFinishes"] and job["activeDeadlineSeconds"] <= 86_400  # a forgotten job ends
    words = job["entrypoint"].split()
    assert words[:4] == ["env", "-C", "/opt/raycadian", "python"]
    for path in (word for word in words if word.startswith("jobs/")):
        assert (ROOT / path).is_file(), path


def test_the_service_is_the_production_configuration():
    from ray.serve.schema import ServeDeploySchema

    served = yaml.safe_load(_manifest("RayService")["spec"]["serveConfigV2"])
    assert served == yaml.safe_load((ROOT / "serve" / "production.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(served).applications
    (forecaster,) = application.deployments
    workers = worker_limits(_autoscaled("RayService"))
    assert forecaster.autoscaling_config["max_replicas"] <= workers["CPU"]
    mounts = {one["mountPath"] for one in _templates()["RayService/cpu"]["spec"]["containers"][0]["volumeMounts"]}
    assert any(Path(forecaster.user_config["runs"]).is_relative_to(path) for path in mounts)
    environment = {one["name"]: one for one in _templates()["RayService/cpu"]["spec"]["containers"][0]["env"]}
    assert "secretKeyRef" in environment["RAYCADIAN_API_KEY"]["valueFrom"]  # the endpoint asks for a key
    assert {name: environment[name]["value"] for name in LIMITS} == LIMITS  # those of `raycadian serve`
    assert served["http_options"].get("request_timeout_s") is None  # it would cut streams


# ---- versions, ports, shell ----


def test_one_version_of_ray_everywhere():
    version = _pinned("ray")
    files = [*CLOUDS.values(), *MANIFESTS.glob("*.yaml"), *(ROOT / "deploy").iterdir(), ROOT / "docs/howto/cluster.md"]
    said = {
        path.name: set(re.findall(r"ray(?:==|-|Version: |\[.*?\]==)(\d+\.\d+\.\d+)", path.read_text()))
        for path in files
    }
    assert {name for name, found in said.items() if found} == {
        "Dockerfile", "raycluster.yaml", "rayjob.yaml", "rayservice.yaml", "cluster.md",
    }  # fmt: skip
    assert all(found <= {version} for found in said.values()), said
    for name in ("node.sh", "Dockerfile"):  # where no version is said, it comes with constraints.txt
        assert re.search(r"pip install .*-c \S*constraints\.txt", (ROOT / "deploy" / name).read_text()), name


def test_ports_for_everybody_only_behind_a_token():
    for path in [*CLOUDS.values(), *SCRIPTS]:
        for paragraph in path.read_text().split("\n\n"):
            if "0.0.0.0" in paragraph:
                assert "RAY_AUTH_MODE=token" in paragraph, f"{path.name}: {paragraph}"
    for kind, spec in _ray_clusters().items():
        assert spec["authOptions"]["mode"] == "token", kind


def _embedded() -> dict[str, str]:
    keys = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    found = {}
    for cloud in CLOUDS:
        for key in keys:
            for i, command in enumerate(_cloud(cloud).get(f"{key}_commands", [])):
                found[f"{cloud}:{key}:{i}"] = command
    return found | {"RayJob:entrypoint": _manifest("RayJob")["spec"]["entrypoint"]}


@pytest.mark.parametrize("place", _embedded())
def test_embedded_shell(place):
    _shellcheck(f"{_embedded()[place]}\n", "--shell=bash")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts(path):
    subprocess.run(["bash", "-n", path], check=True)
    _shellcheck(path.read_text())


def test_the_image_copies_what_is_there():
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.+)$", text, re.M) for word in line.split()[:-1]]
    allowed = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().split()
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in allowed, name
    assert re.search(r"^USER 1000$", text, re.M)


def test_what_must_be_set_is_in_the_guide():
    guide = (ROOT / "docs/howto/cluster.md").read_text()
    for path in [*CLOUDS.values(), *MANIFESTS.glob("*.yaml")]:
        if "REPLACE_ME" in path.read_text():
            assert path.relative_to(ROOT).as_posix() in guide, path


def _slurm(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", ROOT / "deploy" / "slurm.sh", *arguments], env=environment, capture_output=True, text=True
    )


def test_the_slurm_script_says_what_is_missing(tmp_path):
    here = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    assert "usage: sbatch" in _slurm(here).stderr
    assert "call it with sbatch" in _slurm(here, "true").stderr
    bare = here | {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "1"}
    done = _slurm(bare, "true")
    assert "no ray on PATH" in done.stderr and done.returncode == 2
    assert not list(tmp_path.iterdir())  # nothing was made before the checks
