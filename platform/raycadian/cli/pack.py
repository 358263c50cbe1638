"""`python -m raycadian.cli.pack JOB [RUNS]`, on the cluster: the far end of `raycadian jobs fetch`; and `unpack`, here.

A job's log is a file in the folder from which the dashboard hands out files; the archive is put beside it, announced
on stdout, and removed when this job is stopped. So results come back through the one port that is open.
"""

import json
import os
import signal
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from raycadian.files import path_inside, sha256
from raycadian.runs import made_by

KEEP_S = 3600  # an archive outlives a client that vanished by no more
MOST_MEMBERS = 1_000_000
_NO_ARCHIVE = (tarfile.TarError, OSError, EOFError, KeyError, TypeError, OverflowError, RecursionError)


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
        body = {"file": archive.name, "bytes": archive.stat().st_size, "sha256": sha256(archive)}
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


def unpack(archive: Path, folder: Path) -> list[Path]:
    """The runs in an archive from a cluster, which may be anybody's, relative to `folder`, in which they are now.
    Raises ValueError for what `pack` does not write: a name that `path_inside` refuses or that is hidden, a link, a
    device, a sparse or compressed file, headers without end."""
    try:
        with tarfile.open(archive, "r:") as packed:  # not compressed: it can't hold more than its own size
            names = packed.pax_headers.get("raycadian.folders", "").split("\n")
            packed.extractall(folder, members=_members(packed, folder), filter="data")
    except _NO_ARCHIVE as error:
        raise ValueError(f"the cluster's archive is not right: {error}; fetch again") from error
    for name in names:
        if not _visible(folder, name).is_dir():
            raise ValueError(f"the cluster's archive lists {name!r}, which is not in it")
    return [Path(name) for name in names]


def _members(packed: tarfile.TarFile, folder: Path) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(packed, start=1):
        if number > MOST_MEMBERS:
            raise ValueError(f"the cluster's archive has more than {MOST_MEMBERS:,} files")
        if not (member.isfile() or member.isdir()) or member.issparse():
            raise ValueError(f"the cluster's archive holds {member.name[:200]!r}, neither a plain file nor a folder")
        _visible(folder, member.name)
        yield member


def _visible(folder: Path, name: str) -> Path:
    """A path below `folder`, none of whose parts is hidden: no run has such, and a shell's or an editor's files do."""
    path = path_inside(folder, name)
    if any(part.startswith(".") for part in path.relative_to(folder).parts):
        raise ValueError(f"the cluster's archive holds {name[:200]!r}, a hidden file")
    return path


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
