# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the integration tests: a namespace of the test's own, an engine on a link into it, programs at
both ends. A test is ended after its time (`@pytest.mark.seconds(n)`, else 40) with a sentence, and what fails
shows the engine's log. Environment: FLEXTOE_BUILD, the build directory; FLEXTOE_TEST_MIB, bytes of an integrity
test in MiB (256); FLEXTOE_TEST_CYCLES, of the churn test (20000); FLEXTOE_TEST_SLOW, factor on all times."""
import os
import pathlib
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
import lab as laboratory  # noqa: E402

SLOW = float(os.environ.get("FLEXTOE_TEST_SLOW", "1"))


def pytest_configure(config):
    config.addinivalue_line("markers", "seconds(n): the time the test may take")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """Set-up, test and tear-down share one deadline."""
    mark = item.get_closest_marker("seconds")
    seconds = (mark.args[0] if mark else 40) * SLOW

    def late(signum, frame):
        raise TimeoutError(f"the test took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    place = item.funcargs.get("lab") if hasattr(item, "funcargs") else None
    if report.failed and place is not None:
        for n, daemon in enumerate(place.daemons):
            state = "alive" if daemon.alive() else f"ended with status {daemon.process.returncode}"
            text = daemon.log() if daemon.log_path.exists() else "(gone)"
            if daemon.alive() and call.when == "call":
                try:
                    text += "\n" + daemon.flextoe("ss") + " ".join(f"{k}={v}" for k, v in daemon.stat().items() if v)
                except Exception as e:  # pylint: disable=broad-except
                    text += f"\n(no report: {e})"
            report.sections.append((f"flextoed {n} (pid {daemon.pid}, {state})", text[-20000:]))


@pytest.fixture(scope="session", autouse=True)
def privileged():
    if os.geteuid() != 0:
        pytest.exit("these tests make network namespaces and need root", returncode=1)


@pytest.fixture
def lab():
    with laboratory.Lab() as place:
        yield place


@pytest.fixture
def ns(lab):
    """The kernel peer's namespace."""
    return lab.namespace()


@pytest.fixture
def engine(request, lab, ns):
    """A flextoed on a tap; `@pytest.mark.parametrize("engine", [{…}], indirect=True)` sets Daemon's options."""
    daemon = lab.daemon(ns, **getattr(request, "param", {}))
    yield daemon
    if getattr(daemon, "may_end", False):
        return
    assert daemon.alive(), f"flextoed ended with status {daemon.process.returncode}:\n{daemon.log()}"
    status = daemon.stop()
    assert status == 0, f"flextoed stopped with status {status}:\n{daemon.log()}"


@pytest.fixture
def agents(lab, ns, engine):
    """Python programs: one under `flextoe run`, one on kernel TCP in the namespace."""
    return laboratory.Agent(lab, daemon=engine), laboratory.Agent(lab, ns=ns)


class Pair:
    """One connection between a program on the engine and one on the kernel."""

    def __init__(self, on_engine, on_kernel, engine_listens):
        self.engine, self.kernel = on_engine, on_kernel
        self.server, self.client = (on_engine, on_kernel) if engine_listens else (on_kernel, on_engine)
        addr = laboratory.ENGINE if engine_listens else laboratory.PEER
        self.server(f"l = listen('{addr}')")
        self.port = self.server("l.getsockname()[1]")
        self.client(f"s = connect('{addr}', {self.port})")
        self.server("s = l.accept()[0]; s.settimeout(10)")


@pytest.fixture(params=[True, False], ids=["engine-listens", "kernel-listens"])
def pair(request, agents):
    return Pair(*agents, request.param)
