"""Snapshots in object storage, against moto's S3 server: what holds on a disk holds there, and its failures are
told."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import cloudpickle
import numpy as np
import pytest
import s3fs
from click.testing import CliRunner
from clusters import free_ports
from helpers import write_csv
from moto.server import DomainDispatcherApplication, ThreadedMotoServer, create_backend_app
from werkzeug.serving import make_server

from raycadian.cli.main import main
from raycadian.data.series import Origin, build_series, open_series
from raycadian.data.snapshot import Snapshot, snapshots
from raycadian.data.storage import resolve_path
from raycadian.data.stream import open_shards
from raycadian.modalities.prepare import prepare

CHANNELS = ("glucose_mgdl",)
SECRET = "not-a-secret-of-anybody"
CARD = "name: tiny\nfiles: [tiny.csv]\nunit: mg/dL\ncolumns: {subject: subject, time: time, glucose: glucose}\n"

pytestmark = pytest.mark.ray


def server(port: int) -> ThreadedMotoServer:
    return ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where the server listens; this process and Ray's workers know it from the file that tests/conftest.py names."""
    (port,) = free_ports(1)
    file = Path(os.environ["AWS_CONFIG_FILE"])
    file.write_text(
        f"[default]\nregion = us-east-1\nendpoint_url = http://127.0.0.1:{port}\n"
        f"aws_access_key_id = nobody\naws_secret_access_key = {SECRET}\n"
    )
    running = server(port)
    running.start()
    s3fs.S3FileSystem.clear_instance_cache()
    yield port
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()
    file.unlink()


@pytest.fixture(scope="module")
def client(port):
    found = boto3.client("s3")
    found.create_bucket(Bucket="shared")
    return found


@pytest.fixture
def fresh(client, monkeypatch) -> Iterator[pytest.MonkeyPatch]:
    """To change the environment that the library reads: it keeps what it has read."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield monkeypatch
    s3fs.S3FileSystem.clear_instance_cache()


def make_card(folder: Path, n: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "tiny.csv", n, days=1)
    (folder / "tiny.yaml").write_text(CARD)
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> Path:
    return make_card(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def made(ray_local, client, card) -> Snapshot:
    return prepare(card, "s3://shared/cohorts", on_ray=True)


def keys(client, prefix: str, bucket: str = "shared") -> list[str]:
    found = client.list_objects_v2(Bucket=bucket, Prefix=prefix)
    assert not found["IsTruncated"]
    return [item["Key"] for item in found.get("Contents", [])]


# --- what holds on a disk --------------------------------------------------------------------------------------------


def test_the_snapshot_is_the_one_of_a_disk(made, card, tmp_path):
    local = prepare(card, tmp_path)
    assert (made.id, str(made.path)) == (local.id, f"s3://shared/cohorts/{local.id}")
    again = Snapshot.open(f"s3://shared/cohorts/{local.id}")
    assert again.subjects == local.subjects == ["p0", "p1", "p2"]
    for subject in local.subjects:
        for there, here in zip(again.recordings(subject), local.recordings(subject), strict=True):
            assert there.start_utc == here.start_utc
            np.testing.assert_array_equal(there.channels["glucose_mgdl"], here.channels["glucose_mgdl"])
    again.verify()


def test_the_layout_is_the_same_and_nothing_else_is_left(made, client):
    assert "blocks/00000-00-recordings.parquet" in made.manifest["files"]
    expected = {f"cohorts/{made.id}/{name}" for name in ("manifest.json", *made.manifest["files"])}
    assert set(keys(client, "cohorts/")) == expected


def test_no_credential_is_written(made, client):
    for key in keys(client, "cohorts/"):
        body = client.get_object(Bucket="shared", Key=key)["Body"].read()
        assert SECRET.encode() not in body and b"nobody" not in body
    assert SECRET.encode() not in cloudpickle.dumps(made)


def test_what_is_there_is_reused(made, card, client):
    said = []
    before = client.head_object(Bucket="shared", Key=f"cohorts/{made.id}/manifest.json")["ETag"]
    assert prepare(card, "s3://shared/cohorts", lambda *told: said.append(told[0])).id == made.id
    assert len(said) == 1 and "reused" in said[0]
    assert client.head_object(Bucket="shared", Key=f"cohorts/{made.id}/manifest.json")["ETag"] == before
    assert [s.id for s in snapshots("s3://shared/cohorts")] == [made.id]


def test_a_snapshot_without_its_manifest_is_not_listed_and_is_replaced(ray_local, client, card):
    first = prepare(card, "s3://shared/half")
    client.delete_object(Bucket="shared", Key=f"half/{first.id}/manifest.json")
    client.put_object(Bucket="shared", Key=f"half/{first.id}/blocks/00000-00-recordings.parquet", Body=b"PAR1")
    assert snapshots("s3://shared/half") == []
    with pytest.raises(ValueError, match=r"no snapshot here \(no manifest.json\)"):
        Snapshot.open(first.path)
    prepare(card, "s3://shared/half").verify()
    client.put_object(Bucket="shared", Key=f"half/{first.id}/blocks/00000-00-recordings.parquet", Body=b"PAR1")
    with pytest.raises(ValueError, match=r"00000-00-recordings.parquet: expected \d+ bytes, found 4"):
        Snapshot.open(first.path)
    prepare(card, "s3://shared/half").verify()


KILLED = """
import os, signal, sys
from raycadian.modalities.prepare import prepare
def progress(stage, *_):
    if stage.startswith("subjects"):
        os.kill(os.getpid(), signal.SIGKILL)
prepare(sys.argv[1], sys.argv[2], progress)
"""


def test_what_a_killed_run_left_is_not_listed_and_goes_with_the_next(ray_local, client, card):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(card), "s3://shared/killed"])
    assert killed.returncode == -signal.SIGKILL
    left = keys(client, "killed/")
    assert left and all(key.startswith(f"killed/.preparing-{socket.gethostname()}-") for key in left)
    assert snapshots("s3://shared/killed") == []
    other = "killed/.preparing-elsewhere-1-1-0/spill/0/x"  # of another machine: not ours to clean
    client.put_object(Bucket="shared", Key=other, Body=b"")
    whole = prepare(card, "s3://shared/killed")
    assert [s.id for s in snapshots("s3://shared/killed")] == [whole.id]
    assert [key for key in keys(client, "killed/") if "/.preparing-" in key] == [other]


def test_an_interrupted_run_leaves_nothing(ray_local, client, card):
    def interrupt(what: str, *_) -> None:
        if what.startswith("subjects written"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(card, "s3://shared/interrupted", interrupt, on_ray=True)
    assert not [k for k in keys(client, "interrupted/") if k.endswith("manifest.json")]
    assert snapshots("s3://shared/interrupted") == []


def test_on_the_command_line(made, card, tmp_path):
    def invoke(*words: str):
        return CliRunner().invoke(main, [str(word) for word in words])

    done = invoke("prepare", card, "--snapshots", "s3://shared/cohorts", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["path"] == f"s3://shared/cohorts/{made.id}"
    page = invoke("inspect", made.path, "--out", tmp_path / "page.html")
    assert page.exit_code == 0 and (tmp_path / "page.html").stat().st_size > 1000
    deny(client=boto3.client("s3"), bucket="denied-to-people", keys="*")
    denied = invoke("prepare", card, "--snapshots", "s3://denied-to-people/x")
    assert denied.exit_code == 2 and "access denied" in denied.stderr and "Traceback" not in denied.output


# --- the series: once a node ------------------------------------------------------------------------------------------


OPENING = """
import sys, time, pathlib
from raycadian.data import series
from raycadian.data.snapshot import Snapshot
real = series._write
def told(*arguments):
    print("built")
    real(*arguments)
series._write = told
snapshot, go = Snapshot.open(sys.argv[1]), pathlib.Path(sys.argv[2])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
found = series.open_series(snapshot, ("glucose_mgdl",))
print(float(found.table[1].sum()))
"""


def test_two_processes_build_one_table(made, tmp_path):
    command = [sys.executable, "-c", OPENING, str(made.path), str(tmp_path / "go")]
    environment = os.environ | {"RAYCADIAN_CACHE": str(tmp_path / "cache")}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [one.stdout.readline() for one in both] == ["ready\n"] * 2
    (tmp_path / "go").touch()
    said = [one.communicate(timeout=60)[0].split() for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert sorted(len(words) for words in said) == [1, 2], said  # one of them built
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    expected = float(build_series(made, CHANNELS).table[1].sum())
    assert [float(words[-1]) for words in said] == [expected] * 2
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == [
        f"{made.id}-glucose_mgdl", f"{made.id}-glucose_mgdl.lock",
    ]  # fmt: skip


def test_a_series_travels_to_another_node_by_reference(made, ray_local, tmp_path):
    """The worker has a cache of its own, as another node has: it builds the table from the storage."""
    series = open_series(made, CHANNELS)
    assert series.origin == Origin(str(made.path), CHANNELS) and isinstance(series.table, np.memmap)

    def read(payload: bytes, cache: str | None) -> tuple[str, np.ndarray, np.ndarray]:
        if cache:
            os.environ["RAYCADIAN_CACHE"] = cache
        found = cloudpickle.loads(payload)
        return str(found.table.filename), np.array(found.table), found.offsets

    payload = cloudpickle.dumps(series)
    assert len(payload) < 1000
    task = ray_local.remote(max_calls=1)(read)  # one call a process: the environment that it changed ends with it
    for cache in (None, str(tmp_path / "other-node")):
        file, table, offsets = ray_local.get(task.remote(payload, cache))
        assert Path(file).is_relative_to(cache or os.environ["RAYCADIAN_CACHE"])
        np.testing.assert_array_equal(table, series.table)
        np.testing.assert_array_equal(offsets, series.offsets)


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_bucket_that_is_not_there(client, card):
    with pytest.raises(ValueError, match=r"s3://absent/x/.*: no such bucket; create it, or correct its name"):
        prepare(card, "s3://absent/x")
    assert "absent" not in [b["Name"] for b in client.list_buckets()["Buckets"]]  # nor made in silence
    with pytest.raises(ValueError, match="no snapshot here"):
        Snapshot.open("s3://absent/x")
    assert snapshots("s3://absent/x") == []


def deny(client, bucket: str, keys: str, action: str = "s3:PutObject") -> None:
    client.create_bucket(Bucket=bucket)
    resource = f"arn:aws:s3:::{bucket}/{keys}"
    statement = {"Effect": "Deny", "Principal": "*", "Action": [action], "Resource": [resource]}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))


@pytest.mark.parametrize(("bucket", "keys"), [("denied-here", "*"), ("denied-in-a-worker", "*/snapshot/*")])
def test_writing_is_denied(ray_local, client, card, bucket, keys):
    deny(client, bucket, keys)
    with pytest.raises(PermissionError, match="access denied .*credentials that may list, read, write and delete"):
        prepare(card, f"s3://{bucket}/x", on_ray=True)
    assert snapshots(f"s3://{bucket}/x") == []


def test_reading_is_denied(client):
    deny(client, "denied-reading", "*", "s3:GetObject")
    client.put_object(Bucket="denied-reading", Key="x/a-1/manifest.json", Body=b"{}")
    with pytest.raises(PermissionError, match="s3://denied-reading/x/a-1/manifest.json: access denied"):
        snapshots("s3://denied-reading/x")


def test_no_credentials_at_all(fresh, tmp_path, port):
    (tmp_path / "aws").write_text(f"[default]\nregion = us-east-1\nendpoint_url = http://127.0.0.1:{port}\n")
    fresh.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    fresh.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws"))
    with pytest.raises(PermissionError, match=r"NoCredentialsError.*by the machine's role"):
        snapshots("s3://shared/cohorts")


def test_an_endpoint_that_stays_away(fresh, card):
    (unused,) = free_ports(1)
    fresh.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused}")
    fresh.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(OSError, match=r"did not answer, after several tries \(EndpointConnectionError"):
        prepare(card, "s3://shared/cohorts")
    with pytest.raises(OSError, match="check the network and the endpoint"):
        Snapshot.open("s3://shared/cohorts/x")


def test_an_endpoint_that_is_busy_for_a_while_is_waited_for(fresh, client, made):
    (other,) = free_ports(1)
    fresh.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{other}")
    app, busy = DomainDispatcherApplication(create_backend_app), [b"busy"] * 2  # the same buckets: they are in memory

    def flaky(environ, start_response):
        if not busy:
            return app(environ, start_response)
        start_response("503 Slow Down", [])
        return [busy.pop()]

    late = make_server("127.0.0.1", other, flaky, threaded=True)
    threading.Thread(target=late.serve_forever, daemon=True).start()
    try:
        again = Snapshot.open(resolve_path(str(made.path)))
        again.verify()
        assert not busy and again.path.fs.config_kwargs["retries"]["total_max_attempts"] == 15  # more than a minute
    finally:
        late.shutdown()
        late.server_close()


class Busy(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        Busy.asked += 1
        self.send_error(503, "Slow Down")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_a_bucket_that_answers_503_is_waited_for_by_who_streams(fresh, client, made):
    expected, sharded = build_series(made, CHANNELS), open_shards(made, CHANNELS, shuffle_bytes=1)
    (other,) = free_ports(1)
    fresh.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{other}")
    fresh.setenv("AWS_MAX_ATTEMPTS", "1")  # what is left is our own patience
    s3fs.S3FileSystem.clear_instance_cache()
    with HTTPServer(("127.0.0.1", other), Busy) as busy, ThreadPoolExecutor() as pool:
        pool.submit(busy.serve_forever)
        reading = pool.submit(sharded.values, 0, 100)
        time.sleep(1.2)
        busy.shutdown()
        busy.server_close()
        later = server(other)
        later.start()
        np.testing.assert_array_equal(reading.result(), expected.table[:, :100])
        later.stop()
    assert Busy.asked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nosuch://bucket/x", "Unsupported filesystem: .nosuch"),
        ("sftp://anna:secret@host/x", "a URL with a password ends in logs"),
    ],
)
def test_urls_that_cannot_be_used(text, message):
    with pytest.raises(ValueError, match=message) as error:
        resolve_path(text)
    assert "secret" not in str(error.value)


def test_a_file_url_is_a_path(tmp_path):
    assert resolve_path(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert resolve_path("snapshots") == Path("snapshots") == resolve_path(Path("snapshots"))
