"""What of a working tree travels to a cluster: counted before anything is sent, and held against what the job needs.

jobs/runtime_env.yaml and .rayignore say what travels; Ray's own packager is asked, so that what is shown is what is
sent.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycadian.cluster import prepare_client
from raycadian.files import path_inside, read_yaml
from raycadian.matching import matching

RUNTIME_ENV = Path("jobs/runtime_env.yaml")
MAX_BYTES = 100_000_000  # a tree of code is 1 MB; Ray itself refuses packages above 512 MiB
_SHARED = "put it on storage that every node sees and write its absolute path there, e.g. /mnt/raycadian/data/x.csv"


@dataclass(frozen=True)
class Upload:
    """`files`: path in the tree -> bytes."""

    root: Path
    runtime_env: dict[str, Any]
    files: Mapping[Path, int]

    @property
    def bytes(self) -> int:
        return sum(self.files.values())

    def __str__(self) -> str:
        return f"{len(self.files)} files, {_mb(self.bytes)}"

    def has(self, path: Path) -> bool:
        """Whether the file, or something below the folder, travels. `path`: relative to the root."""
        path = Path(os.path.normpath(path))
        return path in self.files or any(path in file.parents for file in self.files)


def plan(root: Path) -> Upload:
    """What a submission from `root` sends. Raises ValueError where it isn't a working tree, where the upload is larger
    than MAX_BYTES, or where a link would take along what lies outside of the tree."""
    if not (root / RUNTIME_ENV).is_file():
        raise ValueError(f"{root} has no {RUNTIME_ENV}: submit from the root of a raycadian working tree")
    env = read_yaml(root / RUNTIME_ENV)
    env["working_dir"] = str(root / env["working_dir"])
    env["py_modules"] = [str(root / module) for module in env["py_modules"]]
    upload = Upload(root, env, {path.relative_to(root): path.stat().st_size for path in _travellers(env)})
    _require_inside(upload)
    _require_small(upload)
    return upload


def _travellers(env: dict[str, Any]) -> Iterator[Path]:
    """The files that Ray's packager takes, by its own walk: .gitignore, .rayignore, excludes and its defaults."""
    prepare_client()
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    obey_gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    folders = {env["working_dir"]: get_runtime_env_default_excludes() + env["excludes"]}
    folders |= dict.fromkeys(env["py_modules"], env["excludes"])
    for folder, excludes in folders.items():
        paths: list[Path] = []
        _dir_travel(Path(folder), [_get_excludes(Path(folder), excludes)], paths.append, obey_gitignore)
        yield from (path for path in paths if path.is_file())


def _require_inside(upload: Upload) -> None:
    for file in upload.files:
        try:
            path_inside(upload.root, file)
        except ValueError:
            raise ValueError(
                f"{file} is reached by a link that leaves the working tree: add the link to .rayignore"
            ) from None


def _require_small(upload: Upload) -> None:
    if upload.bytes > MAX_BYTES:
        largest = sorted(upload.files.items(), key=lambda item: -item[1])[:5]
        named = ", ".join(f"{path} ({_mb(size)})" for path, size in largest)
        raise ValueError(
            f"the upload would be {upload}; at most {_mb(MAX_BYTES)}. Largest: {named}. Name what the job doesn't need "
            "in .rayignore; data belong on storage that every node sees"
        )


def recipe_data(upload: Upload, path: str, overrides: tuple[str, ...]) -> list[str]:
    """What a recipe needs on the cluster, in words. Raises ValueError for a recipe that isn't right, and for what it
    names that lies here and wouldn't be there."""
    from raycadian.config import Transfer, load_recipe

    recipe = load_recipe(_uploaded(upload, path), overrides)
    for named in (text for text in _strings(recipe.model_dump(mode="json")) if "/" in text):
        if not Path(named).is_absolute() and (upload.root / named).exists() and not upload.has(Path(named)):
            raise ValueError(f"{path} names {named}, which is not uploaded: {_SHARED}")
    cards = [recipe.dataset, *([recipe.experiment.other] if isinstance(recipe.experiment, Transfer) else [])]
    return [line for card in cards for line in card_data(upload, card)]


def card_data(upload: Upload, path: str) -> list[str]:
    """Where the files of a card must lie, in words. Raises ValueError for those that a job could not find."""
    from raycadian.modalities.cards import load_card

    card = load_card(_uploaded(upload, path))
    table = getattr(card, "clinical", None)  # of biosignals
    named = [*card.files, *([table.file] if table is not None and table.file is not None else [])]
    return [_data(upload, Path(path), pattern) for pattern in named]


def _data(upload: Upload, card: Path, pattern: str) -> str:
    if Path(pattern).is_absolute():
        return f"data: {pattern} is not uploaded; it must lie there on the cluster, for every node"
    pattern = os.path.normpath(card.parent / pattern)
    try:
        path_inside(upload.root, pattern)
    except ValueError:
        raise ValueError(
            f"{card} names {pattern}, which lies outside of the working tree and is not uploaded: {_SHARED}"
        ) from None
    files = [path.relative_to(upload.root) for path in sorted(matching(upload.root, pattern))]
    if not files:
        raise ValueError(f"{card}: no file matches {pattern}; correct `files`")
    stays = [path for path in files if not upload.has(path)]
    if stays:
        raise ValueError(f"{card} names {stays[0]}, which .gitignore or .rayignore keeps here: {_SHARED}")
    return f"data: {pattern} travels with the upload ({_mb(sum(upload.files[path] for path in files))})"


def _uploaded(upload: Upload, path: str) -> Path:
    """`path` below the root, if it travels: on the cluster it means the same. Raises ValueError."""
    if Path(path).is_absolute() or not upload.has(Path(path)):
        raise ValueError(f"{path} is not in the upload: name a file of the working tree, relative to {upload.root}")
    return upload.root / path


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
