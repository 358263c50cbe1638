"""Archives of a cluster that may be anybody's: nothing lies outside of `--to` afterwards, and nothing hidden in it."""

import io
import itertools
import tarfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from raycadian.cli import submit
from raycadian.cli.main import main
from raycadian.cli.pack import pack, unpack
from raycadian.files import path_inside


def _tar(path: Path, members: dict[str, bytes | tarfile.TarInfo], folders: str, mode: str = "w") -> Path:
    headers = {"raycadian.folders": folders}
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def to(tmp_path) -> Path:
    """Where runs are brought, with somebody's files beside it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".profile").write_text("mine")
    (tmp_path / "home" / "runs").mkdir()
    return tmp_path / "home" / "runs"


GOOD = {"sweeps/a/x.json": b"{}"}
HOSTILE = {
    "header up": (GOOD | {"evil/x": b"1"}, "../evil"),
    "header far up": (GOOD, "sweeps/a\n../../home"),
    "header absolute": (GOOD, "/tmp"),
    "header through": (GOOD, "sweeps/../../../home"),
    "header of the folder itself": (GOOD, "."),
    "header empty": (GOOD, ""),
    "header absent": (GOOD, "sweeps/b"),
    "header of a file": (GOOD, "sweeps/a/x.json"),
    "header long": (GOOD, "a" * 300),
    "header nul": (GOOD, "a\0b"),
    "header hidden": ({".git/hooks/pre-commit": b"#!"}, ".git"),
    "member up": (GOOD | {"../evil": b"1"}, "sweeps/a"),
    "member absolute": (GOOD | {"/tmp/evil-member": b"1"}, "sweeps/a"),
    "member hidden": (GOOD | {"sweeps/a/.bashrc": b"1"}, "sweeps/a"),
    "link": (GOOD | {"l": _special("sweeps/a/l", tarfile.SYMTYPE, "/etc/passwd")}, "sweeps/a"),
    "inner link": (GOOD | {"l": _special("sweeps/a/l", tarfile.SYMTYPE, "x.json")}, "sweeps/a"),
    "hard link": (GOOD | {"l": _special("sweeps/a/l", tarfile.LNKTYPE, "sweeps/a/x.json")}, "sweeps/a"),
    "fifo": (GOOD | {"l": _special("sweeps/a/l", tarfile.FIFOTYPE)}, "sweeps/a"),
    "device": (GOOD | {"l": _special("sweeps/a/l", tarfile.CHRTYPE)}, "sweeps/a"),
    "sparse": (GOOD | {"l": _special("sweeps/a/l", tarfile.GNUTYPE_SPARSE)}, "sweeps/a"),
    "deep": (GOOD | {"d": _special("sweeps/" + "a/" * 1500, tarfile.DIRTYPE)}, "sweeps/a"),
    "header deep": (GOOD, "a/" * 1500),
    "escape sequence": (GOOD | {"sweeps/a/\x1b[2Jx": b"1"}, "sweeps/a"),
    "line in a name": (GOOD | {"sweeps/a/x\nall well": b"1"}, "sweeps/a"),
    "turned name": (GOOD | {"sweeps/a/\u202egnp.sh": b"1"}, "sweeps/a"),
    "no Unicode": (GOOD | {"sweeps/a/\udcff": b"1"}, "sweeps/a"),
    "long in all": (GOOD | {"/".join(["sweeps", *["a" * 200] * 6]): b"1"}, "sweeps/a"),
    "headers of headers": (GOOD | {f"h{i}": _special("@LongLink", tarfile.GNUTYPE_LONGNAME) for i in range(3000)}, ""),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_and_places_nothing(case, to, tmp_path):
    before = sorted(to.parent.rglob("*"))
    archive = _tar(tmp_path / "archive.tar", *HOSTILE[case])
    inner = tmp_path / "partial" / "unpacked"
    inner.mkdir(parents=True)
    with pytest.raises(ValueError, match="archive|leads out|none that a file can have"):
        [submit._place(member, inner, to) for member in unpack(archive, inner)]
    assert sorted(to.parent.rglob("*")) == before and (to.parent / ".profile").read_text() == "mine"


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"\0" * 10240, "gz", "cut", "too long"],
    ids=["empty", "text", "zeros", "compressed", "cut", "long"],
)
def test_what_is_no_archive_is_refused(content, tmp_path):
    path = _tar(tmp_path / "a.tar", {"sweeps/a/x": b"1" * 5000}, "sweeps/a", "w:gz" if content == "gz" else "w")
    if content in ("cut", "too long"):
        body = path.read_bytes()
        path.write_bytes(body[:3000] if content == "cut" else body.replace(b"00000011610", b"77777777777"))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    (tmp_path / "to").mkdir()
    with pytest.raises(ValueError, match="archive"):
        unpack(path, tmp_path / "to")


def test_a_link_in_the_folder_here_leads_nowhere(to, tmp_path):
    (to / "sweeps").symlink_to(to.parent)
    inner = tmp_path / "unpacked"
    inner.mkdir()
    (member,) = unpack(_tar(tmp_path / "a.tar", GOOD, "sweeps/a"), inner)
    with pytest.raises(ValueError, match="leads out of .* by a link"):
        submit._place(member, inner, to)


def test_what_pack_writes_comes_whole(to, tmp_path):
    runs = tmp_path / "there"
    for name in ("a", "sweeps/b"):
        (runs / name / "deep").mkdir(parents=True)
        (runs / name / "deep" / "x").write_text(name)
    pack([runs / "a", runs / "sweeps" / "b"], runs, tmp_path / "a.tar")
    inner = tmp_path / "unpacked"
    inner.mkdir()
    placed = [submit._place(member, inner, to) for member in unpack(tmp_path / "a.tar", inner)]
    assert placed == [to / "a", to / "sweeps" / "b"]
    assert [(path / "deep" / "x").read_text() for path in placed] == ["a", "sweeps/b"]


ANNOUNCED = ['{"file"', '{"file": 1}', '{"file": "a", "bytes": "many", "sha256": ""}', '{"file": ' + "[" * 100_000]


@pytest.mark.parametrize("line", ANNOUNCED, ids=["cut", "lacking", "typed", "nested"])
def test_an_announcement_that_is_none_is_refused(line):
    with pytest.raises(ValueError, match="announced no archive"):
        submit._announced(line)


class Endless:
    """A cluster whose job never ends, and whose log grows as long as it is read."""

    def __init__(self, log):
        self.log = log

    def get_job_info(self, job):
        status = SimpleNamespace(is_terminal=lambda: False)
        return SimpleNamespace(driver_agent_http_address="x", status=status, driver_node_id="n")

    def get_job_logs(self, job):  # what the client's own way would take in
        raise AssertionError("read without bounds")

    @contextmanager
    def answer(self, client, path, query=None):
        yield SimpleNamespace(iter_content=lambda size: iter(self.log))


@pytest.mark.parametrize(
    ("log", "limit_s", "message"),
    [
        ([b'{"logs": "waiting"}'], 0.02, "(announced no archive in|not come within) 0.02 s"),
        (itertools.repeat(b"x" * 2**20), 3600, "more than 4,194,304 bytes"),
    ],
    ids=["waits", "grows"],
)
def test_a_cluster_that_never_ends_is_left(log, limit_s, message, monkeypatch):
    cluster = Endless(log)
    monkeypatch.setattr(submit, "_answer", cluster.answer)
    monkeypatch.setattr(submit, "FETCH_S", limit_s)
    monkeypatch.setattr(submit.time, "sleep", lambda s: None)
    with pytest.raises(ValueError, match=message):
        submit._packed(cluster, "fetch-1")


def test_an_archive_that_drips_or_grows_is_left(tmp_path, monkeypatch):
    packed = {"file": "a.tar", "bytes": 10, "sha256": "0", "node": "n"}
    monkeypatch.setattr(submit, "_answer", Endless([b"12345", b"678901"]).answer)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        submit._download(None, packed, tmp_path / "a.tar")
    monkeypatch.setattr(submit, "_answer", Endless(itertools.repeat(b"")).answer)
    monkeypatch.setattr(submit, "FETCH_S", 0.01)
    with pytest.raises(ValueError, match="not come within 0.01 s"):
        submit._download(None, packed, tmp_path / "a.tar")


def test_what_a_message_quotes_does_not_steer_the_terminal(tmp_path):
    result = CliRunner().invoke(main, ["verify", "a\x1b[2J\u202eb", "--runs", str(tmp_path)])
    assert result.exit_code == 2 and r"a\x1b[2J\u202eb: no such run" in result.output


OUTSIDE = [
    "", ".", "..", "/", "/etc/passwd", "//etc", "a/../..", "../a", "a/../../b", "a/..", "x" * 256, "a\0", "a/" * 40,
    "\x7f", "\x9b2J", "a\r", "\u2028", "\ud800", "/".join(["x" * 250] * 5),
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="leads out of|none that a file can have"):
        path_inside(tmp_path, name)


def test_a_name_below_is_its_path(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    assert path_inside(tmp_path, "a/b c/..d") == tmp_path / "a" / "b c" / "..d"
    for name in ("años/день 1.vital", "a\u202fb", "\U0001f469\u200d\U0001f52c", "/".join(["x"] * 32)):
        assert path_inside(tmp_path, name) == tmp_path / name
    with pytest.raises(ValueError, match="circle"):
        path_inside(tmp_path, "circle/a")
