# SPDX-License-Identifier: BSD-3-Clause
"""Opening, half-closing, resetting, overflowing, dying: each end sees what the RFC and POSIX promise."""
import errno
import os
import time

import pytest

import lab as laboratory
from lab import ENGINE, PEER, Agent, AgentError, cpu_seconds, resident_kib, wait_until

CYCLES = int(os.environ.get("FLEXTOE_TEST_CYCLES", "20000"))
SLOW = float(os.environ.get("FLEXTOE_TEST_SLOW", "1"))


def live(engine):
    """Connections that are not over: TIME-WAIT does not count, nor what only the application has yet to close."""
    return [c for c in engine.connections() if c["state"] not in ("TIME-WAIT", "LISTEN", "CLOSED")]


def fails(agent, code, *numbers):
    with pytest.raises(AgentError) as e:
        agent(code)
    assert e.value.errno in numbers, f"{code}: {e.value}, not {[errno.errorcode[n] for n in numbers]}"


def test_half_close_by_the_client(pair):
    pair.client("s.sendall(b'q' * 100000); s.shutdown(socket.SHUT_WR)")
    assert pair.server("len(read_all(s))") == 100000
    pair.server.start("s.sendall(b'a' * 3000000); s.close()")
    assert pair.client("len(read_all(s))") == 3000000
    pair.server.result()
    pair.client("s.close()")


def test_half_close_by_the_server(pair):
    pair.server("s.sendall(b'q' * 100000); s.shutdown(socket.SHUT_WR)")
    assert pair.client("len(read_all(s))") == 100000
    pair.client.start("s.sendall(b'a' * 3000000); s.close()")
    assert pair.server("len(read_all(s))") == 3000000
    pair.client.result()
    pair.server("s.close()")


def test_both_close_at_once(pair, engine):
    pair.server.start("s.close()")
    pair.client.start("s.close()")
    pair.server.result()
    pair.client.result()
    wait_until("the connection is gone", lambda: not live(engine), 3)


def test_connection_refused(agents):
    on_engine, on_kernel = agents
    fails(on_kernel, f"connect('{ENGINE}', 9)", errno.ECONNREFUSED)
    fails(on_engine, f"connect('{PEER}', 9)", errno.ECONNREFUSED)
    fails(on_engine, f"connect('{ENGINE}', 9)", errno.ECONNREFUSED)


@pytest.mark.seconds(60)
def test_nobody_at_the_address(agents):
    fails(agents[0], "connect('10.78.0.99', 80, 30)", errno.EHOSTUNREACH, errno.ETIMEDOUT)


@pytest.mark.seconds(60)
def test_backlog_overflow(engine, agents):
    """What does not fit waits outside, and comes in when there is room."""
    on_engine, on_kernel = agents
    on_engine(f"l = listen('{ENGINE}', 7001, 4)")
    on_kernel("c = [socket.socket() for _ in range(14)]")
    on_kernel(f"for x in c: x.setblocking(False); x.connect_ex(('{ENGINE}', 7001))")
    time.sleep(0.7)
    established = on_kernel("len(select.select([], c, [], 0)[1])")
    assert 4 <= established <= 6
    assert engine.stat()["drop_syn_backlog"] > 0
    on_engine.start("a = [l.accept()[0] for _ in range(14)]\nfor x in a: x.sendall(b'hello')")
    on_engine.result(30)
    on_kernel("for x in c: x.settimeout(5)")
    assert on_kernel("[x.recv(5) for x in c]") == [b"hello"] * 14


def test_reset_by_the_kernel(pair, engine):
    pair.kernel("reset(s)")
    fails(pair.engine, "s.recv(10)", errno.ECONNRESET)
    fails(pair.engine, "s.send(b'x'); s.send(b'x')", errno.EPIPE)
    wait_until("the connection is gone", lambda: not live(engine), 2)
    assert engine.stat()["conn_resets_in"] >= 1


def test_reset_by_the_engine(pair, engine):
    pair.engine("reset(s)")
    fails(pair.kernel, "s.recv(10)", errno.ECONNRESET)
    wait_until("the connection is gone", lambda: not live(engine), 2)


def test_close_with_unread_data_resets(pair):
    """RFC 2525 2.17."""
    pair.kernel("s.sendall(b'unread')")
    time.sleep(0.2)
    pair.engine("s.close()")
    fails(pair.kernel, "s.recv(10)", errno.ECONNRESET)


def test_reset_wakes_a_blocked_reader(pair):
    pair.engine.start("s.recv(10)")
    time.sleep(0.2)
    pair.kernel("reset(s)")
    with pytest.raises(AgentError) as e:
        pair.engine.result(3)
    assert e.value.errno == errno.ECONNRESET


def test_killed_application(lab, engine, agents):
    """Its connections are reset and everything of it is free within a second; others do not notice."""
    victim, on_kernel = agents
    other = Agent(lab, daemon=engine)
    other(f"l = listen('{ENGINE}', 7003)")
    on_kernel(f"o = connect('{ENGINE}', 7003)")
    other("s = l.accept()[0]")
    victim(f"l = listen('{ENGINE}', 7002)")
    on_kernel(f"c = [connect('{ENGINE}', 7002) for _ in range(20)]")
    victim("a = [l.accept()[0] for _ in range(20)]")
    on_kernel("c[0].sendall(b'z' * 50000)")
    assert len(live(engine)) >= 21
    victim.kill()
    start = time.monotonic()
    on_kernel("for x in c: x.settimeout(2)")
    got = on_kernel("""
def outcome(x):
    try:
        return x.recv(1)
    except OSError as e:
        return e.errno
""") or on_kernel("[outcome(x) for x in c]")
    assert got == [errno.ECONNRESET] * 20
    assert time.monotonic() - start < 1 * SLOW
    wait_until("its connections are gone", lambda: len(live(engine)) == 1, 1 * SLOW)
    fails(on_kernel, f"connect('{ENGINE}', 7002)", errno.ECONNREFUSED)
    counters = engine.stat()
    assert counters["apps_gone"] >= 1 and counters["app_conns_reset"] >= 20
    again = Agent(lab, daemon=engine)
    again(f"l = listen('{ENGINE}', 7002)")
    on_kernel(f"n = connect('{ENGINE}', 7002)")
    other("s.sendall(b'still here')")
    assert on_kernel("o.recv(20)") == b"still here"


def test_exit_without_close(lab, engine, agents):
    leaver, on_kernel = agents
    leaver(f"l = listen('{ENGINE}', 7004)")
    on_kernel(f"s = connect('{ENGINE}', 7004)")
    leaver("s = l.accept()[0]")
    leaver.process.stdin.close()
    leaver.process.wait(5)
    on_kernel("s.settimeout(3)")
    try:
        assert on_kernel("s.recv(1)") == b""
    except AgentError as e:
        assert e.errno == errno.ECONNRESET
    wait_until("its connection is gone", lambda: not live(engine), 2)


def test_killed_daemon(lab, ns, engine, agents):
    """Applications get an error instead of hanging; a new daemon serves new ones."""
    on_engine, on_kernel = agents
    on_engine(f"l = listen('{ENGINE}', 7005)")
    on_kernel(f"s = connect('{ENGINE}', 7005)")
    on_engine("s = l.accept()[0]")
    on_engine.start("s.recv(1)")
    engine.may_end = True
    engine.stop(kill=True)
    with pytest.raises(AgentError):
        assert on_engine.result(5) == b"", "a read on a dead engine returned data"
        raise AgentError("eof", 0, "the end of the stream is an answer too")
    with pytest.raises(RuntimeError):
        engine.flextoe("stat")
    second = lab.daemon(ns)
    fresh = Agent(lab, daemon=second)
    fresh(f"l = listen('{ENGINE}', 7005)")
    wait_until("the new daemon serves", lambda: _try(on_kernel, f"t = connect('{ENGINE}', 7005, 1)"), 10)


def _try(agent, code):
    try:
        agent(code)
    except AgentError:
        return False
    return True


def test_stopped_daemon_resets(engine, agents):
    """SIGTERM: peers are told."""
    on_engine, on_kernel = agents
    on_engine(f"l = listen('{ENGINE}', 7006)")
    on_kernel(f"s = connect('{ENGINE}', 7006)")
    on_engine("s = l.accept()[0]")
    engine.may_end = True
    assert engine.stop() == 0
    fails(on_kernel, "s.recv(1)", errno.ECONNRESET)


def test_one_process_talks_to_itself(agents):
    on_engine = agents[0]
    on_engine(f"l = listen('{ENGINE}', 7007); a = connect('{ENGINE}', 7007); b = l.accept()[0]")
    on_engine("a.sendall(b'to b'); b.sendall(b'to a')")
    assert on_engine("b.recv(9), a.recv(9)") == (b"to b", b"to a")


@pytest.mark.seconds(150)
@pytest.mark.parametrize("engine", [{"settings": ["time-wait-ms 200"]}], indirect=True, ids=["tap"])
def test_many_cycles_leave_nothing_behind(lab, ns, engine, agents):
    """Connect, transfer, close, 20,000 times in both roles; no port, id, buffer or memory is lost."""
    on_engine, on_kernel = agents

    def cycles(count):
        on_engine(f"l = listen('{ENGINE}', 7008, 512)")
        on_engine.start(f"churn_server(l, {count})")
        on_kernel(f"churn_client(('{ENGINE}', 7008), {count})", 60 * SLOW)
        on_engine.result()
        on_engine("l.close()")
        on_kernel(f"l = listen('{PEER}', 7009, 512)")
        on_kernel.start(f"churn_server(l, {count})")
        on_engine(f"churn_client(('{PEER}', 7009), {count})", 60 * SLOW)
        on_kernel.result()
        on_kernel("l.close()")
        wait_until("all connections are gone", lambda: not engine.connections(), 5 * SLOW)

    def holds():
        return {"daemon fds": len(os.listdir(f"/proc/{engine.pid}/fd")),
                "application fds": len(os.listdir(f"/proc/{on_engine.pid}/fd"))}

    laboratory.sh("ip", "netns", "exec", ns, "sysctl", "-qw", "net.ipv4.tcp_max_tw_buckets=1000",
                  "net.ipv4.ip_local_port_range=1024 65535")
    cycles(max(50, CYCLES // 4))  # tables and buffers that are used in turn have all been touched then
    before, daemon_kib, app_kib = holds(), resident_kib(engine.pid), resident_kib(on_engine.pid)
    cycles(CYCLES // 2)
    assert holds() == before
    grown = resident_kib(engine.pid) - daemon_kib, resident_kib(on_engine.pid) - app_kib
    assert max(grown) < 4096 * SLOW, f"resident memory grew by {grown} KiB (daemon, application)"
    counters = engine.stat()
    assert counters["conns_installed"] == counters["conns_removed"]
    on_engine(f"l = listen('{ENGINE}', 7008)")


@pytest.mark.seconds(30)
def test_idle_costs_nothing(engine, agents):
    """An engine and an application with open connections and nothing to do sleep."""
    on_engine, on_kernel = agents
    on_engine(f"l = listen('{ENGINE}', 7010)")
    on_kernel(f"c = [connect('{ENGINE}', 7010) for _ in range(50)]")
    on_engine("a = [l.accept()[0] for _ in range(50)]")
    time.sleep(0.5)
    before = cpu_seconds(engine.pid), cpu_seconds(on_engine.pid)
    time.sleep(3)
    used = [(now - then) / 3 for now, then in zip((cpu_seconds(engine.pid), cpu_seconds(on_engine.pid)), before)]
    assert max(used) < 0.02 * SLOW, f"idle use of a core: flextoed {used[0]:.1%}, application {used[1]:.1%}"


def test_ping(engine, ns):
    laboratory.sh("ip", "netns", "exec", ns, "ping", "-c", "3", "-i", "0.2", "-W", "2", ENGINE)
    assert engine.stat()["icmp_echo_in"] >= 3


def test_two_engines_side_by_side(lab):
    """Nothing of an engine is global to the machine."""
    for _ in range(2):
        there = lab.namespace()
        daemon = lab.daemon(there)
        server, client = Agent(lab, daemon=daemon), Agent(lab, ns=there)
        server(f"l = listen('{ENGINE}', 80)")
        client(f"s = connect('{ENGINE}', 80)")
        server("s = l.accept()[0]; s.sendall(b'ok')")
        assert client("s.recv(2)") == b"ok"
