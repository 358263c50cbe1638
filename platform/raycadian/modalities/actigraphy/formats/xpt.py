"""SAS transport files (XPT, version 5), by byte ranges: a row is a record of fixed width, so any stretch can be read
alone.

Layout: SAS Institute, TS-140, The record layout of a data set in SAS transport (XPORT) format. 80-byte headers
(library, member, a descriptor of 140 bytes a variable), then records one behind another, blanks up to a multiple of 80.
Numbers are IBM/360 floats, big-endian; there is no count of rows. Decoded here because no library reads a stretch in
time that does not grow with what lies before it (benchmarks/actigraphy.py); a test compares every value with
pyreadstat's.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

BLOCK_ROWS = 65_536  # so few that a file of 10 MB already fills what one of 1 GB does
_LINE = 80
_LIBRARY = b"HEADER RECORD*******LIBRARY HEADER RECORD!!!!!!!"
_LIBRARY_V8 = b"HEADER RECORD*******LIBV8   HEADER RECORD!!!!!!!"
_MEMBER = b"HEADER RECORD*******MEMBER  HEADER RECORD!!!!!!!"
_NAMES = b"HEADER RECORD*******NAMESTR HEADER RECORD!!!!!!!"
_ROWS = b"HEADER RECORD*******OBS     HEADER RECORD!!!!!!!"
_MOST_COLUMNS = 9_999  # four digits in the header
_FRACTION = np.uint64((1 << 56) - 1)
# sign and exponent byte -> what its fraction is multiplied by: +-16^(exponent - 64) / 2^56
_SCALE = np.concatenate([16.0 ** (np.arange(128) - 64) / 2**56, -(16.0 ** (np.arange(128) - 64)) / 2**56])


@dataclass(frozen=True)
class Variable:
    """A column: where it lies in a record."""

    name: str
    label: str
    is_text: bool
    offset: int
    width: int


@dataclass(frozen=True)
class Xpt:
    """One table. `Xpt.open(path)` reads the headers and checks them against the file's length."""

    path: Path
    table: str
    variables: dict[str, Variable]
    begins_at: int  # byte of the first record
    record_bytes: int
    rows: int

    @classmethod
    def open(cls, path: str | Path) -> "Xpt":
        """Raises ValueError for a file that is no XPT of version 5, is cut off, or contradicts itself."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
        n_bytes = path.stat().st_size
        with path.open("rb") as file:
            table, n_variables, descriptor_bytes = _library(file.read(8 * _LINE), path)
            described = file.read(_padded(n_variables * descriptor_bytes) + _LINE)
        variables = _variables(described, n_variables, descriptor_bytes, path)
        record_bytes = sum(v.width for v in variables.values())
        begins_at = 8 * _LINE + len(described)
        rows = _count(path, begins_at, record_bytes, n_bytes)
        return cls(path, table, variables, begins_at, record_bytes, rows)

    def require(self, *names: str) -> None:
        """Raises ValueError where a column is lacking: the XPT of another table."""
        if lacking := [name for name in names if name not in self.variables]:
            columns = ", ".join(list(self.variables)[:12])
            raise ValueError(
                f"{self.path}: no column {', '.join(lacking)} in table {self.table!r}, which has {columns}, ...; "
                "is it the file of another table?"
            )

    def read(self, names: Sequence[str] | None = None, begin: int = 0, end: int | None = None) -> dict[str, np.ndarray]:
        """Columns of rows [begin, end): numbers (N,) float64, NaN = missing; text (N,) bytes less trailing blanks."""
        names = list(self.variables) if names is None else list(names)
        self.require(*names)
        end = self.rows if end is None else min(end, self.rows)
        n = max(end - begin, 0)
        with self.path.open("rb") as file:
            file.seek(self.begins_at + begin * self.record_bytes)
            data = file.read(n * self.record_bytes)
        if len(data) < n * self.record_bytes:
            raise ValueError(f"{self.path}: ended within row {begin + len(data) // self.record_bytes}; it has changed")
        if _MEMBER in data:
            raise ValueError(f"{self.path}: holds several tables; split it into one file a table")
        records = np.frombuffer(data, self._record(names), n)
        return {
            name: _text(records[name]) if self.variables[name].is_text else _numbers(records[name]) for name in names
        }

    def blocks(
        self, names: Sequence[str], begin: int = 0, end: int | None = None, rows: int = BLOCK_ROWS
    ) -> Iterator[dict[str, np.ndarray]]:
        """`read` in stretches of `rows`: memory doesn't grow with the file."""
        end = self.rows if end is None else min(end, self.rows)
        for first in range(begin, end, rows):
            yield self.read(names, first, min(first + rows, end))

    def frame(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """A whole small table; text as str, '' = missing."""
        columns = self.read(names)
        return pd.DataFrame({k: _decoded(v) if v.dtype.kind == "S" else v for k, v in columns.items()})

    def _record(self, names: Sequence[str]) -> np.dtype:
        """The structured type of a record with these columns: nothing else of it is touched."""
        used = [self.variables[name] for name in names]
        kinds = [f"S{v.width}" if v.is_text else ">u8" if v.width == 8 else ("u1", (v.width,)) for v in used]
        return np.dtype(
            {"names": list(names), "formats": kinds, "offsets": [v.offset for v in used], "itemsize": self.record_bytes}
        )


def ibm_floats(bits: np.ndarray) -> np.ndarray:
    """IBM/360 doubles (N,) uint64 as float64 (N,). A zero fraction under a character (., _, A-Z) is a missing value."""
    fraction = (bits & _FRACTION).view(np.int64)
    values = fraction * _SCALE[(bits >> np.uint64(56)).view(np.int64)]
    values[(fraction == 0) & (bits != 0) & (bits != np.uint64(1 << 63))] = np.nan
    return values


def _numbers(column: np.ndarray) -> np.ndarray:
    """Fields (N,) big-endian, or (N, w) of fewer bytes, whose lowest were cut off in writing."""
    if column.ndim == 2:
        whole = np.zeros((len(column), 8), np.uint8)
        whole[:, : column.shape[1]] = column
        column = whole.view(">u8")[:, 0]
    return ibm_floats(column.astype(np.uint64))


def _text(column: np.ndarray) -> np.ndarray:
    return np.strings.rstrip(column, b" ")


def _decoded(column: np.ndarray) -> np.ndarray:
    return np.char.decode(column, "cp1252", "replace").astype(object)


# --- headers --------------------------------------------------------------------------------------------------------


def _library(head: bytes, path: Path) -> tuple[str, int, int]:
    """The table's name, its number of variables and the bytes of a descriptor."""
    if head.startswith(_LIBRARY_V8):
        raise ValueError(
            f"{path}: a SAS transport file of version 8; NHANES has version 5: write it as version 5 (XPORT)"
        )
    if not head.startswith(_LIBRARY):
        beginning = "a web page" if head.lstrip()[:1] == b"<" else f"{head[:24]!r}"
        raise ValueError(f"{path}: not a SAS transport file (XPT): it begins with {beginning}; download it again")
    lines = [head[i : i + _LINE] for i in range(0, len(head), _LINE)]
    if len(head) < 8 * _LINE or not lines[3].startswith(_MEMBER) or not lines[7].startswith(_NAMES):
        raise ValueError(f"{path}: its headers are cut off or damaged; download it again")
    try:
        n_variables, descriptor_bytes = int(lines[7][54:58]), int(lines[3][74:78])
    except ValueError:
        raise ValueError(f"{path}: its headers don't say how many columns it has; download it again") from None
    if not 1 <= n_variables <= _MOST_COLUMNS or descriptor_bytes not in (136, 140):
        raise ValueError(f"{path}: {n_variables} columns, described in {descriptor_bytes} bytes each: damaged")
    return lines[5][8:16].decode("ascii", "replace").strip(), n_variables, descriptor_bytes


def _variables(described: bytes, n: int, descriptor_bytes: int, path: Path) -> dict[str, Variable]:
    """The columns in the order of the record, which they fill without a gap."""
    if len(described) < _padded(n * descriptor_bytes) + _LINE or not described[-_LINE:].startswith(_ROWS):
        raise ValueError(f"{path}: the descriptions of its {n} columns are cut off or damaged; download it again")
    variables, end = {}, 0
    for i in range(n):
        one = described[i * descriptor_bytes : (i + 1) * descriptor_bytes]
        kind, width = struct.unpack(">h2xh", one[:6])
        name, label = (one[a:b].decode("cp1252", "replace").strip() for a, b in ((8, 16), (16, 56)))
        (offset,) = struct.unpack(">i", one[84:88])
        if kind not in (1, 2) or width < 1 or (kind == 1 and not 2 <= width <= 8) or offset != end or name in variables:
            raise ValueError(f"{path}: column {i + 1} ({name!r}, type {kind}, {width} bytes at {offset}) is damaged")
        variables[name] = Variable(name, label, kind == 2, offset, width)
        end += width
    return variables


def _count(path: Path, begins_at: int, record_bytes: int, n_bytes: int) -> int:
    """Rows: whole records up to blanks that fill the last 80 bytes. Raises ValueError for a file that is cut off."""
    with path.open("rb") as file:
        file.seek(max(begins_at, n_bytes - _LINE - record_bytes))
        tail = file.read()
    rows, rest = divmod(n_bytes - begins_at, record_bytes)
    if n_bytes % _LINE or rest >= _LINE or (rest and tail[-rest:].strip(b" ")):
        raise ValueError(
            f"{path}: cut off after {rows:,} rows: {n_bytes:,} bytes are not {begins_at:,} of headers and whole rows "
            f"of {record_bytes}; download it again"
        )
    filler = (len(tail) - len(tail.rstrip(b" ")) - rest) // record_bytes
    return rows - min(filler, (_LINE - 1 - rest) // record_bytes)


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _LINE) * _LINE
