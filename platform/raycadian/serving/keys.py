"""The server's key: from the environment, or a file of this machine's user."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from raycadian.personal.store import digest
from raycadian.serving.told import tell, told

KEY_VARIABLE = "RAYCADIAN_API_KEY"
KEY_FILE = Path("~/.config/raycadian/api_key")
_KEY_CHARACTERS = 16  # at least
_PLACE = "raycadian_api_key_sha256"


def api_key() -> str:
    """The server's key: from the environment, else from a file that only its owner reads, made on first use.

    Raises ValueError for a key that is too short or a file that others may read.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key is None:
        key = _key_in(KEY_FILE.expanduser())
    if len(key) < _KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        raise ValueError(
            f"{key_source()}: a key has {_KEY_CHARACTERS} or more printable ASCII characters; found {len(key)}"
        )
    return key


def share(key: str) -> None:
    """Let replicas on the connected cluster know the key by its hash. What a deployment is declared with is written to
    Ray's logs, the cluster's own memory is not."""
    tell(_PLACE, digest(key))


def shared() -> str:
    """The hash that `share` left on this cluster. Raises ValueError."""
    return told(_PLACE)


def key_source() -> str:
    """Where the key comes from."""
    return f"environment {KEY_VARIABLE}" if KEY_VARIABLE in os.environ else str(KEY_FILE)


def _key_in(path: Path) -> str:
    """The key in a file, made whole or not at all where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
        with suppress(FileExistsError):  # another process was quicker: its key stands
            os.link(temporary, path)
        temporary.unlink()
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ValueError(f"{path}: others may read the key (mode {mode:o}); run `chmod 600 {path}`")
    return path.read_text(encoding="utf-8").strip()
