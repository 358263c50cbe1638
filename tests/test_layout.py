"""The layout and layer rules of the design (rules 1, 2, 9), over the syntax trees."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "platform" / "raycadian"
# lowest first; a file imports from its own folder and from lower layers only
LAYERS = [
    {
        "types",
        "errors",
        "config",
        "cluster",
        "files",
        "locks",
        "made",
        "manifest",
        "matching",
        "pages",
        "telemetry",
        "runs",
    },
    {"physiology"},
    {"data", "models", "evaluation"},  # never one another
    {"modalities", "tasks"},
    {"training", "tracking", "personal"},
    {"serving", "experiments", "workflow", "quickstart", "cohort", "dataframes"},
    {"api"},
    {"cli"},
]
DOORS = {  # heavy library -> files that may import it
    "tsfm_public": {"models/granite.py"},
    "h5py": {"models/pat_weights.py"},
    "xgboost": {"models/trees.py"},
    "ray.train": {"training/distributed.py"},
    "ray.tune": {"training/tune.py"},
    "ray.serve": {"serving/"},
    "mlflow": {"tracking/registry.py"},
    "deepspeed": {"training/engines.py"},
}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


@functools.cache
def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _files() -> list[str]:
    """What git tracks, or would: new files that it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def _unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _level(unit: str) -> int:
    levels = [i for i, layer in enumerate(LAYERS) if unit in layer]
    assert levels, f"{unit} has no layer: add it to LAYERS where it belongs"
    return levels[0]


def _crossings(path: Path) -> list[str]:
    """What a file imports of the package that lies beside or above its own folder."""
    own, crossings = _unit(path), []
    for name in _imports(path):
        other = name.split(".")[1] if name.startswith("raycadian.") else own
        if other == own or not ((PACKAGE / other).is_dir() or (PACKAGE / f"{other}.py").is_file()):
            continue
        same_file_layer = _level(other) == _level(own) and own in LAYERS[0] | LAYERS[3] | LAYERS[4] | LAYERS[5]
        if not (_level(other) < _level(own) or same_file_layer):
            crossings.append(f"{path.relative_to(PACKAGE)} imports {name}")
    return crossings


def test_layers():
    assert not [crossing for path in FILES for crossing in _crossings(path)]


def _intruders(path: Path) -> list[str]:
    """Heavy libraries that a file imports and that have their door elsewhere."""
    relative, intruders = path.relative_to(PACKAGE).as_posix(), []
    for library, doors in DOORS.items():
        if not any(relative == door or (door.endswith("/") and relative.startswith(door)) for door in doors):
            names = {n for n in _imports(path) if n == library or n.startswith(library + ".")}
            intruders += [f"{relative} imports {name}; its door is {doors}" for name in sorted(names)]
    return intruders


def test_heavy_libraries_have_one_door():
    assert not [intruder for path in FILES for intruder in _intruders(path)]


def _imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Modules of the package that a file imports when it is imported itself."""
    names, pending = set(), list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If):  # if TYPE_CHECKING: types alone
            pending += ast.iter_child_nodes(node)
    return names & modules


@pytest.mark.slow
def test_no_module_imports_itself_through_others():
    modules = {".".join(("raycadian", *p.relative_to(PACKAGE).with_suffix("").parts)): p for p in FILES}
    waiting = {name: _imported_modules(path, set(modules)) - {name} for name, path in modules.items()}
    while free := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"a circle among {sorted(waiting)}"


def test_folders():
    tracked = _files()
    top = {Path(p).parts[0] for p in tracked if p}
    assert {"platform", "jobs", "search_spaces", "serve", "cluster.yaml", "datasets", "tests", "README.md"} <= top
    assert not [p for p in tracked if p.count("/") == 1 and p.endswith("__init__.py")]
    assert [p.name for p in (ROOT / "platform").iterdir() if not p.name.startswith((".", "_"))] == ["raycadian"]
    names = [Path(p).name for p in tracked if p.startswith("tests/") and p.endswith(".py")]
    assert len(names) == len(set(names)), "pytest tells test files apart by their names"


def test_jobs_shadow_no_module():
    for job in (ROOT / "jobs").glob("*.py"):
        assert job.stem not in sys.stdlib_module_names | {"ray", "torch", "evaluate", "datasets", "raycadian"}, job


def test_nothing_committed_names_an_address_of_a_registry():
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org")
    tracked = _files()
    for name in tracked:
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".txt", ".toml", ".yaml", ".yml", ".json", ""}:
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not any(host in text for host in hosts), name


def test_help_is_instant_because_nothing_heavy_is_imported():
    """Nor any module of verbs."""
    code = (
        "import sys; from click.testing import CliRunner; from raycadian.cli.main import main; "
        "print(CliRunner().invoke(main, ['--help']).exit_code, [m for m in ('torch', 'ray', 'pandas', 'numpy', "
        "'pydantic', 'mlflow', 'rich', 'raycadian.cli.train', 'raycadian.cli.data') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []"
