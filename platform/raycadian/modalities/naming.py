"""What goes wrong while one file is read, whatever library says it: a ValueError that names the file."""

import json
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree.ElementTree import ParseError

import pyarrow as pa
from defusedxml import DefusedXmlException

from raycadian.data.source import DECLARES, NESTED

_SAYS, _MOST = 300, 2000  # characters of what a library says, and of a message: some quote the file


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of ours that name the file keep their words."""
    try:
        yield
    except ConnectionError:
        raise
    except Exception as error:
        if not isinstance(error, ValueError) or not _names(error, path):
            raise ValueError(f"{path}: {_in_words(error)}") from error
        if len(str(error)) > _MOST:
            raise ValueError(f"{str(error)[:_MOST]}...") from error
        raise


def _names(error: Exception, path: Path) -> bool:
    """Whether a message says which file: a UnicodeError has none of ours."""
    return not isinstance(error, UnicodeError) and (str(path) in str(error) or path.name in str(error))


_WORDS: tuple[tuple[type | tuple[type, ...], Callable[..., str]], ...] = (
    (json.JSONDecodeError, lambda error: f"not whole JSON: {error.msg} at line {error.lineno}; export it again"),
    (
        UnicodeDecodeError,
        lambda error: f"byte {error.start} is not {error.encoding} text; save the file as UTF-8",
    ),
    (DefusedXmlException, lambda error: DECLARES),
    (RecursionError, lambda error: NESTED),
    (OSError, lambda error: f"can't be read, truncated or corrupted: {error.strerror or error}"),
    (
        (EOFError, zlib.error, zipfile.BadZipFile, sqlite3.Error),
        lambda error: f"can't be read, truncated or corrupted: {error}",
    ),
    ((pa.ArrowException, ParseError, MemoryError), lambda error: f"can't be understood: {error or 'out of memory'}"),
    (ValueError, str),
    (Exception, lambda error: f"truncated, corrupted or not what it seems: {type(error).__name__}: {error}"),
)


def _in_words(error: Exception) -> str:
    words = next(words for kinds, words in _WORDS if isinstance(error, kinds))
    return words(error)[:_SAYS]
