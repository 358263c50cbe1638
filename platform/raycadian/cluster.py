"""The one way to a Ray cluster: the one that is there, else one on this machine."""

import errno
import json
import logging
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycadian.files import private

log = logging.getLogger(__name__)
JOB = "RAYCADIAN_JOB"  # environment variable: the job that this process, or the one that started it, belongs to

# Explicit, because the default of token authentication differs between Ray's versions.
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves the machine unless the user says so
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait sleep: spinning ones made a shared machine 30 times slower
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # ours show instead
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a recipe's relative paths mean the same in a trial
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints nothing at verbose=0
}


_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
# Of a cluster on this machine. Ray's servers listen on the loopback interface where no other node can join them.
_HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "GLOO_SOCKET_IFNAME": _LOOPBACK, "NCCL_SOCKET_IFNAME": _LOOPBACK}
TOKEN = Path("~/.ray/auth_token")  # whoever has it runs code on the cluster


def prepare_environment() -> None:
    """Ray's switches, for this process and those it starts. Ray reads some when it is imported: later is too late, so
    a process that has imported it already keeps Ray's own defaults. On a cluster that RAY_ADDRESS names, that cluster
    decides about tokens."""
    if "ray" not in sys.modules:
        for name, value in _ENVIRONMENT.items():
            if not (name == "RAY_AUTH_MODE" and os.environ.get("RAY_ADDRESS")):
                os.environ.setdefault(name, value)


def prepare_client() -> None:
    """For a process that only talks to a cluster's dashboard: in this mode alone Ray's client sends the token. Before
    Ray is imported, as above."""
    prepare_environment()
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    logging.getLogger("ray._private.runtime_env").setLevel(logging.ERROR)  # it names every ignore file it meets


def connect(num_cpus: int | None = None) -> Any:
    """Connect to Ray once and return the module.

    Inside a job, or where RAY_ADDRESS says so, that cluster; else one is started on this machine (and ends with
    this process). The dashboard stays on: without it early-stopped trials leak placement groups.
    """
    prepare_environment()
    import ray

    if ray.is_initialized():
        return ray
    _filter_lines()
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
    else:
        _start_here(ray, num_cpus)
    from ray.data import DataContext

    _quieten()
    DataContext.get_current().enable_progress_bars = False
    return ray


def _quieten() -> None:
    """Of what libraries print of their own work only what a user has to know."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # plans and bars; it sets its level no more
    for name in ("ray.serve", "DeepSpeed"):  # these set their level when they are imported: a filter stays
        logging.getLogger(name).addFilter(_tells)


def _filter_lines() -> None:
    """Before Ray connects, which takes its way to print along."""
    from ray._private import worker

    if worker.print_to_stdstream is not _print_line:
        _print_lines.append(worker.print_to_stdstream)
        worker.print_to_stdstream = _print_line


def _tells(line: logging.LogRecord) -> bool:
    return line.levelno >= logging.WARNING and "Setting accelerator to CPU" not in line.getMessage()


_print_lines: list[Any] = []  # Ray's own way to print what its nodes say


def _print_line(data: dict[str, Any], *args: Any, **options: Any) -> None:
    lines = list(_for_users(data))
    if lines:
        _print_lines[-1](data | {"lines": lines}, *args, **options)


_TRAINING = ("TrainController", "RayTrainWorker", "PlacementGroupCleaner", "PreemptionWatcher")
_OURS = re.compile(r'(WARNING|ERROR|INFO) |\{"(time|level)"')  # as telemetry.configure_logs writes them
_DEAD_NODE = re.compile(r"The node with node id: .* address: (\S+) .*marked dead")
_DEAD_PROCESS = re.compile(r"A worker died or was killed while executing a task .*Worker PID: (\d+)", re.DOTALL)
_AGAIN = "infinite retries remaining"  # what Ray Data's actors had in hand goes to the next


def _for_users(data: dict[str, Any]) -> Iterator[str]:
    """Of what Ray's nodes say, what tells a user something: of Ray Train's processes our own lines alone (what died is
    told by training/distributed.py), of a node or another process that died a line, and nothing of how Serve's
    controller ends itself."""
    lines = [str(line) for line in data.get("lines", ())]
    if any("ServeController.graceful_shutdown" in line for line in lines) or data.get("pid") == "gcs_server":
        return
    for line in lines:
        if dead := _DEAD_NODE.search(line):
            yield f"WARNING node {dead[1]} of the cluster is gone"
        elif dead := _DEAD_PROCESS.search(line):
            yield f"WARNING process {dead[1]} of the cluster ended in the middle of its work: killed, or out of memory"
        elif _AGAIN in line:
            continue
        elif data.get("actor_name") not in _TRAINING or _OURS.match(line):
            yield line


def _start_here(ray: Any, num_cpus: int | None) -> None:
    """A cluster of this machine and this user alone: all its ports on the loopback interface, its files private."""
    from ray._private import ray_constants

    os.environ |= _HERE
    ray_constants.ENABLE_RAY_CLUSTER = False  # as the variable says, also where Ray was imported before us
    keep_private(TOKEN.expanduser())
    with private():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=True,
            logging_level=logging.WARNING,
            log_to_driver=False,
            _temp_dir=str(_sessions()),
        )


def _sessions() -> Path:
    """Folder of Ray's sessions: logs, sockets, uploads. Ray lets everybody write there, so it lies in one of ours."""
    from ray._common.utils import get_default_system_temp_dir

    own = Path(get_default_system_temp_dir(), f"raycadian-{os.getuid()}")
    with suppress(FileExistsError):
        own.mkdir(mode=0o700)
    if own.is_symlink() or not own.is_dir() or own.stat().st_uid != os.getuid():  # somebody was quicker
        own = Path(tempfile.mkdtemp(prefix="raycadian-", dir=own.parent))
    own.chmod(0o700)
    return own / "ray"


def keep_private(path: Path) -> None:
    """A file of this user that others may read or change is the owner's alone from now on, and they are told."""
    if path.is_file() and path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o077:
        path.chmod(0o600)
        log.warning(
            "%s could be read by others of this machine: it is yours alone now; replace it if they may have", path
        )


def actors(parts: int) -> Any:
    """Ray Data's pool for so many pieces of work, an actor of one CPU each: as many as there is room for begin at once
    (Ray Data itself begins with one and adds the next when it has been busy), more where the cluster grows."""
    ray = connect()
    most = max(1, min(parts, cpus()))
    room = int(ray.cluster_resources().get("CPU", 1))
    return ray.data.ActorPoolStrategy(min_size=max(1, min(most, room)), max_size=most)


# --- what a task answers ----------------------------------------------------------------------------------------------


def attempt(number: int, work: Callable[[], Any]) -> dict[str, Any]:
    """What `work` returns, as JSON; an error that the user can mend travels as a value, without Ray's traceback.
    number: of the piece of work, by which `outcomes` puts the answers in order."""
    try:
        return _answer(number, json.dumps(work()))
    except ValueError as error:
        return _answer(number, message=str(error))
    except ConnectionError as error:  # of an API of cases; those of object storage have another class
        return _answer(number, code=errno.ECONNABORTED, message=str(error))
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)
        return _answer(number, code=error.errno or errno.EIO, message=message)


def _answer(number: int, body: str = "", code: int = 0, message: str = "") -> dict[str, Any]:
    return {"number": number, "body": body, "errno": code, "error": message}


def outcomes(answers: Iterable[dict[str, Any]]) -> Iterator[Any]:
    """What `attempt` answered, by its number from 0 on, however the answers come. Raises at once what one tells of."""
    early: dict[int, Any] = {}
    following = 0
    for answer in answers:
        early[answer["number"]] = _outcome(answer)
        while following in early:
            yield early.pop(following)
            following += 1


def _outcome(answer: dict[str, Any]) -> Any:
    if answer["errno"] == errno.ECONNABORTED:
        raise ConnectionError(answer["error"])
    if answer["errno"]:
        raise OSError(answer["errno"], answer["error"])
    if answer["error"]:
        raise ValueError(answer["error"])
    return json.loads(answer["body"])


# --- is it worth a cluster? -------------------------------------------------------------------------------------------

_CONNECT_S, _BEGIN_S = 6.0, 4.0  # seconds until Ray has started here, until its workers have begun
_READ_BYTES_PER_S = 10e6  # of a table of readings, on one core: parsed, gridded and written
_ITEM_S = 0.02  # of a subject or file, however small


def worthwhile(n_bytes: int, n_items: int) -> bool:
    """Should files of `n_bytes` in `n_items` independent pieces be read on Ray, or in this process?

    Small work never waits for a cluster to start. Who asks tells the user which way was taken.
    """
    return n_items > 1 and pays(n_bytes / _READ_BYTES_PER_S + n_items * _ITEM_S)


def pays(seconds: float) -> bool:
    """Does work of `seconds` on this core take less time on all CPUs, with what it takes to begin there?

    What is itself one of Ray's workers, such as a sweep's trial, works in its own process: its cluster is busy with
    its like.
    """
    if is_worker() or seconds < _BEGIN_S:
        return False
    n_cpus = cpus() if is_connected() or os.environ.get("RAY_ADDRESS") else os.cpu_count() or 1
    return seconds * (1 - 1 / n_cpus) > _BEGIN_S + (0.0 if is_connected() else _CONNECT_S)


def is_connected() -> bool:
    """Whether this process has a cluster already. Does not import Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def is_worker() -> bool:
    """Whether this process is one of Ray's own: a task, a trial, a replica."""
    if not is_connected():
        return False
    ray = sys.modules["ray"]
    return ray.get_runtime_context().worker.mode == ray.WORKER_MODE


# --- what it has room for ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capacity:
    """What the connected cluster has, or may grow to where Ray's autoscaler runs."""

    cpus: int
    gpus: int
    driver: bool
    """Some node has the resource `driver`: trials' drivers belong there, off the nodes that may be taken away."""
    autoscaling: bool


def cpus() -> int:
    """CPUs that the connected cluster has or may grow to."""
    return capacity().cpus


def largest_node() -> float | None:
    """CPUs of the largest of several nodes, without bound where some may come that are larger; None where there is one
    node."""
    if not (is_connected() or os.environ.get("RAY_ADDRESS")):
        return None
    nodes = [node["Resources"].get("CPU", 0.0) for node in connect().nodes() if node["Alive"]]
    if capacity().autoscaling:
        return math.inf
    return max(nodes) if sum(cpus > 0 for cpus in nodes) > 1 else None


def capacity() -> Capacity:
    """The most that can run at once, counted from the nodes that are up and from the autoscaler's limits.

    The limits are what a platform has reported to Ray, else the autoscaler's own file on the head (`ray up`), else
    the head's labels raycadian.io/max-cpus and max-gpus (KubeRay keeps its limits where no job can read them).
    """
    ray = connect()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    (head,) = (node for node in nodes if _HEAD in node["Resources"])
    limits = _reported_limits() or _limits_of_file(head) or _limits_of_labels(head)
    most = {name: _most(name, nodes, head, limits) for name in ("CPU", "GPU", "driver")}
    autoscaling = limits is not None
    return Capacity(int(most["CPU"]), int(most["GPU"]), driver=most["driver"] > 0, autoscaling=autoscaling)


_HEAD = "node:__internal_head__"  # Ray's own mark


def _most(resource: str, nodes: list[dict], head: dict, limits: dict[str, float] | None) -> float:
    now = sum(node["Resources"].get(resource, 0) for node in nodes)
    return max(now, head["Resources"].get(resource, 0) + (limits or {}).get(resource, 0))


def _reported_limits() -> dict[str, float] | None:
    """What all workers together may have, where the platform that starts nodes has told Ray."""
    from ray._private.state import state  # Ray Train's own capacity check reads the same

    return state.get_max_resources_from_cluster_config()


def _limits_of_file(head: dict) -> dict[str, float] | None:
    """From the file that the head's autoscaler began with: read here, or by a task where the head is elsewhere."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    port = ray.get_runtime_context().gcs_address.rsplit(":", 1)[1]
    if ray.get_runtime_context().get_node_id() == head["NodeID"]:
        return _read_limits(port)
    task = ray.remote(num_cpus=0, scheduling_strategy=On(head["NodeID"], soft=False))(_read_limits)
    return ray.get(task.remote(port))


def _read_limits(gcs_port: str) -> dict[str, float] | None:
    """Runs on the head. None where the cluster's monitor has no file, so nothing grows."""
    import psutil
    import yaml

    for process in psutil.process_iter(["cmdline"]):
        words = [word.split("=", 1) for word in process.info["cmdline"] or () if word.startswith("--") and "=" in word]
        options = dict(words)
        # by port: the address is written in several ways, and a port of the head belongs to one cluster
        if options.get("--gcs-address", "").rsplit(":", 1)[-1] == gcs_port and "--autoscaling-config" in options:
            return worker_limits(yaml.safe_load(Path(options["--autoscaling-config"]).expanduser().read_text()))
    return None


def worker_limits(config: dict[str, Any]) -> dict[str, float]:
    """The most of each resource that all workers of a `ray up` configuration have together.

    The cluster-wide `max_workers` binds too: each resource is counted on the nodes that have the most of it. Where a
    type says no `max_workers` of its own, `ray up` takes the cluster's, and 0 for the head's type.
    """
    everywhere = config.get("max_workers", 0)
    counts = {
        name: 0 if name == config.get("head_node_type") else everywhere for name in config["available_node_types"]
    }
    nodes: list[dict[str, float]] = []
    for name, spec in config["available_node_types"].items():
        nodes += [spec.get("resources") or {}] * min(spec.get("max_workers", counts[name]), everywhere)
    resources = {resource for node in nodes for resource in node}
    return {name: sum(sorted((n.get(name, 0) for n in nodes), reverse=True)[:everywhere]) for name in sorted(resources)}


def _limits_of_labels(head: dict) -> dict[str, float] | None:
    labels = {"CPU": "raycadian.io/max-cpus", "GPU": "raycadian.io/max-gpus"}
    limits = {resource: float(head["Labels"][label]) for resource, label in labels.items() if label in head["Labels"]}
    return limits or None
