"""Jobs on a cluster through its dashboard's port alone: submit, follow, list, stop, fetch what they made."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import raycadian
from raycadian.cli.pack import unpack
from raycadian.cli.upload import Upload, card_data, recipe_data
from raycadian.cluster import JOB, prepare_client
from raycadian.data.storage import resolve_path
from raycadian.files import own_folder, parse_json, path_inside
from raycadian.quickstart import sources_of

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient
    from requests import Response

CONNECT_S = 10
LOST_S = 60  # how long a cluster may be silent while its job is followed
STOP_S = 60
FETCH_S = 3600
_MOST_LOG_BYTES = 4 << 20  # of the job that packs


# --- the cluster -----------------------------------------------------------------------------------------------------


@contextmanager
def cluster(address: str | None) -> Iterator[JobSubmissionClient]:
    """A client of the cluster whose dashboard is at `address`, http://HOST:8265. Ray's errors become ValueErrors that
    say what to do; the token is never in them."""
    url = _url(address)
    prepare_client()
    os.environ["RAY_API_SERVER_ADDRESS"] = url  # else Ray's client prefers RAY_ADDRESS to what it is told
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    try:
        yield JobSubmissionClient(url)
    except AuthenticationError as error:
        raise ValueError(_token_trouble(url, refused=str(error).startswith("Authentication"))) from None
    except (ConnectionError, requests.RequestException) as error:
        raise ValueError(f"{url}: the connection failed ({type(error).__name__}); {_REACH}") from None
    except RuntimeError as error:  # with the server's traceback in it
        raise ValueError(f"{url}: {str(error).strip().splitlines()[-1]}") from error


_REACH = (
    "is it the dashboard of a running cluster? `ray dashboard cluster.yaml` or `kubectl port-forward` bring it here"
)


def _url(address: str | None) -> str:
    if not address:
        raise ValueError("which cluster? --address http://HOST:8265, its dashboard, or RAY_API_SERVER_ADDRESS")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"address {address!r}: expected the cluster's dashboard, http://HOST:8265")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"nothing answers at {address} ({error}); {_REACH}") from None
    return address.rstrip("/")


def _token_trouble(url: str, refused: bool) -> str:
    names = [name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name)]
    source = names[0] if names else "~/.ray/auth_token"
    if refused and os.environ["RAY_AUTH_MODE"] != "token":
        return f"{url} asks for a token: unset RAY_AUTH_MODE, and name the cluster's token by RAY_AUTH_TOKEN_PATH"
    if refused:
        return f"{url} refuses the token of {source}: it must be the one that the cluster was started with"
    return (
        f"no token for {url} in {source}: let RAY_AUTH_TOKEN_PATH name the file that holds the cluster's token, or "
        "RAY_AUTH_TOKEN hold it; RAY_AUTH_MODE=disabled where a cluster has none"
    )


# --- submit ----------------------------------------------------------------------------------------------------------


def check(upload: Upload, verb: str, given: Mapping[str, Any]) -> list[str]:
    """What the job needs on the cluster, in words. `given`: what the verb's parser made of the command line.

    Raises ValueError for what would fail or be lost there, before anything is sent.
    """
    scripts = sorted(path.stem for path in (upload.root / "jobs").glob("*.py"))
    if verb not in scripts:
        raise ValueError(f"{verb!r} is not a verb that runs as a job; these are: {', '.join(scripts)}")
    for name in ("runs", "snapshots", "out"):
        if name in given and not resolve_path(given[name]).is_absolute():
            raise ValueError(f"--{name} {given[name]}: on a cluster an absolute path, on storage that every node sees")
    if "recipe" in given:
        return recipe_data(upload, str(given["recipe"]), tuple(given.get("overrides", ())))
    return _files_data(upload, given["files"], tuple(given.get("overrides", ()))) if "files" in given else []


def _files_data(upload: Upload, files: Sequence[str], overrides: tuple[str, ...]) -> list[str]:
    """What the one card or recipe needs: data files themselves are no part of a job."""
    sources = sources_of(files)
    checks = {"recipe": partial(recipe_data, overrides=overrides), "card": card_data}
    if sources.kind not in checks:
        raise ValueError(f"{files[0]}: a job takes a card or recipe; `raycadian init {files[0]}` writes both")
    return checks[sources.kind](upload, files[0])


def send(
    client: JobSubmissionClient, upload: Upload, verb: str, arguments: Sequence[str], given: Mapping[str, Any]
) -> str:
    """Upload and start; the job's id. Its metadata is what anybody who may list jobs may read: nothing about people."""
    job = f"{verb}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    env = upload.runtime_env | {"env_vars": upload.runtime_env.get("env_vars", {}) | {JOB: job}}
    metadata = {"verb": verb} | ({"runs": str(given["runs"])} if "runs" in given else {})
    entrypoint = shlex.join(["python", f"jobs/{verb}.py", *arguments])
    return client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=env, metadata=metadata)


def follow(client: JobSubmissionClient, job: str, write: Callable[[str], Any]) -> JobDetails:
    """Write the job's output as it comes, until it has ended. A connection that breaks is taken up where it broke."""
    import requests

    seen, silent_since = 0, None
    while True:
        seen = asyncio.run(_tail(client, job, write, seen))
        try:
            details = client.get_job_info(job)
            if details.status.is_terminal():
                write(client.get_job_logs(job)[seen:])
                return details
            silent_since = None
        except (ConnectionError, requests.ConnectionError):
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > LOST_S:
                raise
        time.sleep(1)


async def _tail(client: JobSubmissionClient, job: str, write: Callable[[str], Any], seen: int) -> int:
    """Write what comes after the first `seen` characters; how many have been seen when the connection ends."""
    import aiohttp

    position = 0
    with suppress(RuntimeError, OSError, aiohttp.ClientError):  # a proxy's idle limit; the job's status decides
        async for text in client.tail_job_logs(job):
            write(text[max(0, seen - position) :])
            position += len(text)
            seen = max(seen, position)
    return seen


def ending(details: JobDetails) -> tuple[int, str]:
    """Exit status and words for a job that has ended: the entrypoint's own status where it is known, else 1."""
    job, code = details.submission_id, details.driver_exit_code
    if details.status == "SUCCEEDED":
        return 0, f"job {job} succeeded"
    if details.status == "STOPPED":
        return 1, f"job {job} was stopped"
    if not code:
        return 1, f"job {job} failed, without an exit code of its own: {details.message}"
    code = code if code > 0 else 128 - code  # ended by a signal, as a shell counts
    return code, f"job {job} failed with exit code {code}"


# --- the others ------------------------------------------------------------------------------------------------------


def listing(client: JobSubmissionClient) -> list[dict[str, Any]]:
    """Submitted jobs, newest first: job, verb, status, started_utc, seconds, exit_code."""
    jobs = [job for job in client.list_jobs() if job.submission_id]
    return [_row(job) for job in sorted(jobs, key=lambda job: -(job.start_time or 0))]


def _row(job: JobDetails) -> dict[str, Any]:
    began, ended = (job.start_time or 0) / 1e3, (job.end_time or time.time() * 1e3) / 1e3
    return {
        "job": job.submission_id,
        "verb": (job.metadata or {}).get("verb", ""),
        "status": str(job.status.value),
        "started_utc": f"{datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M:%S}" if began else "",
        "seconds": round(ended - began) if began else 0,
        "exit_code": "" if job.driver_exit_code is None else job.driver_exit_code,
    }


def stop(client: JobSubmissionClient, job: str) -> str:
    """Ask a job to end and wait until it has; its status."""
    client.stop_job(job)
    deadline = time.monotonic() + STOP_S
    while not (details := client.get_job_info(job)).status.is_terminal():
        if time.monotonic() > deadline:
            raise ValueError(f"job {job} has not ended {STOP_S} s after it was told to; try again")
        time.sleep(0.5)
    return str(details.status.value)


def fetch(client: JobSubmissionClient, job: str, to: Path, runs: str | None = None) -> list[Path]:
    """Bring the complete runs and sweeps that a job made into `to`; their paths here. Those that are here already stay.

    Only the dashboard's port is needed: a second small job packs the folders beside its own log (raycadian.cli.pack),
    where the dashboard hands out files, and removes the archive when it is stopped. `runs`: where they lie on the
    cluster, if neither the job's command line nor RAYCADIAN_RUNS there says so. Raises ValueError.
    """
    runs = runs or (client.get_job_info(job).metadata or {}).get("runs", "")
    package = Path(raycadian.__file__).parent
    packing = client.submit_job(
        entrypoint=shlex.join(["python", "-m", "raycadian.cli.pack", job, runs]),
        submission_id=f"fetch-{job}-{secrets.token_hex(3)}",
        runtime_env={"py_modules": [str(package)], "excludes": ["__pycache__"]},
        metadata={"verb": "fetch"},
    )
    try:
        packed = _packed(client, packing)
        own_folder(to)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=to) as partial:
            archive = Path(partial, "archive.tar")
            _download(client, packed, archive)
            inner = Path(partial, "unpacked")
            own_folder(inner)
            return [_place(member, inner, to) for member in unpack(archive, inner)]
    finally:
        with suppress(Exception):  # what failed before is what counts
            stop(client, packing)


def _packed(client: JobSubmissionClient, packing: str) -> dict[str, Any]:
    """What raycadian.cli.pack says of its archive: file, bytes, sha256; with the node's id. Raises ValueError."""
    until = time.monotonic() + FETCH_S
    while True:
        details = client.get_job_info(packing)
        lines = _log_of(client, packing, until).splitlines() if details.driver_agent_http_address else []
        for line in lines:
            if line.startswith('{"file"'):
                return _announced(line) | {"node": details.driver_node_id}
        if details.status.is_terminal():
            raise ValueError(lines[-1] if lines else f"packing failed: {details.message}")
        if time.monotonic() > until:
            raise ValueError(f"job {packing} on the cluster announced no archive in {FETCH_S} s; fetch again")
        time.sleep(0.5)


def _log_of(client: JobSubmissionClient, job: str, until: float) -> str:
    """What a job of ours has printed. The client's own way takes in whatever comes."""
    with _answer(client, f"/api/jobs/{job}/logs") as answer:
        body = b"".join(_bounded(answer, _MOST_LOG_BYTES, until, f"the log of job {job}"))
    return str(parse_json(body).get("logs", ""))


@contextmanager
def _answer(client: JobSubmissionClient, path: str, query: Mapping[str, Any] | None = None) -> Iterator[Response]:
    import requests
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    url, headers = client.get_address() + path, get_auth_headers_if_auth_enabled({})
    with requests.get(url, params=query, headers=headers, stream=True, timeout=60) as answer:
        answer.raise_for_status()
        yield answer


def _bounded(answer: Response, most: int, until: float, what: str) -> Iterator[bytes]:
    """The body of an answer from a cluster that may be anybody's. Raises ValueError where it has no end."""
    size = 0
    for chunk in answer.iter_content(1 << 20):
        size += len(chunk)
        if size > most:
            raise ValueError(f"{what}: the cluster sends more than {most:,} bytes")
        if time.monotonic() > until:
            raise ValueError(f"{what}: has not come within {FETCH_S} s; fetch again")
        yield chunk


def _announced(line: str) -> dict[str, Any]:
    try:
        body = json.loads(line)
        return {"file": str(body["file"]), "bytes": int(body["bytes"]), "sha256": str(body["sha256"])}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the cluster announced no archive, but {line[:200]!r} ({type(error).__name__})") from None


def _download(client: JobSubmissionClient, packed: dict[str, Any], archive: Path) -> None:
    query = {"node_id": packed["node"], "filename": packed["file"], "lines": -1, "timeout": FETCH_S}
    if packed["bytes"] > (free := shutil.disk_usage(archive.parent).free // 2):  # packed and unpacked
        raise ValueError(f"{archive.parent}: {packed['bytes']:,} bytes to fetch, room for {free:,}; free some")
    digest, until = hashlib.sha256(), time.monotonic() + FETCH_S
    with _answer(client, "/api/v0/logs/file", query) as answer, archive.open("wb") as file:
        for chunk in _bounded(answer, packed["bytes"], until, "the announced archive"):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != packed["sha256"]:
        raise ValueError(f"{archive.stat().st_size} of {packed['bytes']} bytes came whole; fetch again")


def _place(member: Path, partial: Path, to: Path) -> Path:
    place = path_inside(to, member)  # also where a link in `to` leads
    if not place.exists():
        own_folder(place.parent)
        (partial / member).rename(place)
    return place
