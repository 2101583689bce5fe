# SPDX-License-Identifier: BSD-3-Clause
"""Unmodified programs: under `flextoe run` against kernel clients, and as clients against kernel servers."""
import hashlib
import json
import pathlib
import random
import signal
import subprocess

import pytest

from lab import ENGINE, PEER, program, wait_until

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3"


class Sides:
    """A server on one side and a client on the other, of the engine or of the kernel."""

    def __init__(self, lab, ns, engine, engine_serves):
        self.lab, self.ns, self.engine, self.engine_serves = lab, ns, engine, engine_serves
        self.addr = ENGINE if engine_serves else PEER

    def _start(self, on_engine, words, options):
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.STDOUT)
        options.setdefault("cwd", self.lab.dir)
        if on_engine:
            return self.engine.run(*words, **options)
        return self.lab.spawn(*words, ns=self.ns, **options)

    def serve(self, *words, port, seconds=10, **options):
        """Starts the server and waits until its port takes a connection from the kernel's side."""
        log = open(self.lab.dir / f"server-{port}.log", "wb")
        server = self._start(self.engine_serves, words, {"stdout": log, **options})

        def answers():
            assert server.poll() is None, f"{words[0]} ended with status {server.returncode}: {self.log(port)}"
            return subprocess.run(["ip", "netns", "exec", self.ns, "bash", "-c", f"exec 3<>/dev/tcp/{self.addr}/{port}"],
                                  stderr=subprocess.DEVNULL, check=False).returncode == 0
        wait_until(f"{words[0]} listens on {self.addr}:{port}", answers, seconds, 0.1)
        return server

    def log(self, port):
        return (self.lab.dir / f"server-{port}.log").read_text(errors="replace")[-3000:]

    def client(self, *words, seconds=30, **options):
        """Runs the client to its end and returns what it printed."""
        p = self._start(not self.engine_serves, words, options)
        try:
            out = p.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            p.kill()
            out = p.communicate()[0] or b""
            pytest.fail(f"{words[0]} did not end within {seconds} s; it printed: {out.decode(errors='replace')[-3000:]}")
        text = (out or b"").decode(errors="replace")
        assert p.returncode == 0, f"{words[0]} ended with status {p.returncode}: {text[-3000:]}"
        return text

    def used_the_engine(self):
        counters = self.engine.stat()
        assert counters["conns_installed"] > 0 and counters["rx_payload_bytes"] > 0, "nothing went through the engine"


@pytest.fixture(params=[True, False], ids=["serves", "is-client"])
def sides(request, lab, ns, engine):
    s = Sides(lab, ns, engine, request.param)
    yield s
    s.used_the_engine()


@pytest.mark.seconds(40)
def test_memcached(sides):
    words = ["memcached", "-u", "root", "-l", sides.addr, "-p", "11211", "-U", "0"]
    server = sides.serve(*words, port=11211)
    for connections in (1, 50):
        out = sides.client(program("ft-load"), "memcached", "--server", f"{sides.addr}:11211", "--connections", connections,
                           "--keys", "2000", "--get-percent", "70", "--warmup", "0.1", "--seconds", "1.5")
        assert json.loads(out.splitlines()[-1])["operations"] > 1000
    assert server.poll() is None


@pytest.mark.seconds(40)
def test_memcached_with_large_values(sides):
    sides.serve("memcached", "-u", "root", "-l", sides.addr, "-p", "11211", "-U", "0", "-I", "2m", port=11211)
    out = sides.client(program("ft-load"), "memcached", "--server", f"{sides.addr}:11211", "--connections", "4", "--size",
                       "300000", "--keys", "50", "--get-percent", "50", "--warmup", "0.1", "--seconds", "1")
    assert json.loads(out.splitlines()[-1])["operations"] > 50


@pytest.mark.seconds(60)
def test_redis(sides):
    sides.serve("redis-server", "--bind", sides.addr, "--port", "6379", "--save", "", "--protected-mode", "no", port=6379)
    out = sides.client("redis-benchmark", "-h", sides.addr, "-t", "ping,set,get,lpush,lrange_100,mset", "-n", "10000", "-c",
                       "50", "-q", "--csv", seconds=50)
    rows = [line for line in out.splitlines() if line.startswith('"')]
    assert len(rows) >= 7, out
    out = sides.client("redis-benchmark", "-h", sides.addr, "-t", "set,get", "-n", "50000", "-c", "20", "-P", "16", "-q")
    assert "requests per second" in out
    assert "PONG" in sides.client("redis-cli", "-h", sides.addr, "ping")
    big = random.Random(3).randbytes(3000000).hex()
    (sides.lab.dir / "big").write_text(big)
    sides.client("bash", "-c", f"redis-cli -h {sides.addr} -x set big < {sides.lab.dir}/big")
    assert sides.client("redis-cli", "-h", sides.addr, "--raw", "get", "big").strip() == big


@pytest.mark.seconds(60)
@pytest.mark.parametrize("bind", [True, False], ids=["bound", "any-address"])
def test_iperf3(sides, bind):
    """Both directions, 8 streams; without -B the server listens on the IPv6 any-address."""
    sides.serve("iperf3", "-s", "--forceflush", *(["-B", sides.addr] if bind else []), "-p", "5201", port=5201)
    # The probe was a failed test to it: it closes its listener and opens another before the next one.
    wait_until("iperf3 listens again", lambda: sides.log(5201).count("Server listening") > 1, 10)
    for more in ([], ["-R"], ["-P", "8"], ["-P", "8", "-R"]):
        out = sides.client("iperf3", "-c", sides.addr, "-t", "1", "-J", *more)
        report = json.loads(out)
        assert "error" not in report, report["error"]
        assert report["end"]["sum_received"]["bytes"] > 10_000_000, more


@pytest.mark.seconds(40)
def test_python_asyncio(sides):
    sides.serve(PYTHON, HERE / "asyncio_peer.py", "serve", sides.addr, "8888", port=8888)
    out = sides.client(PYTHON, HERE / "asyncio_peer.py", "drive", sides.addr, "8888")
    assert "all good" in out


@pytest.mark.seconds(40)
def test_python_threads(sides):
    sides.serve(PYTHON, HERE / "threads_peer.py", "serve", sides.addr, "8889", port=8889)
    out = sides.client(PYTHON, HERE / "threads_peer.py", "drive", sides.addr, "8889")
    assert "all good" in out


@pytest.mark.seconds(40)
def test_python_http_server(sides):
    data = random.Random(1).randbytes(5_000_000)
    (sides.lab.dir / "file.bin").write_bytes(data)
    sides.serve(PYTHON, "-m", "http.server", "--bind", sides.addr, "8000", port=8000)
    script = ("import hashlib, sys, urllib.request as u\n"
              f"for i in range(20): d = u.urlopen('http://{sides.addr}:8000/file.bin', timeout=10).read()\n"
              "print(hashlib.sha256(d).hexdigest())")
    assert sides.client(PYTHON, "-c", script).strip() == hashlib.sha256(data).hexdigest()


@pytest.mark.seconds(40)
def test_fork_per_connection(sides):
    """The socket accepted by the parent is used by the child."""
    sides.serve(PYTHON, HERE / "threads_peer.py", "fork-serve", sides.addr, "8890", port=8890)
    out = sides.client(PYTHON, HERE / "threads_peer.py", "drive", sides.addr, "8890", "8")
    assert "all good" in out


@pytest.mark.seconds(30)
def test_ordinary_programs_keep_working(lab, engine):
    """What does not touch TCP, or not the engine's addresses, is as before."""
    run = lambda *words: engine.run(*words, stdout=subprocess.PIPE).communicate(timeout=10)[0].decode()  # noqa: E731
    assert run("echo", "hello") == "hello\n"
    assert run("bash", "-c", "ls / | head -1; echo $((6 * 7)) | cat").endswith("42\n")
    assert run(PYTHON, "-c", "import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))") == "b'x'\n"
    loop = ("import socket\nl = socket.create_server(('127.0.0.1', 0))\nc = socket.create_connection(l.getsockname())\n"
            "s = l.accept()[0]; s.sendall(b'kernel'); print(c.recv(10))")
    assert run(PYTHON, "-c", loop) == "b'kernel'\n"


@pytest.mark.seconds(20)
def test_run_without_an_engine_says_so(lab):
    p = subprocess.run([program("flextoe"), "run", "--socket", str(lab.dir / "none.sock"), "--", "true"],
                       capture_output=True, text=True, timeout=10, check=False)
    assert p.returncode != 0 and "no engine" in p.stderr


@pytest.mark.seconds(30)
def test_stopping_with_a_signal(sides):
    """A server ends on SIGTERM as it always does."""
    server = sides.serve("memcached", "-u", "root", "-l", sides.addr, "-p", "11211", "-U", "0", port=11211)
    sides.client(program("ft-load"), "memcached", "--server", f"{sides.addr}:11211", "--keys", "10", "--seconds", "0.2")
    server.send_signal(signal.SIGTERM)
    server.wait(5)
