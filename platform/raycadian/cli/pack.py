"""`python -m raycadian.cli.pack JOB [RUNS]`, on the cluster: the far end of `raycadian jobs fetch`.

A job's log is a file in the folder from which the dashboard hands out files; the archive is put beside it, announced
on stdout, and removed when this job is stopped. So results come back through the one port that is open.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import tarfile
import time
from pathlib import Path

from raycadian.runs import made_by

KEEP_S = 3600  # an archive outlives a client that vanished by no more


def main(job: str, runs: str) -> None:
    runs = runs or os.environ.get("RAYCADIAN_RUNS", "")
    if not runs:
        sys.exit(f"where are the runs of {job}? neither its --runs nor RAYCADIAN_RUNS on the cluster says so: --runs")
    folders = made_by(job, Path(runs))
    if not folders:
        sys.exit(f"no complete run or sweep of {job} in {runs} on node {os.uname().nodename}")
    log = Path(os.readlink("/proc/self/fd/1"))
    archive = log.with_name(f"{log.stem}.tar")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the client has what it wants
    try:
        os.close(os.open(archive, os.O_CREAT | os.O_EXCL, 0o600))
        pack(folders, Path(runs), archive)
        body = {"file": archive.name, "bytes": archive.stat().st_size, "sha256": _hash(archive)}
        print(json.dumps(body), flush=True)
        time.sleep(KEEP_S)
    finally:
        archive.unlink(missing_ok=True)


def pack(folders: list[Path], runs: Path, archive: Path) -> None:
    """Folders below `runs` as a tar file that lists them."""
    names = [str(folder.relative_to(runs)) for folder in folders]
    with tarfile.open(
        archive, "w", format=tarfile.PAX_FORMAT, pax_headers={"raycadian.folders": "\n".join(names)}
    ) as tar:
        for folder, name in zip(folders, names, strict=True):
            tar.add(folder, arcname=name)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
