"""HAProxy's configuration as this version of Ray writes it, with our limits: HAProxy takes it, and says so in JSON."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time

import psutil
import pytest

from raycadian.serving import environment, haproxy
from raycadian.serving.schemas import Problem

pytestmark = pytest.mark.slow  # Ray Serve is imported


@pytest.fixture(scope="module")
def rays(tmp_path_factory):
    """Ray's own configuration for one application with one replica."""
    from ray.serve._private.common import RequestProtocol
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    folder = tmp_path_factory.mktemp("haproxy")
    places = {"socket_path": "a.sock", "server_state_base": "", "server_state_file": "s", "metrics_socket_path": "m"}

    async def write(host):
        config = HAProxyConfig(
            http_options=HTTPOptions(host=host, port=8123), has_received_routes=True, has_received_servers=True,
            **{name: str(folder / place) for name, place in places.items()},
        )  # fmt: skip
        api = HAProxyApi(cfg=config, config_file_path=str(folder / "haproxy.cfg"))
        replica, spare = (ServerConfig(name=n, host="127.0.0.1", port=p) for n, p in (("one", 1), ("spare", 2)))
        backend = BackendConfig(
            name="http-raycadian", path_prefix="/", app_name="raycadian", protocol=RequestProtocol.HTTP,
            servers=[replica], ingress_request_router_servers=[], fallback_server=spare,
        )  # fmt: skip
        api.set_backend_configs({backend.name: backend})
        api._generate_config_file_internal()
        return (folder / "haproxy.cfg").read_text()

    return {host: asyncio.run(write(host)) for host in ("127.0.0.1", "0.0.0.0")}


def test_haproxy_takes_the_configuration_with_limits(rays, tmp_path):
    for config in rays.values():
        limited = haproxy.limited(config, haproxy._error_files(tmp_path), haproxy.connections())
        (tmp_path / "haproxy.cfg").write_text(limited)
        checked = subprocess.run([haproxy._program(), "-c", "-f", tmp_path / "haproxy.cfg"], capture_output=True)
        assert checked.returncode == 0, checked.stderr.decode()
        assert haproxy.limited(limited, {}, 1) == limited  # a reload of what is limited already


def test_what_is_asked_of_no_path_is_a_bad_request(rays, tmp_path):
    """`GET *` had no backend, and was told to come again."""
    limited = haproxy.limited(rays["127.0.0.1"], haproxy._error_files(tmp_path), 100)
    (tmp_path / "haproxy.cfg").write_text(limited.replace(":8123", f":{(port := environment.free_port())}"))
    process = subprocess.Popen([haproxy._program(), "-db", "-f", tmp_path / "haproxy.cfg"], stderr=subprocess.DEVNULL)
    try:
        for line in ("GET *", "OPTIONS *", "GET ?a"):
            head, _, body = _asked(port, f"{line} HTTP/1.1\r\nHost: x\r\n\r\n").partition("\r\n\r\n")
            assert head.startswith("HTTP/1.1 400 ") and json.loads(body)["error"] == "bad_request", line
        for method in ("BREW", "post", "CONNECTX"):
            head, _, body = _asked(port, f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n").partition("\r\n\r\n")
            assert head.startswith("HTTP/1.1 405 ") and json.loads(body)["error"] == "method_not_allowed", method
        assert _asked(port, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").startswith("HTTP/1.1 4")
        assert _asked(port, "GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n").startswith("HTTP/1.1 503 ")
    finally:
        process.kill()
        process.wait()


def _asked(port, text):
    for _ in range(50):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(text.encode())
                answer = b""
                while b"}" not in answer:
                    answer += connection.recv(4000) or b"}"
                return answer.decode()
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise AssertionError("HAProxy did not start")


def test_what_the_limits_are(rays, tmp_path):
    limited = haproxy.limited(rays["127.0.0.1"], haproxy._error_files(tmp_path), 9000)
    for line in (
        "maxconn 9000", f"timeout http-request {haproxy.HEADER_S}s", f"timeout tunnel {haproxy.STREAM_IDLE_S}s",
        "sc0_conn_cur gt 4500", f"sc1_conn_cur gt {haproxy.SOCKETS_OF_CLIENT}", "mode 600",
    ):  # fmt: skip
        assert line in limited, line
    assert "spare" not in limited  # it would queue what no replica can take
    binds = re.findall(r"bind (\S+)", limited)
    assert len(binds) == 3 and all(bind.startswith("127.0.0.1:") for bind in binds)
    (backend,) = re.findall(r"^backend default_backend\n(.*)", limited, re.M)
    assert "status 503" in backend and "404" not in backend


def test_on_a_cluster_prometheus_reaches_the_metrics_and_nobody_the_statistics(rays, tmp_path):
    limited = haproxy.limited(rays["0.0.0.0"], haproxy._error_files(tmp_path), 9000)
    binds = re.findall(r"bind (\S+):", limited + "bind :")
    assert sorted(binds) == ["*", "127.0.0.1"] and re.search(r"frontend prometheus\n\s*bind :\d", limited)


def test_another_text_than_the_known_one_is_refused(rays):
    with pytest.raises(ValueError, match="another version"):
        haproxy.limited(rays["127.0.0.1"].replace("frontend http_frontend", "frontend web"), {}, 9000)


@pytest.mark.parametrize("code", haproxy.ERRORS)
def test_errors_are_json(code):
    head, _, body = haproxy.answer_of(code).partition("\r\n\r\n")
    assert f"Content-Length: {len(body.encode())}\r\n" in head and "application/json" in head
    Problem.model_validate(json.loads(body))
    assert ("Retry-After" in head) == (haproxy.ERRORS[code][0] in (429, 503))


def test_the_program_that_ray_starts_becomes_haproxy(rays, tmp_path):
    """As Ray calls it, with the file in its place; -c checks and ends."""
    config = tmp_path / "haproxy.cfg"
    config.write_text(rays["127.0.0.1"])
    program = environment._program(tmp_path)
    assert program.stat().st_mode & 0o777 == 0o700 and sys.executable in program.read_text()
    bare = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([program, "-c", "-f", config], capture_output=True, env=bare)
    assert done.returncode == 0 and b"haproxy version" in done.stderr, done.stderr
    assert haproxy._MARK in config.read_text()


def test_a_killed_haproxy_is_stood_in_for_until_the_next_is_there(rays, tmp_path):
    """Ray takes five seconds to miss it, in which nothing answered."""
    config, program, port = tmp_path / "haproxy.cfg", environment._program(tmp_path), environment.free_port()
    text = re.sub(r"stats socket \S+", f"stats socket {tmp_path}/a.sock", rays["127.0.0.1"])
    config.write_text(text.replace(":8123", f":{port}"))
    command, request = [program, "-db", "-f", config, "-dR"], "GET / HTTP/1.1\r\n\r\n"  # as Ray calls it
    one = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        assert _asked(port, request).startswith("HTTP/1.1 503 ")
        (watcher,) = psutil.Process(one.pid).children()
        one.kill()
        one.wait()
        assert _asked(port, request).startswith("HTTP/1.1 503 ")  # of the stand-in: nobody has started the next
        assert watcher.is_running()
        (stand_in,) = watcher.children()
        config.write_text(text.replace(":8123", f":{port}"))  # as Ray starts the next
        one = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _, alive = psutil.wait_procs([watcher, stand_in], timeout=10)
        assert not alive and _asked(port, request).startswith("HTTP/1.1 503 ")
    finally:
        below = psutil.Process(one.pid).children()
        config.write_text("")  # nothing to stand in with
        one.kill()
        one.wait()
        psutil.wait_procs(below, timeout=10)
