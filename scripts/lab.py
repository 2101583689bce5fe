# SPDX-License-Identifier: BSD-3-Clause
"""Namespaces, links and processes for the demo and the integration tests.

A Lab owns network namespaces of unique names and the processes started in them, and takes all of it away in
close(), which also runs at interpreter exit. Processes die with the one that started them (PR_SET_PDEATHSIG).
"""
import atexit
import ctypes
import itertools
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("FLEXTOE_BUILD", ROOT / "build"))
ENGINE = "10.78.0.2"
PEER = "10.78.0.1"

_counter = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


def program(name):
    """A program of the build, by its file name."""
    for place in ("", "src/daemon", "src/cli", "bench", "src/host"):
        path = BUILD / place / name
        if path.is_file():
            return str(path)
    raise FileNotFoundError(f"{name} is not in {BUILD}: build first (make build)")


def sh(*words, check=True):
    p = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if check and p.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {p.stderr.strip() or p.returncode}")
    return p.stdout


def cpu_seconds(pid):
    """Processor time of a process so far, in nanosecond steps."""
    return time.clock_gettime((~pid) << 3 | 2)


def resident_kib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def wait_until(what, condition, seconds=5.0, step=0.02):
    """Polls until condition() is true and returns its value; fails with a sentence otherwise."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(step)


def readable(file, seconds):
    """Waits for input; poll() and not select(), which takes no descriptor above 1023."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(max(0, seconds) * 1000))


def _in_child():
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Lab:
    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="flextoe-lab-"))
        self.namespaces = []
        self.processes = []
        self.daemons = []
        self.closed = False
        atexit.register(self.close)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def namespace(self):
        name = f"ftt-{os.getpid()}-{next(_counter)}"
        sh("ip", "netns", "add", name)
        self.namespaces.append(name)
        sh("ip", "-n", name, "link", "set", "lo", "up")
        return name

    def veth(self, ns_a, addr_a, ns_b, addr_b, name="veth0", mtu=None):
        sh("ip", "link", "add", name, "netns", ns_a, "type", "veth", "peer", "name", name, "netns", ns_b)
        for ns, addr in ((ns_a, addr_a), (ns_b, addr_b)):
            if addr:
                sh("ip", "-n", ns, "addr", "add", addr, "dev", name)
            if mtu:
                sh("ip", "-n", ns, "link", "set", name, "mtu", str(mtu))
            sh("ip", "-n", ns, "link", "set", name, "up")

    def spawn(self, *words, ns=None, cpu=None, env=None, **popen):
        """Starts a program; its pid is the program's own, whatever stands before it."""
        line = [str(w) for w in words]
        if cpu is not None:
            line = ["taskset", "-c", str(cpu)] + line
        if ns:
            line = ["ip", "netns", "exec", ns] + line
        popen.setdefault("stdin", subprocess.DEVNULL)
        p = subprocess.Popen(line, env={**os.environ, **(env or {})}, preexec_fn=_in_child, **popen)
        self.processes.append(p)
        return p

    def daemon(self, ns, **options):
        d = Daemon(self, ns, **options)
        self.daemons.append(d)
        return d

    def close(self):
        if self.closed:
            return
        self.closed = True
        atexit.unregister(self.close)
        engines = [d.process for d in self.daemons]
        for group in ([p for p in self.processes if p not in engines], engines):
            for p in group:
                if p.poll() is None:
                    p.terminate()
            for p in group:
                try:
                    p.wait(3)
                except subprocess.TimeoutExpired:
                    p.kill()
                    p.wait()
                for pipe in (p.stdin, p.stdout, p.stderr):
                    if pipe:
                        try:
                            pipe.close()
                        except OSError:
                            pass
        for name in self.namespaces:
            sh("ip", "netns", "del", name, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)


class Daemon:
    """A flextoed on a tap whose kernel end lies in a namespace, or on AF_XDP over veth into it."""

    def __init__(self, lab, ns, settings=(), device="tap", device_options="", cpu=None, env=None, seconds=10):
        self.lab = lab
        self.ns = ns
        n = next(_counter)
        self.socket = str(lab.dir / f"engine{n}.sock")
        self.log_path = lab.dir / f"engine{n}.log"
        config = lab.dir / f"engine{n}.conf"
        run_in = None
        if device == "tap":
            first = f"device tap ftt{os.getpid() % 100000}x{n} netns {ns} peer {PEER}/24 {device_options}"
        elif device == "afxdp":
            run_in = lab.namespace()
            lab.veth(ns, f"{PEER}/24", run_in, None, name=f"vx{n}")
            first = f"device afxdp vx{n} exclusive on trust-checksum on {device_options}"
        else:
            raise ValueError(device)
        lines = [first, f"address {ENGINE}/24", f"socket {self.socket}", *settings]
        config.write_text("# made by scripts/lab.py\n" + "".join(line + "\n" for line in lines))
        self.config = config
        self._log = open(self.log_path, "ab")
        start = time.monotonic()
        self.process = lab.spawn(program("flextoed"), "--config", config, ns=run_in, cpu=cpu, env=env,
                                 stdout=subprocess.PIPE, stderr=self._log)
        line = b""
        while not line.startswith(b"ready"):
            if not readable(self.process.stdout, start + seconds - time.monotonic()):
                raise TimeoutError(f"flextoed was not ready within {seconds} s; its log:\n{self.log()}")
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"flextoed ended with status {self.process.wait()}; its log:\n{self.log()}")
        self.startup_s = time.monotonic() - start

    @property
    def pid(self):
        return self.process.pid

    @property
    def env(self):
        return {"FLEXTOE_SOCKET": self.socket}

    def alive(self):
        return self.process.poll() is None

    def log(self):
        return self.log_path.read_text(errors="replace")

    def run(self, *words, **options):
        """Starts a program under `flextoe run`."""
        env = {**self.env, **options.pop("env", {})}
        return self.lab.spawn(program("flextoe"), "run", "--", *words, env=env, **options)

    def flextoe(self, *words):
        p = subprocess.run([program("flextoe"), *words], env={**os.environ, **self.env}, capture_output=True,
                           text=True, timeout=20)
        if p.returncode != 0:
            raise RuntimeError(f"flextoe {' '.join(words)}: {p.stderr}")
        return p.stdout

    def stat(self):
        """All counters by name."""
        report = json.loads(self.flextoe("stat", "--json"))
        return flatten_counters(report)

    def connections(self):
        report = json.loads(self.flextoe("ss", "--json"))
        return report["connections"] if isinstance(report, dict) else report

    def stop(self, kill=False):
        (self.process.kill if kill else self.process.terminate)()
        return self.process.wait(10)


def flatten_counters(report):
    """{"counters": {...}} or nested groups: every number by its own name."""
    flat = {}

    def walk(node):
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value)
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                flat[key] = value
    walk(report)
    return flat


class Agent:
    """A Python program at the far end of a pipe that does what the test tells it, line by line.

    agent("expression or statements") evaluates it there and returns the value; an exception comes back as
    AgentError with its type's name and errno.
    """
    SCRIPT = ROOT / "tests" / "net" / "agent.py"

    def __init__(self, lab, daemon=None, ns=None, cpu=None, env=None):
        words = ["/usr/bin/python3", self.SCRIPT]
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cpu": cpu, "env": env or {}}
        self.process = daemon.run(*words, **options) if daemon else lab.spawn(*words, ns=ns, **options)
        self("1")

    @property
    def pid(self):
        return self.process.pid

    def start(self, code):
        """Tells it to do something that takes its time; result() waits for the value."""
        self.process.stdin.write(json.dumps(code).encode() + b"\n")
        self.process.stdin.flush()

    def result(self, seconds=20):
        if not readable(self.process.stdout, seconds):
            raise TimeoutError(f"no answer from the program (pid {self.pid}) within {seconds} s")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the program ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise AgentError(answer["error"], answer["errno"], answer["text"])
        return eval(answer["value"])  # pylint: disable=eval-used; repr() of plain values from our own child

    def __call__(self, code, seconds=20):
        self.start(code)
        return self.result(seconds)

    def kill(self):
        self.process.kill()
        self.process.wait()


class AgentError(Exception):
    def __init__(self, kind, number, text):
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.errno = number
