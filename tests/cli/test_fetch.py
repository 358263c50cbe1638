"""Archives of a cluster that may be anybody's: nothing lies outside of `--to` afterwards, and nothing hidden in it."""

import io
import tarfile
from pathlib import Path

import pytest

from raycadian.cli import submit
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


OUTSIDE = ["", ".", "..", "/", "/etc/passwd", "//etc", "a/../..", "../a", "a/../../b", "a/..", "x" * 256, "a\0"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="leads out of|none that a file can have"):
        path_inside(tmp_path, name)


def test_a_name_below_is_its_path(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    assert path_inside(tmp_path, "a/b c/..d") == tmp_path / "a" / "b c" / "..d"
    with pytest.raises(ValueError, match="circle"):
        path_inside(tmp_path, "circle/a")
