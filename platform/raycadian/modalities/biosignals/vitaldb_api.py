"""VitalDB's public data set by case id: downloaded once into a cache that is named by content and checked at every use.

The API (as the package vitaldb 1.7.2 calls it): /VERSION/CASE.vital is a case, /cases the clinical table, /trks which
track is in which case. The package itself is not used for it: it asks once, without a time limit, takes half a body for
a short case, and keeps nothing. Its tracks one by one as CSV are left out: their times are off by a constant, as its
authors say.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pandas as pd

from raycadian.data.source import open_bytes
from raycadian.files import own_cache, parse_json, sha256, write_json
from raycadian.modalities.biosignals.clinical import read_clinical, tracks_of_cases
from raycadian.modalities.biosignals.formats.vital_files import track_names
from raycadian.types import Issues

ENDPOINT = "https://api.vitaldb.net"
VERSION = "1.0.1"  # of the data set, which the package asks for
MAX_BYTES = 4 * 1024**3  # a case is 10 to 100 MB
_CHUNK = 1024**2
_LONGEST_WAIT_S = 60.0
_AGAIN = {408, 425, 429, 500, 502, 503, 504}

log = logging.getLogger(__name__)


class _TryAgain(Exception):
    """What may go better a moment later."""

    def __init__(self, message: str, after_s: float = 0.0):
        super().__init__(message)
        self.after_s = after_s


def _endpoint() -> str:
    return os.environ.get("RAYCADIAN_VITALDB") or ENDPOINT


def _cache() -> Path:
    return own_cache() / "vitaldb"


@dataclass(frozen=True)
class VitalDB:
    """A client. `endpoint`: $RAYCADIAN_VITALDB, else the public one. The cache may be shared by processes and by nodes.

    In the cache: `objects/SHA256` what was downloaded, `names/` the address of each, `partial/` what has begun to come.
    """

    endpoint: str = field(default_factory=_endpoint)
    cache: Path = field(default_factory=_cache)
    version: str = VERSION
    attempts: int = 6
    timeout_s: float = 60.0
    wait_s: float = 1.0  # before the second attempt; doubles after that

    def case_file(self, case: int | str) -> Path:
        """The .vital file of a case. Raises ValueError for a case that isn't there, ConnectionError where the API
        doesn't answer."""
        if not re.fullmatch(r"[1-9]\d{0,8}", str(case)):
            raise ValueError(f"VitalDB's cases are numbers from 1 (6,388 of them), found {case!r}")
        return self._fetch(f"{self.version}/{case}.vital", lambda path: bool(track_names(path)))

    def clinical(self, issues: Issues) -> pd.DataFrame:
        """The clinical table, typed (see clinical.py). Raises ValueError, ConnectionError."""
        return read_clinical(self._fetch("cases", lambda path: b"subjectid" in _first_line(path)), issues)

    def tracks_of_cases(self) -> dict[str, set[str]]:
        """Case -> names of its tracks. Raises ValueError, ConnectionError."""
        path = self._fetch("trks", lambda path: b"tname" in _first_line(path))
        with open_bytes(path) as stream:
            return tracks_of_cases(
                pd.read_csv(stream, usecols=lambda name: name in ("caseid", "tname"), encoding="utf-8-sig")
            )

    # --- the cache -----------------------------------------------------------------------------------------------

    def _fetch(self, what: str, whole: Callable[[Path], bool]) -> Path:
        """The file at an address, cached where right. `whole`: whether a download is what was asked for."""
        from filelock import FileLock
        from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt

        url = f"{self.endpoint.rstrip('/')}/{what}"
        if not re.match(r"https?://", url):
            raise ValueError(f"{url}: expected an endpoint that begins with https:// or http://")
        key = hashlib.sha256(url.encode()).hexdigest()
        for name in ("objects", "names", "partial"):
            (self.cache / name).mkdir(parents=True, exist_ok=True)
        with FileLock(self.cache / "names" / f"{key}.lock"):
            if (cached := self._cached(key)) is not None:
                return cached
            tries = Retrying(
                stop=stop_after_attempt(self.attempts),
                wait=self._wait,
                retry=retry_if_exception_type(_TryAgain),
                before_sleep=before_sleep_log(log, logging.INFO),
                reraise=True,
            )
            try:
                return tries(self._download, url, key, whole)
            except _TryAgain as error:
                raise ConnectionError(
                    f"{url}: {error}, after {self.attempts} tries; check the network, and run it again later: what has "
                    "come is kept"
                ) from None

    def _wait(self, state: Any) -> float:
        after_s = getattr(state.outcome.exception(), "after_s", 0.0)
        return min(max(after_s, self.wait_s * 2 ** (state.attempt_number - 1)), _LONGEST_WAIT_S)

    def _cached(self, key: str) -> Path | None:
        """What an address gave before, if it still has the content that it is named by."""
        try:
            sha = parse_json((self.cache / "names" / f"{key}.json").read_bytes())["sha256"]
            path = self.cache / "objects" / _checked_name(sha)
            if sha256(path) == sha:
                return path
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:  # a torn file
            log.warning("the cache's entry %s is not right (%s): downloaded again", key, error)
            return None
        log.warning("%s: its content has changed since it was downloaded: downloaded again", path)
        path.unlink(missing_ok=True)
        return None

    def _download(self, url: str, key: str, whole: Callable[[Path], bool]) -> Path:
        """One attempt: the rest of what has begun to come, checked, then put under the name of its content."""
        partial = self.cache / "partial" / key
        self._receive(url, partial)
        try:
            right = whole(partial)
            message = "not what was asked for"
        except ValueError as error:
            right, message = False, str(error).replace(str(partial), "the file")
        if not right:
            _drop(partial)
            raise _TryAgain(f"the answer is not right: {message}")
        sha = sha256(partial)
        path = self.cache / "objects" / sha
        os.replace(partial, path)
        write_json(self.cache / "names" / f"{key}.json", {"url": url, "sha256": sha, "bytes": path.stat().st_size})
        _drop(partial)
        return path

    # --- one request ---------------------------------------------------------------------------------------------

    def _receive(self, url: str, partial: Path) -> None:
        """A body's bytes after those there. Raises _TryAgain where not all of them came, ValueError for a refusal."""
        import requests
        import urllib3

        have, tag = _begun(partial)
        headers = {"Accept-Encoding": "identity", "User-Agent": "raycadian"}  # bytes as they are stored, to be counted
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": tag}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=self.timeout_s) as answer:
                _check_status(answer, url, partial)
                start, total = _extent(answer, have, partial)
                write_json(partial.with_suffix(".json"), {"tag": _tag_of(answer)})
                with partial.open("r+b" if start else "wb") as file:
                    file.seek(start)
                    file.truncate()
                    came = start
                    for chunk in answer.raw.stream(_CHUNK, decode_content=False):
                        file.write(chunk)
                        came += len(chunk)
                        if came > MAX_BYTES:
                            raise ValueError(f"{url}: more than {MAX_BYTES / 1024**3:.0f} GiB")
                    file.flush()
                    os.fsync(file.fileno())
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _TryAgain(f"no whole answer ({type(error).__name__})") from None
        if not came:
            raise _TryAgain("the answer is empty")
        if total is not None and came < total:
            raise _TryAgain(f"{came:,} of {total:,} bytes came")


def _check_status(answer: Any, url: str, partial: Path) -> None:
    code = answer.status_code
    if code in (200, 206):
        return
    if code == 416:  # what is there is not the beginning of what it has now
        _drop(partial)
        raise _TryAgain("it refused to continue")
    if code in _AGAIN:
        raise _TryAgain(f"it answered {code} {answer.reason}", _seconds(answer.headers.get("Retry-After", "")))
    if code in (404, 410):
        raise ValueError(f"{url}: there is no such case or table (it answered {code}); VitalDB's cases are 1 to 6388")
    raise ValueError(f"{url}: refused ({code} {answer.reason}); correct the endpoint")


def _extent(answer: Any, have: int, partial: Path) -> tuple[int, int | None]:
    """Where the body's first byte belongs, and how many bytes the whole has, if that is said."""
    if answer.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            _drop(partial)
            raise _TryAgain(f"it continued at the wrong place ({answer.headers.get('Content-Range')})")
        return have, int(match[2])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _begun(partial: Path) -> tuple[int, str]:
    """How many bytes have come, and the tag of the version that they are of; 0 where that is not known."""
    try:
        tag = parse_json(partial.with_suffix(".json").read_bytes())["tag"]
        return (partial.stat().st_size, str(tag)) if tag else (0, "")
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0, ""


def _tag_of(answer: Any) -> str:
    """What tells one version of a file from another: a strong ETag, else when it was changed; '' if neither is said."""
    tag = answer.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")


def _seconds(retry_after: str) -> float:
    """Of a Retry-After header: seconds, or a date."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        from datetime import UTC, datetime

        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


# --- files ---------------------------------------------------------------------------------------------------------


def _checked_name(sha: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", sha):
        raise ValueError(f"not a name of content: {sha!r}")
    return sha


def _drop(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    partial.with_suffix(".json").unlink(missing_ok=True)


def _first_line(path: Path) -> bytes:
    try:
        with open_bytes(path) as stream:
            return stream.readline(65_536)
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: {error}") from None
