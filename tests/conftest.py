"""Fixtures that every test file may use."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from raycadian.cluster import prepare_environment

SHARED = Path(__file__).parents[2] / "shared" / "data"

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core; before torch is imported
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's background job, and whatever it starts, ignores Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
prepare_environment()  # before any test imports Ray
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests never wait for a hub
os.environ.setdefault("WANDB_MODE", "offline")

settings.register_profile("ours", deadline=None)  # no test asserts a time
settings.register_profile("quick", deadline=None, max_examples=25)

# No test uses anybody's credentials or leaves tables in anybody's home; Ray's workers inherit this.
PRIVATE = Path(tempfile.mkdtemp(prefix="rc-private-"))
atexit.register(shutil.rmtree, PRIVATE, ignore_errors=True)
os.environ |= {
    "AWS_CONFIG_FILE": str(PRIVATE / "aws"),
    "AWS_SHARED_CREDENTIALS_FILE": str(PRIVATE / "aws"),
    "AWS_EC2_METADATA_DISABLED": "true",
    "RAYCADIAN_CACHE": str(PRIVATE / "cache"),
}
for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
    os.environ.pop(name, None)


def pytest_configure(config) -> None:
    """Property tests try a quarter of the examples where somebody wants the quick part alone."""
    settings.load_profile("quick" if "not slow" in config.option.markexpr else "ours")


def pytest_xdist_auto_num_workers(config) -> int | None:
    """A process for each core (xdist's own count) where no test starts a cluster, else none: clusters need the
    machine."""
    return None if "not ray" in config.option.markexpr else 0


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the repository; the test skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real data not here: {SHARED} is absent")
    return SHARED


@pytest.fixture(scope="session")
def ray_local():
    """One Ray on this machine for all tests of the session, with a lease on 2 CPUs."""
    from raycadian.cluster import connect

    ray = connect(num_cpus=2)
    yield ray
    ray.shutdown()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items) -> None:
    """What takes minutes is slow too: no quick part has it."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """What the libraries hold is never garbage: looking through it again and again took a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def training():
    """Windows that forecasters are tested on."""
    from model_cases import windows

    return windows()


@pytest.fixture(scope="session")
def batch(training):
    import torch

    return training.batch(torch.arange(32))
