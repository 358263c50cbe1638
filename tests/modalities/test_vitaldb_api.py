"""VitalDB's API by case id, against a real HTTP server that answers as the API does, and as it shouldn't."""

import functools
import gzip
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from raycadian.modalities.biosignals.clinical import cohort
from raycadian.modalities.biosignals.readers import read_case
from raycadian.modalities.biosignals.simulate import write_vital
from raycadian.modalities.biosignals.vitaldb_api import VitalDB
from raycadian.types import Issues

CASES = "caseid,subjectid,age,sex\n1,7,70,M\n2,8,>89,F\n3,7,71,M\n"
TRKS = "caseid,tname,tid\n1,SNUADC/ART,a1\n1,Solar8000/ART_MBP,a2\n2,SNUADC/ART,b1\n"


class Api(ThreadingHTTPServer):
    """Serves `files` (path -> bytes) with ETags and ranges; `script` is how each next request is answered instead."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.script: list[str] = []
        self.requests: list[tuple[str, str]] = []  # path, range
        self.ranges = self.tags = True
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Api

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range", "")))
        how = self.server.script.pop(0) if self.server.script else "whole"
        body = self.server.files.get(self.path)
        if body is None or how == "404":
            return self.answer(404, b"not found")
        if how.isdigit():
            return self.answer(int(how), b"try later", {"Retry-After": "0"})
        if how == "empty":
            return self.answer(200, b"")
        if how == "page":
            return self.answer(200, b"<html>maintenance</html>")
        headers = {"ETag": f'"{hashlib.md5(body).hexdigest()}"'} if self.server.tags else {}
        start, code = 0, 200
        if (
            (asked := self.headers.get("Range"))
            and self.server.ranges
            and self.headers["If-Range"] == headers.get("ETag")
        ):
            start, code = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if how == "wrong place":
            code, headers["Content-Range"] = 206, f"bytes 5-{len(body) - 1}/{len(body)}"
        self.answer(code, body[start:], headers, half=how == "half")

    def answer(self, code, body, headers=None, half=False):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if half else body)
        self.close_connection = half


@pytest.fixture(scope="module")
def case_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "1.vital"
    rng = np.random.default_rng(0)
    write_vital(
        path,
        {
            "SNUADC/ART": {"values": rng.normal(90, 20, 60_000), "unit": "mmHg", "rate_hz": 500.0, "gain": 0.02},
            "Solar8000/ART_MBP": {"values": np.full(60, 88.0), "unit": "mmHg", "times_s": np.arange(60) * 2.0},
        },
    )
    return path.read_bytes()


@pytest.fixture
def api(case_bytes, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Api()
    server.files = {
        "/1.0.1/1.vital": case_bytes,
        "/cases": CASES.encode("utf-8-sig"),
        "/trks": gzip.compress(TRKS.encode()),
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def client(api, tmp_path):
    return VitalDB(endpoint=api.url, cache=tmp_path / "cache", attempts=4, timeout_s=5, wait_s=0.01)


def tidy(client: VitalDB) -> bool:
    """Every object is named by its content, and nothing half-written is left."""
    objects = list((client.cache / "objects").iterdir())
    assert not list((client.cache / "partial").iterdir())
    return all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in objects)


def test_a_case_is_downloaded_once(api, client, case_bytes):
    assert client.case_file(1).read_bytes() == case_bytes
    assert client.case_file("1").read_bytes() == case_bytes
    assert api.requests == [("/1.0.1/1.vital", "")] and tidy(client)


def test_read_case_by_its_id(api, client, monkeypatch, tmp_path):
    monkeypatch.setenv("RAYCADIAN_VITALDB", api.url)
    monkeypatch.setenv("RAYCADIAN_CACHE", str(tmp_path))
    case = read_case("vitaldb:1", tracks={"abp": "ART", "map": "Solar8000/ART_MBP"}, clinical={"subjectid": 7})
    assert (case.case, case.subject, len(case.tracks["abp"]), len(case.tracks["map"])) == ("1", "7", 60_000, 60)


def test_a_cohort_from_the_tables(client):
    table = client.clinical(Issues())
    assert table["age"].tolist() == [70, 90, 71]
    found = cohort(table, "age >= 70", ["SNUADC/ART", "ART_MBP"], client.tracks_of_cases())
    assert found.index.tolist() == ["1"]


def test_a_card_of_a_cohort_downloads_only_what_it_needs(api, monkeypatch, tmp_path):
    """Cases by a query and by the tracks that the card names; one that is not there is reported, the rest goes on."""
    from raycadian.modalities.biosignals import prepare as signals
    from raycadian.modalities.biosignals.card import BiosignalCard

    monkeypatch.setenv("RAYCADIAN_VITALDB", api.url)
    monkeypatch.setenv("RAYCADIAN_CACHE", str(tmp_path))
    card = BiosignalCard(
        name="x", vitaldb="cohort", clinical={}, cohort="age >= 70", waveforms={"abp_mmhg": ("SNUADC/ART",)},
        numerics={"map_mmhg": ("Solar8000/ART_MBP",)},
    )  # fmt: skip
    people = signals.items(card, [], tmp_path, Issues())
    assert [person["subject"] for person in people] == ["7", "8"]  # case 3 has no arterial wave
    assert [case["source"] for person in people for case in person["cases"]] == ["vitaldb:1", "vitaldb:2"]
    issues = Issues()
    read = [signals._cleaned(person["cases"][0], person["subject"], card, issues) for person in people]
    assert read[0].recording.subject == "7" and read[1] is None
    assert issues.counts["case that can't be used (left out)"] == 1
    assert [path for path, _ in api.requests] == ["/trks", "/cases", "/1.0.1/1.vital", "/1.0.1/2.vital"]


@pytest.mark.parametrize("trouble", ["429", "500", "half"])
def test_an_outage_is_no_snapshot_without_its_cases(api, case_bytes, monkeypatch, tmp_path, trouble):
    """Else it would be reused for good. A case that is not there (404) stays a counted rejection."""
    from raycadian.data.snapshot import snapshots
    from raycadian.modalities.biosignals import vitaldb_api
    from raycadian.modalities.prepare import prepare

    impatient = functools.partial(VitalDB, endpoint=api.url, cache=tmp_path / "cache", attempts=3, wait_s=0.01)
    monkeypatch.setattr(vitaldb_api, "VitalDB", impatient)
    card = tmp_path / "few.yaml"
    card.write_text("name: few\nmodality: biosignals\nvitaldb: [1, 2, 3]\nwaveforms: {abp_mmhg: [SNUADC/ART]}\n")
    api.files["/1.0.1/2.vital"] = case_bytes
    api.script = ["whole"] + [trouble] * 3
    with pytest.raises(ConnectionError, match=r"2\.vital: .* after 3 tries; check the network, and run it again later"):
        prepare(card, tmp_path / "snapshots", on_ray=False)
    assert not snapshots(tmp_path / "snapshots")
    api.script, before = [], len(api.requests)
    found = prepare(card, tmp_path / "snapshots", on_ray=False)
    assert found.subjects == ["1", "2"] and (
        found.manifest["counts"]["cases"],
        found.manifest["counts"]["recordings"],
    ) == (3, 2)
    assert "/1.0.1/1.vital" not in [path for path, _ in api.requests[before:]], "what was downloaded is kept"
    assert "404" in found.manifest["issues"]["case that can't be used (left out)"]["examples"][0]


@pytest.mark.parametrize("trouble", ["429", "500", "503", "half", "empty", "page"])
def test_what_goes_better_a_moment_later(api, client, case_bytes, trouble):
    api.script = [trouble, trouble]
    assert client.case_file(1).read_bytes() == case_bytes
    assert len(api.requests) == 3 and tidy(client)


@pytest.mark.parametrize(
    "trouble, said",
    [
        ("429", "answered 429 Too Many Requests, after 4 tries"),
        ("500", "answered 500"),
        ("empty", "the answer is empty"),
        ("page", "not a .vital file"),
    ],
)
def test_what_does_not_get_better_is_an_error(api, client, trouble, said):
    api.script = [trouble] * 4
    with pytest.raises(ConnectionError, match=said):
        client.case_file(1)
    assert not list((client.cache / "objects").iterdir())


def test_a_case_that_is_not_there_is_an_error_at_once(api, client):
    with pytest.raises(ValueError, match="no such case or table .it answered 404."):
        client.case_file(9999)
    assert len(api.requests) == 1


def test_a_refusal_is_an_error_at_once(api, client):
    api.script = ["403"]
    with pytest.raises(ValueError, match="refused .403"):
        client.case_file(1)


@pytest.mark.parametrize("case", ["../etc/passwd", "0", "-1", "1.5", "", "cases"])
def test_what_is_no_case(api, client, case):
    with pytest.raises(ValueError, match="numbers from 1"):
        client.case_file(case)
    assert not api.requests


def test_nobody_there(tmp_path):
    client = VitalDB(endpoint="http://127.0.0.1:9", cache=tmp_path, attempts=2, wait_s=0.01)
    with pytest.raises(ConnectionError, match="no whole answer .ConnectionError., after 2 tries"):
        client.case_file(1)
    with pytest.raises(ValueError, match="expected an endpoint"):
        VitalDB(endpoint="ftp://x", cache=tmp_path).case_file(1)


def test_a_download_resumes_where_it_broke_off(api, client, case_bytes):
    api.script = ["half"]
    assert client.case_file(1).read_bytes() == case_bytes
    assert api.requests[1][1] == f"bytes={len(case_bytes) // 2}-" and tidy(client)


def interrupted(client: VitalDB, api: Api) -> None:
    """Leave half a case in the cache, as a process that ended does."""
    api.script = ["half"] + ["500"] * 3
    with pytest.raises(ConnectionError, match="what has come is kept"):
        client.case_file(1)
    api.requests.clear()


def test_another_process_resumes(api, client, case_bytes):
    interrupted(client, api)
    assert client.case_file(1).read_bytes() == case_bytes
    assert [asked for _, asked in api.requests] == [f"bytes={len(case_bytes) // 2}-"] and tidy(client)


def test_a_file_that_changed_meanwhile_is_begun_again(api, client, case_bytes):
    interrupted(client, api)
    api.files["/1.0.1/1.vital"] = changed = gzip.compress(gzip.decompress(case_bytes), 9)
    assert changed != case_bytes
    assert client.case_file(1).read_bytes() == changed and tidy(client)


@pytest.mark.parametrize("setting", ["ranges", "tags"])
def test_a_server_without_ranges_or_tags_is_asked_for_everything_again(api, client, case_bytes, setting):
    setattr(api, setting, False)
    interrupted(client, api)
    assert client.case_file(1).read_bytes() == case_bytes and tidy(client)


def test_a_server_that_continues_elsewhere_is_not_believed(api, client, case_bytes):
    interrupted(client, api)
    api.script = ["wrong place"]
    assert client.case_file(1).read_bytes() == case_bytes and tidy(client)


@pytest.mark.parametrize("damage", ["zeros", "longer"])
def test_half_a_file_that_was_damaged_on_disk_is_never_completed(api, client, case_bytes, damage):
    interrupted(client, api)
    (partial,) = [path for path in (client.cache / "partial").iterdir() if not path.suffix]
    half = partial.read_bytes()
    partial.write_bytes(half[:-500] + bytes(500) if damage == "zeros" else case_bytes + b"more")
    assert client.case_file(1).read_bytes() == case_bytes and tidy(client)


def test_a_cached_file_that_was_changed_is_downloaded_again(api, client, case_bytes):
    path = client.case_file(1)
    path.write_bytes(path.read_bytes()[:-7])
    assert client.case_file(1).read_bytes() == case_bytes
    for torn in ("", "[]", '{"sha256": "../../x"}'):
        (entry,) = (client.cache / "names").glob("*.json")
        entry.write_text(torn)
        assert client.case_file(1).read_bytes() == case_bytes
    assert len(api.requests) == 5 and tidy(client)


def test_many_who_ask_at_once_download_once(api, client, case_bytes):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(client.case_file, [1] * 8))
    assert {path.read_bytes() for path in found} == {case_bytes} and len(api.requests) == 1


def test_the_package_asks_for_the_same_addresses():
    """What this client asks for is what the package vitaldb asks for."""
    from vitaldb import dataset

    from raycadian.modalities.biosignals import vitaldb_api

    assert (dataset.api_url, dataset.DATASET_VERSION) == (vitaldb_api.ENDPOINT, vitaldb_api.VERSION)
