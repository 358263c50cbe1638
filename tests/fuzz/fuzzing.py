"""Mutated bytes of every format: nothing but a value or a ValueError that names the file, within memory and time.

    FUZZ_MINUTES=20 python tests/fuzz/fuzzing.py [FORMAT ...]      (make fuzz)

prints the inputs a second of each format, and the inputs that gave something else, which it keeps in fuzz-findings/.
"""

import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from seeds import Seed, all_seeds, recognised

MOST_BYTES, MOST_S = 1_000_000_000, 20
FINDINGS = Path("fuzz-findings")
_TOKENS = [
    b"", b"\x00", b"\xff", b"\n", b"\r\n", b",", b";", b"\t", b'"', b"'", b"-", b".", b"0", b"-1", b"nan", b"inf",
    b"1e309", b"-1e309", b"99999999999999999999", b"0.0000001", b"High", b"LO", b"<40", b"1.234,5", b"1,234,567",
    b"\xef\xbb\xbf",
    b"\xff\xfe", b"\xfe\xff", b"\xe9", b"\xf0\x9f\x98\x80", b"<", b">", b"<a>", b"&a;", b"{", b"}", b"[", b"]", b"null",
    b"true", b"0000-00-00", b"9999-12-31 23:59:59", b"1900-01-01", b"2024-03-31T02:30:00", b"24:00:00", b"00:00",
    b"12:60:61", b"+25:00", b"Z", b"\\u0000", b"\\ud800", b"1" * 40, b"A" * 300, b"%s%n", b"=1+1", b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x00\xf0\x7f", b"\x00\x00\xc0\x7f",
]  # fmt: skip
_BUGS = ("IndexError", "KeyError", "TypeError", "AttributeError", "AssertionError", "ZeroDivisionError", "NameError")
Mutation = Callable[[bytearray, random.Random], None]


# --- mutations ------------------------------------------------------------------------------------------------------


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 32))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _token(data: bytearray, rng: random.Random) -> None:
    at, n = rng.randrange(len(data)), rng.choice((0, 0, 1, 3, 8))
    data[at : at + n] = rng.choice(_TOKENS)


def _cell(data: bytearray, rng: random.Random) -> None:
    """One cell of a table, or value of a record, for a token."""
    marks = [i for i, byte in enumerate(data) if byte in b',;\t\n:="']
    if marks:
        i = rng.randrange(len(marks))
        end = marks[i + 1] if i + 1 < len(marks) else len(data)
        data[marks[i] + 1 : end] = rng.choice(_TOKENS)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _delete(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 7, 60, 400))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.choice((1, 5, 60, 400))] * rng.choice((1, 2, 20))


def _line(data: bytearray, rng: random.Random) -> None:
    """Lines exchanged, lost or told again."""
    lines = bytes(data).split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    rng.choice((
        lambda: lines.__setitem__(slice(i, i + 1), [lines[j]]), lambda: lines.insert(i, lines[j]), lambda: lines.pop(i),
        lambda: lines.insert(i, b""), lambda: lines.reverse(),
    ))()  # fmt: skip
    data[:] = b"\n".join(lines)


def _encode(data: bytearray, rng: random.Random) -> None:
    text = bytes(data).decode("latin-1")
    data[:] = text.encode(rng.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8", "utf-8-sig")))


def _number(data: bytearray, rng: random.Random) -> None:
    """Some bytes for a number of theirs, little or big end first: what headers count and size by."""
    at, width = rng.randrange(len(data)), rng.choice((1, 2, 4, 8))
    value = rng.choice((0, 1, -1, 2**31 - 1, 2**15, 255, 2**63 - 1, rng.getrandbits(32))) % 2 ** (8 * width)
    data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))


MUTATIONS: list[Mutation] = [
    _flip,
    _token,
    _token,
    _cell,
    _cell,
    _cell,
    _cut,
    _delete,
    _repeat,
    _line,
    _encode,
    _number,
]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to six mutations."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if data:
            rng.choice(MUTATIONS)(data, rng)
    return bytes(data[:2_000_000])


# --- running --------------------------------------------------------------------------------------------------------


class TooLongError(BaseException):
    """Not to be caught by what is tested."""


@contextmanager
def limits() -> Iterator[None]:
    """A gigabyte more than there is now, and MOST_S seconds of processor."""

    def stop(*_: object) -> None:
        raise TooLongError

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MOST_BYTES, before[1]))
    previous = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
        resource.setrlimit(resource.RLIMIT_AS, before)


@dataclass
class Tally:
    """Of one format: inputs tried, of which were read and which refused, seconds, and what else came."""

    inputs: int = 0
    read: int = 0
    seconds: float = 0.0
    wrong: Counter = field(default_factory=Counter)
    examples: dict[str, bytes] = field(default_factory=dict)

    @property
    def line(self) -> str:
        share, rate = self.read / max(self.inputs, 1), self.inputs / max(self.seconds, 1e-9)
        return f"{self.inputs:7,} inputs, {share:4.0%} read, {rate:6.0f}/s"


def outcome(seed: Seed, content: bytes, folder: Path, as_recognised: bool) -> str:
    """'' where it is read, 'refused' for a ValueError that names the file; else what came."""
    path = seed.write(folder, content)
    try:
        with limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (recognised if as_recognised else seed.read)(path)
    except ValueError as error:
        words = str(error)
        if "input" not in words:
            return f"a ValueError that doesn't name the file: {_kind(words)} at {_where(error)}"
        if any(f": {bug}: " in words for bug in _BUGS) and (place := _ours(error.__cause__)):
            return f"a bug in words: {_kind(words)} at {place}"
        return "refused" if len(words) < 4000 else f"{len(words)} characters of message: {words[:100]}"
    except TooLongError:
        return f"more than {MOST_S} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {_kind(str(error))} at {_where(error)}"
    return ""


def _kind(words: str) -> str:
    """A message without what differs from input to input."""
    return re.sub(r"0x[0-9a-f]+|\d+", "N", words.replace("\n", " "))[:110]


def _ours(error: BaseException | None) -> str:
    """Where one of our lines itself raised; '' where a library did."""
    trace = error.__traceback__ if error else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    ours = trace is not None and "raycadian/" in trace.tb_frame.f_code.co_filename
    return _where(error) if ours and error is not None else ""


def _where(error: BaseException) -> str:
    """The last place of ours in a traceback."""
    place, trace = "?", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        place = f"{Path(name).name}:{trace.tb_lineno}" if "raycadian/" in name else place
        trace = trace.tb_next
    return place


def fuzz(seeds: Iterable[Seed], seconds: float, seed: int, folder: Path) -> dict[str, Tally]:
    """Every format for an equal share of the time."""
    by_format = defaultdict(list)
    for one in seeds:
        by_format[one.format].append(one)
    tallies = {}
    for name, own in by_format.items():
        tallies[name] = _fuzz_format(own, seconds / len(by_format), random.Random(f"{seed} {name}"), folder)
    return tallies


def _fuzz_format(seeds: list[Seed], seconds: float, rng: random.Random, folder: Path) -> Tally:
    tally, began = Tally(), time.perf_counter()
    while time.perf_counter() - began < seconds:
        one = rng.choice(seeds)
        content = mutated(one.content, rng)
        came = outcome(one, content, folder, as_recognised=rng.random() < 0.3)
        tally.inputs += 1
        tally.read += not came
        if came not in ("", "refused"):
            tally.wrong[came] += 1
            tally.examples.setdefault(f"{came}|{one.suffix}", content)
    tally.seconds = time.perf_counter() - began
    return tally


def main() -> None:
    minutes, seed = float(os.environ.get("FUZZ_MINUTES", "20")), int(os.environ.get("FUZZ_SEED", time.time()))
    print(f"{minutes:g} minutes, FUZZ_SEED={seed}")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        seeds = [one for one in all_seeds(folder) if not sys.argv[1:] or one.format in sys.argv[1:]]
        tallies = fuzz(seeds, 60 * minutes, seed, folder)
    for name, tally in tallies.items():
        print(f"{name:16s} {tally.line}", *(f"\n    {n} x {came}" for came, n in tally.wrong.most_common()))
        for number, (key, content) in enumerate(tally.examples.items()):
            FINDINGS.mkdir(exist_ok=True)
            (FINDINGS / f"{name}-{number}{key.rpartition('|')[2]}").write_bytes(content)
    total = sum(tally.inputs for tally in tallies.values())
    print(f"all {total:,} inputs, {total / sum(t.seconds for t in tallies.values()):.0f}/s")
    sys.exit(any(tally.wrong for tally in tallies.values()))


if __name__ == "__main__":
    main()
