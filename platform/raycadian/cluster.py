"""The one way to a Ray cluster: the one that is there, else one on this machine."""

from __future__ import annotations

import os
import sys
from typing import Any

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


def prepare_environment() -> None:
    """Ray's switches, for this process and those it starts. Ray reads some when it is imported: later is too late, so
    a process that has imported it already keeps Ray's own defaults. On a cluster that RAY_ADDRESS names, that cluster
    decides about tokens."""
    if "ray" not in sys.modules:
        for name, value in _ENVIRONMENT.items():
            if not (name == "RAY_AUTH_MODE" and os.environ.get("RAY_ADDRESS")):
                os.environ.setdefault(name, value)


def connect(num_cpus: int | None = None) -> Any:
    """Connect to Ray once and return the module.

    Inside a job, or where RAY_ADDRESS says so, that cluster; else one is started on this machine (and ends with
    this process). The dashboard stays on: without it early-stopped trials leak placement groups (facts/ray.md).
    """
    prepare_environment()
    import logging

    import ray

    if ray.is_initialized():
        return ray
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
    else:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=True,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plans and bars are not our users' business
    DataContext.get_current().enable_progress_bars = False
    return ray


def cpus() -> int:
    """CPUs of the connected cluster."""
    return int(connect().cluster_resources().get("CPU", 0))
