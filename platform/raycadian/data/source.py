"""Files from strangers: opened with limits, looked at before they are trusted; of tables the header and first rows."""

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

HEAD_BYTES = 64 * 1024
MAX_BYTES = 20 * 1024**3  # decompressed; a CGM of one person is about 3 MB a year
MAX_RATIO = 200  # CSV of glucose compresses 5 to 30 times; beyond this it is a bomb
_RATIO_FROM = 64 * 1024**2  # small files may compress as they like
MAX_RECORDS = 10_000_000  # of one person's file: 95 years of a reading every 5 minutes, 19 of one every minute
MAX_POINTS = 20 * 366 * 1440  # of one person's grid of minutes
_LEAST_GZIP, _DEFLATES = 18, 1040  # bytes of header and trailer; what cut off gzip says is rarely within 1032 times
_ROWS_A_BYTE = 100  # of a Parquet table, whose times alone don't compress that far
LONGEST_NAME = 500  # characters of a column's name; SQL has at most 63, units and words of exports some more
DECLARES = "declares entities or a document type, which are never read; export it again"  # of XML
NESTED = "nested too deeply for a file of readings; export it again"
DEEPEST = 64  # elements of XML in one another
_SUFFIXES = re.compile(r"(\.(csv|tsv|txt|json|ndjson|xml|parquet|gz|xlsx?|xlsm|xlsb|ods|zip))+$", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_UNMARKED = {(1,): "utf-16-le", (0,): "utf-16-be", (1, 2, 3): "utf-32-le", (0, 1, 2): "utf-32-be"}
"""Of text in Latin letters: where among the bytes of each letter the zeros are, two or four to a letter."""
_MOST_PREAMBLE = 40  # lines before a table's header
_LOOKED_AT = 200  # lines of a table that say how many fields its rows have
_MOSTLY_FILLED = 0.5  # of the fields of a header have a name
_NUMERIC = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
_MOMENT = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T,]|$)|\d{1,2}:\d{2}(:\d{2})?$")
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook, which can't be one here; unpack it or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook, which can't be one here; save the sheet as CSV",
    b"%PDF": "a PDF document; export the readings as CSV",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"SQLite format 3": "an SQLite database; export the readings as CSV",
    b"\x89HDF": "an HDF5 file; export the readings as CSV or Parquet",
    b"\x93NUMPY": "a NumPy array; export the readings as CSV or Parquet",
    b"\x80\x04": "a pickle, which is never loaded; export the readings as CSV or Parquet",
    b"\x80\x05": "a pickle, which is never loaded; export the readings as CSV or Parquet",
    b"BZh": "a bzip2 archive; unpack it",
    b"\xfd7zXZ": "an xz archive; unpack it",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive; unpack it",
}


def max_unpacked(packed: int) -> int:
    """Bytes that a file or an archive's member of `packed` bytes may unpack to."""
    return min(MAX_BYTES, max(_RATIO_FROM, MAX_RATIO * packed))


def check_unpacked(unpacked: int, packed: int, where: str | Path) -> None:
    """Raises ValueError for what would unpack to more than its size may hold."""
    if unpacked > (most := max_unpacked(packed)):
        raise ValueError(
            f"{where}: unpacks from {packed:,} to {unpacked:,} bytes, expected at most {most:,}; is it an archive "
            "bomb? Split it into smaller files, or unpack it yourself"
        )


def check_count(n: float, where: str | Path, most: int = MAX_RECORDS, what: str = "records") -> None:
    """Raises ValueError for more records, or points of a grid, than one person's file holds, before the memory is
    asked for."""
    if n > most:
        raise ValueError(f"{where}: {n:,.0f} {what}, at most {most:,}; a time is wrong, or split the file")


def check_table(metadata: Any, path: Path) -> None:
    """Raises ValueError for a Parquet table (`metadata` of its file) that is larger than its file may hold."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    check_unpacked(sum(group.total_byte_size for group in groups), path.stat().st_size, path)
    check_count(metadata.num_rows, path, max(MAX_RECORDS, _ROWS_A_BYTE * path.stat().st_size), "rows")


class _Limited(io.RawIOBase):
    """A stream that ends in a ValueError when it gives more than a file of its size may hold."""

    def __init__(self, stream: BinaryIO, path: Path):
        self._stream, self._path, self._given = stream, path, 0
        self._most = max_unpacked(path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._stream.read(len(buffer))
        self._given += len(data)
        if self._given > self._most:
            raise _too_much(self._path)
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, gunzipped by content, at most MAX_BYTES and MAX_RATIO times its size."""
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        if zipped:
            _check_gzip(raw, path)
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if zipped else raw
        yield io.BufferedReader(_Limited(stream, path), 1024**2)  # type: ignore[arg-type]


def _check_gzip(raw: BinaryIO, path: Path) -> None:
    """Raises ValueError, before anything is unpacked, for what says itself that it unpacks to too much; what lies is
    found while it is."""
    packed = raw.seek(0, io.SEEK_END)
    if packed >= _LEAST_GZIP:
        raw.seek(-4, io.SEEK_END)
        if max_unpacked(packed) < int.from_bytes(raw.read(4), "little") <= _DEFLATES * packed:
            raise _too_much(path)


def _too_much(path: Path) -> ValueError:
    packed = path.stat().st_size
    return ValueError(
        f"{path}: more than {max_unpacked(packed) / 1024**2:.0f} MiB when unpacked from {packed / 1024**2:.2f} MiB; "
        "split it into smaller files, or unpack it yourself"
    )


def read_whole(path: Path, most: int, what: str) -> bytes:
    """The content of a file, decompressed. Raises ValueError for more than `most` bytes of `what`."""
    parts, n = [], 0
    with open_bytes(path) as stream:
        while part := stream.read(1024**2):  # not at once: that would take the memory before it is filled
            check_count(n := n + len(part), path, most, what)
            parts.append(part)
    return b"".join(parts)


@dataclass(frozen=True)
class Layout:
    """How a table lies in its file, where somebody says so. skip_lines: above its header, or its first row · header:
    whether a line names the columns."""

    skip_lines: int | None = None
    header: bool | None = None


@dataclass(frozen=True)
class Source:
    """One file and its first HEAD_BYTES, decompressed."""

    path: Path
    head: bytes
    layout: Layout = Layout()

    @classmethod
    def of(cls, path: Path, layout: Layout | None = None) -> "Source":
        """Raises ValueError for a file that is absent, empty or of a foreign kind."""
        if not path.is_file():
            raise ValueError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
        with open_bytes(path) as stream:
            head = stream.read(HEAD_BYTES)
        if not head.strip():
            raise ValueError(f"{path}: the file is empty")
        for magic, what in _FOREIGN.items():
            if head.startswith(magic):
                raise ValueError(f"{path}: this is {what}")
        return cls(path, head, layout or Layout())

    @property
    def stem(self) -> str:
        return stem_of(self.path)

    @property
    def is_parquet(self) -> bool:
        return self.head.startswith(b"PAR1")

    @cached_property
    def encoding(self) -> str:
        """By byte-order mark; else UTF-16 or 32 by the zeros of its letters; else UTF-8; else Windows-1252, what old
        exports in Western languages use."""
        for mark, name in _BOMS:
            if self.head.startswith(mark):
                return name
        if (name := _unmarked(self.head)) is not None:
            return name
        if _CONTROL.search(self.head):
            raise ValueError(f"{self.path}: neither text nor Parquet (it begins with {self.head[:8]!r})")
        for name in ("utf-8", "cp1252"):
            try:
                codecs.getincrementaldecoder(name)().decode(self.head)
                return name
            except UnicodeDecodeError:
                pass
        raise ValueError(f"{self.path}: neither UTF-8 nor Windows-1252 text; save it as UTF-8")

    @cached_property
    def text(self) -> str:
        """The head as text."""
        return codecs.getincrementaldecoder(self.encoding)().decode(self.head).lstrip("\ufeff")

    @cached_property
    def lines(self) -> list[str]:
        """The head's whole lines; the last may be cut and is left out where others exist."""
        lines = self.text.splitlines()
        return lines[:-1] if len(self.head) == HEAD_BYTES and len(lines) > 1 else lines

    @cached_property
    def first_line(self) -> int:
        """Where the table begins: the line of its columns' names, or of its first row where none names them. The first
        line that is neither blank nor a # comment; below a preamble the first that has as many fields as the rows do.
        Raises ValueError."""
        skipped = self.layout.skip_lines
        numbers = [n for n, line in enumerate(self.lines) if line.strip() and not line.startswith("#")]
        numbers = [n for n in numbers if n >= (skipped or 0)][:_LOOKED_AT]
        if not numbers:
            raise ValueError(f"{self.path}: no header found in its first {len(self.lines)} lines")
        return numbers[0] if skipped is not None else _below_preamble(self.lines, numbers)

    @cached_property
    def has_header(self) -> bool:
        """Whether a line names the table's columns."""
        stated = self.layout.header
        if stated is not None:
            return stated
        lines = [line for line in self.lines[self.first_line : self.first_line + _LOOKED_AT] if line.strip()]
        delimiter = _common_delimiter(lines)
        return not _is_row([split(line, delimiter) for line in lines[:2]])

    @property
    def header_line(self) -> int:
        """The line before the first row: -1 where there is none."""
        return self.first_line if self.has_header else self.first_line - 1

    @cached_property
    def delimiter(self) -> str:
        """What separates the fields of a table."""
        if self.has_header:
            return delimiter_of(self.lines[self.first_line])
        return _common_delimiter(self.lines[self.first_line : self.first_line + _LOOKED_AT])

    @cached_property
    def names(self) -> list[str]:
        """A table's columns; 1, 2, 3 where no line names them."""
        fields = split(self.lines[self.first_line], self.delimiter)
        return fields if self.has_header else [str(n) for n in range(1, len(fields) + 1)]


def _unmarked(head: bytes) -> str | None:
    """UTF-16 or 32 without a mark."""
    head = head[:4096]
    for width in (4, 2):
        shares = [part.count(0) / max(len(part), 1) for part in (head[i::width] for i in range(width))]
        name = _UNMARKED.get(tuple(i for i, share in enumerate(shares) if share > 0.8))
        if name is not None and name.endswith(("16-le", "16-be")) == (width == 2):
            return name
    return None


def require_distinct(names: Sequence[str], path: Path, what: str = "columns") -> None:
    """Raises ValueError where two are called alike."""
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: several {what} are called {twice[0]!r}; rename all but one")


def stem_of(path: Path) -> str:
    """A file's name without the endings of its format."""
    return _SUFFIXES.sub("", path.name) or path.name


def delimiter_of(line: str) -> str:
    """The separator that a line of a table uses most."""
    unquoted = re.sub(r'"[^"]*"', "", line)
    return max(",;\t|", key=unquoted.count)


def split(line: str, delimiter: str) -> list[str]:
    """The fields of one line, unquoted and stripped."""
    plain = line and '"' not in line
    fields = line.split(delimiter) if plain else next(csv.reader([line], delimiter=delimiter), [])
    return [field.strip() for field in fields]


def _width(line: str, delimiter: str) -> int:
    """As many fields as `split` gives: hundreds of lines of each file are counted, for each separator."""
    return line.count(delimiter) + 1 if '"' not in line else len(split(line, delimiter))


def header_at(source: Source) -> int:
    """Number of lines before the header; -1 where the table begins with its first row. Raises ValueError."""
    return source.header_line


def _below_preamble(lines: Sequence[str], numbers: Sequence[int]) -> int:
    delimiter = _common_delimiter([lines[n] for n in numbers])
    rows = [split(lines[n], delimiter) for n in numbers]
    fields = [len(row) for row in rows]
    usual = _most_frequent(fields)
    wider = fields[0] < usual and any(any(row[fields[0] :]) for row in rows[1:])  # else separators behind the rows
    padded = _filled(rows[0]) < _MOSTLY_FILLED * usual  # a title above a sheet, as wide as its rows
    if usual < 2 or len(numbers) < 3 or (fields[0] > 1 and not wider and not padded and fields[0] <= usual):
        return numbers[0]
    beyond = (i for i, row in enumerate(rows[:_MOST_PREAMBLE]) if len(row) == usual)
    header = next((i for i in beyond if not padded or _filled(rows[i]) >= _MOSTLY_FILLED * usual), None)
    if header is None or (fields[0] == usual and _like_rows(rows[0], rows[header])):
        return numbers[0]
    named = sum(not re.search(r"\d", name) for name in rows[header] if name)
    return numbers[header] if named > usual / 2 or _is_row(rows[header:]) else numbers[0]


def _common_delimiter(lines: Sequence[str]) -> str:
    """The separator that cuts most of the lines into equally many fields, more than one; commas may be decimal signs,
    and go last."""

    def agreement(delimiter: str) -> tuple[int, int]:
        counts = [n for line in lines if line.strip() and (n := _width(line, delimiter)) > 1]
        usual = _most_frequent(counts) if counts else 0
        return counts.count(usual), usual

    return max(";\t|,", key=agreement)


def _filled(row: Sequence[str]) -> int:
    return sum(field != "" for field in row)


def _like_rows(first: Sequence[str], header: Sequence[str]) -> bool:
    """Whether a line with empty fields is a row like another one, and no title above it."""
    return any(
        _NUMERIC.fullmatch(a) is not None and _NUMERIC.fullmatch(b) is not None
        for a, b in zip(first, header, strict=False)
    )


def _is_row(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first line's fields are a row like the second's, and name no column: a time and a number where the
    second has them, or numbers alone that don't count columns."""
    if len(rows) < 2:
        return False
    first, second = rows[:2]
    both = list(zip(first, second, strict=False))
    times = any(_MOMENT.match(a) and _MOMENT.match(b) for a, b in both)
    numbers = [a for a, b in both if _NUMERIC.fullmatch(a) and _NUMERIC.fullmatch(b)]
    alone = len(numbers) == len(first) and _no_names(first)
    return len(first) == len(second) and (alone or (times and bool(numbers)))


def _no_names(numbers: Sequence[str]) -> bool:
    """Whether numbers can't be the names of columns: 0, 1, 2, or 1, 2, 3."""
    return not any(list(numbers) == [str(n) for n in range(a, a + len(numbers))] for a in (0, 1))


def _most_frequent(values: Sequence[Any]) -> Any:
    return max(dict.fromkeys(values), key=values.count)


def header_of(source: Source) -> list[str]:
    """The names of a table's columns. Raises ValueError."""
    if source.is_parquet:
        import pyarrow.parquet as pq

        return pq.read_schema(source.path).names
    names = source.names
    if (longest := max(map(len, names), default=0)) > LONGEST_NAME:
        raise ValueError(f"{source.path}: a name of its first line has {longest:,} characters; it is no table")
    return names


def n_fields(source: Source, start: int) -> int:
    """Fields of the rows below the header in line `start`: as many as it has names, and more where nearly every row
    ends in separators with nothing behind them."""
    own = start == source.header_line and not source.has_header
    line = source.lines[source.first_line if own else start]
    delimiter = source.delimiter if own else delimiter_of(line)
    names = len(split(line, delimiter))
    rows = [split(line, delimiter) for line in source.lines[start + 1 : start + 1 + _LOOKED_AT] if line.strip()]
    usual = _most_frequent([len(row) for row in rows]) if rows else names
    return usual if usual > names and all(not any(row[names:]) for row in rows) else names


def first_rows(source: Source) -> dict[str, list[str]]:
    """The rows of a table's first 64 KiB (Parquet: its first 5,000 rows), a list of texts a column, '' where empty.
    Raises ValueError."""
    if source.is_parquet:
        return _first_of_parquet(source)
    start, header = header_at(source), header_of(source)
    whole = (len(header), n_fields(source, start))
    rows = [row for row in csv.reader(source.lines[start + 1 :], delimiter=source.delimiter) if len(row) in whole]
    return {name: [row[i].strip() for row in rows] for i, name in enumerate(header)}


def _first_of_parquet(source: Source) -> dict[str, list[str]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(source.path) as file:
        batch = next(file.iter_batches(5_000), None)
    if batch is None:
        return {name: [] for name in header_of(source)}
    columns = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
    return {name: ["" if v is None else str(v) for v in column.to_pylist()] for name, column in columns.items()}


def shown(names: Sequence[str]) -> str:
    """Columns' names for a message."""
    return ", ".join(map(repr, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
