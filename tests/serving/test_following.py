"""What goes wrong with the registry, or with the run that it names, ends no endpoint and takes no model away."""

import asyncio
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import served
from click.testing import CliRunner

from raycadian.cli.main import main
from raycadian.errors import RegistryError
from raycadian.files import write_json
from raycadian.runs import Run
from raycadian.serving import app
from raycadian.serving import holder as holders
from raycadian.serving.follow import Follower
from raycadian.serving.holder import Holder
from raycadian.tracking import registry
from raycadian.tracking.registry import champion


@dataclass(frozen=True)
class Endpoint:
    """As app.Server; `bad` are runs that no replica can load, `notes` what /v1/model said."""

    run: Run
    notes: list[str | None]
    bad: tuple[Path, ...] = ()

    def promote(self, run: Run) -> "Endpoint":
        if run.path in self.bad:
            raise ValueError("it can't be loaded")
        return Endpoint(run, self.notes, self.bad)

    def note_following(self, following: str | None) -> "Endpoint":
        self.notes.append(following)
        return self


class Registry:
    """Its answers, in turn; the last for ever."""

    def __init__(self, *answers: Run | Exception):
        self.answers = list(answers)

    def __call__(self) -> Run:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


OLD, NEW = Run(Path("/runs/old")), Run(Path("/runs/new"))


@pytest.mark.parametrize("error", [RegistryError("database is locked"), RuntimeError("SQL"), MemoryError()])
def test_a_registry_that_cannot_be_read_is_looked_at_again_with_longer_waits(error):
    lines, endpoint = [], Endpoint(OLD, [])
    follower = Follower(endpoint, Registry(error, error, error, NEW), lines.append, every_s=10)
    waits = []
    for _ in range(4):
        follower.look()
        waits.append(follower.wait_s)
    assert waits == [20, 30, 30, 10] and follower.server.run is NEW
    assert "old goes on" in lines[0] and lines[-1] == "promoted in place: new" and len(lines) == 3
    assert endpoint.notes[0].startswith("the registry can't be read") and endpoint.notes[1] is None


def test_another_champion_beside_it_ends_no_following(tmp_path, monkeypatch):
    """A second data set's champion did, with `which champion?`: the name is the one that it started with."""
    for name in ("old", "new", "other"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "metadata.json", {})
    champions, served_with = {"first-forecast-12": "old"}, {}
    monkeypatch.setattr(registry, "champions", lambda *a: champions)
    monkeypatch.setattr(app, "serve_forever", lambda run, **options: served_with.update(options, run=run))
    main(["serve", "--runs", str(tmp_path)], standalone_mode=False)
    assert served_with["run"].name == "old"
    champions |= {"second-forecast-12": "other"}
    assert served_with["follow"]().name == "old"
    champions |= {"first-forecast-12": "new"}
    assert served_with["follow"]().name == "new"


def test_a_champion_whose_folder_is_gone_is_said_with_what_to_do(tmp_path, monkeypatch):
    """It was: the registry can't be read."""
    monkeypatch.setattr(registry, "champions", lambda *a: {"first-forecast-12": "away"})
    lines, endpoint = [], Endpoint(OLD, [])
    Follower(endpoint, lambda: champion(runs=tmp_path), lines.append, every_s=10).look()
    assert str(tmp_path / "away") in lines[0] and "put that folder back" in lines[0] and "old goes on" in lines[0]
    assert "registry" not in lines[0] and endpoint.notes[0] in lines[0]


@pytest.mark.parametrize("name", [None, "third-forecast-12"])
def test_of_several_champions_it_says_which_there_are_and_how_to_choose(name, tmp_path, monkeypatch):
    of = {"first-forecast-12": "old", "second-forecast-12": "other"}
    monkeypatch.setattr(registry, "champions", lambda *a: of)
    with pytest.raises(ValueError, match=r"registered: first-forecast-12 \(run old\), second") as raised:
        champion(name, runs=tmp_path)
    assert "--champion first-forecast-12, or `champion: first-forecast-12` in a Serve conf" in str(raised.value)


@pytest.mark.parametrize("port", ["-1", "0", "99999"])
def test_a_port_that_there_is_not_is_told(port):
    """It was a traceback."""
    done = CliRunner().invoke(main, ["serve", "--port", port])
    assert done.exit_code == 2 and f"{port} is not in the range 1<=x<=65535" in done.output


def test_a_damaged_database_is_such_a_registry(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    lines = []
    follower = Follower(Endpoint(OLD, []), lambda: champion(runs=tmp_path), lines.append, every_s=10)
    follower.look()
    assert follower.server.run is OLD and "old goes on" in lines[0]


def test_a_run_that_is_rejected_is_tried_again_later_and_another_at_once():
    now, lines = [0.0], []
    endpoint = Endpoint(OLD, [], (NEW.path,))
    registry = Registry(NEW)
    follower = Follower(endpoint, registry, lines.append, every_s=10, clock=lambda: now[0])
    for now[0] in (0.0, 10.0, 20.0, 30.0, 60.0):
        follower.look()
    assert len(lines) == 3 and all("old goes on" in line for line in lines)  # at 0, 20 and 60 s
    other = registry.answers[0] = Run(Path("/runs/other"))
    follower.look()
    assert follower.server.run is other


def test_an_endpoint_that_cannot_be_told_goes_on():
    class Deaf(Endpoint):
        def note_following(self, following):
            raise RuntimeError("no controller")

    lines = []
    Follower(Deaf(OLD, []), Registry(RegistryError("away")), lines.append, every_s=10).look()
    assert len(lines) == 2


# --- the model of a replica -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, readings = tmp_path_factory.mktemp("runs"), served.people(3, 4)
    return [served.make_run(folder, readings, seed) for seed in (0, 1)]


def damaged(run: Run, folder: Path, how) -> str:
    shutil.copytree(run.path, folder)
    how(folder)
    return str(folder)


DAMAGES = {
    "nested": lambda f: (f / "checkpoint" / "config.json").write_text("[" * 100_000),
    "no summary": lambda f: (f / "metrics_summary.json").unlink(),
    "no population": lambda f: _without(f / "checkpoint" / "preprocessing.json", "population"),
    "cut weights": lambda f: (f / "checkpoint" / "model.safetensors").write_bytes(b"x" * 100),
    "no such folder": shutil.rmtree,
}


def _without(path: Path, name: str) -> None:
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != name}))


@pytest.mark.slow  # trained runs behind it
@pytest.mark.parametrize("how", DAMAGES.values(), ids=DAMAGES)
def test_no_run_takes_the_model_away(runs, tmp_path, how):
    bad = damaged(runs[1], tmp_path / "bad", how)

    async def serve() -> None:
        holder = Holder()
        await holder.configure(lambda: {"run": str(runs[0].path)})
        await holder.configure(lambda: {"run": bad})
        assert holder.describe()["model"] == runs[0].name and holder.rejected
        await holder.configure(lambda: {"run": str(runs[1].path)})
        assert holder.describe()["model"] == runs[1].name and holder.describe()["rejected"] is None
        fresh = Holder()  # of a replica that starts while the target is bad
        await fresh.configure(lambda: {"run": bad, "fallback": str(runs[0].path)})
        assert (fresh.describe()["model"] == runs[0].name and fresh.rejected == holder.rejected) or fresh.rejected

    asyncio.run(serve())


@pytest.mark.slow
@pytest.mark.parametrize("error", [RecursionError(), MemoryError(), KeyError("x"), OSError(28, "full")], ids=repr)
def test_whatever_loading_raises_the_old_one_goes_on(runs, monkeypatch, error):
    async def serve() -> None:
        holder = Holder()
        await holder.configure(lambda: {"run": str(runs[0].path)})
        with monkeypatch.context() as patch:
            patch.setattr(holders, "load_predictor", _raise(error))
            await holder.configure(lambda: {"run": str(runs[1].path)})
        assert holder.describe()["model"] == runs[0].name and type(error).__name__ in holder.rejected
        same = holder.loaded
        await holder.configure(lambda: {"run": str(runs[0].path), "following": "away"})
        assert holder.loaded is same and holder.describe()["following"] == "away"  # nothing is loaded anew

    asyncio.run(serve())


@pytest.mark.slow
def test_a_new_replica_tries_until_its_run_is_there_and_says_at_the_start_what_is_wrong(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(holders, "_AGAIN_S", 0.01)
    later = tmp_path / "later"

    async def serve() -> None:
        with pytest.raises(ValueError, match="later"):
            await Holder().configure(lambda: {"run": str(later)})
        changes, holder = [], Holder(lambda h: changes.append(h.describe() is not None))
        configuring = asyncio.create_task(holder.configure(lambda: {"run": str(later), "patience_s": 30.0}))
        await asyncio.sleep(0.1)
        assert not configuring.done() and holder.rejected
        shutil.copytree(runs[0].path, later)
        await configuring
        assert holder.rejected is None and changes == [True]

    asyncio.run(asyncio.wait_for(serve(), 30))


@pytest.mark.slow
def test_a_new_replica_that_waits_serves_what_is_wanted_by_then(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(holders, "_AGAIN_S", 0.01)

    async def serve() -> None:
        wanted, holder = {"run": str(tmp_path / "never"), "patience_s": 30.0}, Holder()
        configuring = asyncio.create_task(holder.configure(lambda: wanted))
        await asyncio.sleep(0.1)
        wanted = {"run": str(runs[0].path)}
        await configuring
        assert holder.describe()["model"] == runs[0].name and holder.rejected is None

    asyncio.run(asyncio.wait_for(serve(), 30))


def _raise(error):
    def raising(*_):
        raise error

    return raising


class Replicas:
    """As Serve's handle: each broadcast is answered with the next of `answers`, the last for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def broadcast(self, method):
        assert method == "take_over"
        return self

    def results(self, timeout_s):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def told(monkeypatch):
    """The runs that the cluster was told to serve, in turn."""
    told = []
    monkeypatch.setattr(app, "tell", lambda place, config: told.append(Path(config["run"]).name))
    monkeypatch.setattr(app, "_PROMOTE_S", 0.05)
    monkeypatch.setattr(app, "_AGAIN_S", 0.01)
    return told


def server(*answers):
    return app.Server(OLD, "127.0.0.1", 1, 1, "", "key", Replicas(*answers))


def test_a_replica_that_ends_while_it_is_told_costs_no_promotion(told):
    promoted = server(RuntimeError("replica died"), [{"model": "new", "rejected": None}] * 2).promote(NEW)
    assert promoted.run == NEW and told == ["new"]


def test_what_one_replica_rejects_none_serves(told):
    mixed = [{"model": "new", "rejected": None}, {"model": "old", "rejected": "damaged"}]
    with pytest.raises(ValueError, match="not taken over, old goes on: damaged"):
        server(mixed).promote(NEW)
    assert told == ["new", "old"]


def test_what_can_not_be_asked_is_not_left_wanted(told):
    with pytest.raises(ValueError, match="can't be told.*no replica"):
        server(RuntimeError("no replica")).promote(NEW)
    assert told == ["new", "old"]
