# SPDX-License-Identifier: BSD-3-Clause
"""Socket options that act in TCP, against the Linux kernel as the peer."""
import errno
import time

import pytest

from lab import PEER, ENGINE, AgentError, sh, wait_until


def counter(engine, name):
    return engine.stat()[name]


def cut(ns):
    """The peer's end hears and says nothing more."""
    sh("ip", "netns", "exec", ns, "nft", "add table inet cut; "
       "add chain inet cut in { type filter hook input priority -300; }; "
       "add chain inet cut out { type filter hook output priority -300; }; "
       "add rule inet cut in ip protocol tcp drop; add rule inet cut out ip protocol tcp drop")


def test_keepalive_is_answered_by_the_kernel(pair, engine):
    pair.engine("s.setsockopt(6, socket.TCP_KEEPIDLE, 1); s.setsockopt(6, socket.TCP_KEEPINTVL, 1)\n"
                "s.setsockopt(6, socket.TCP_KEEPCNT, 2); s.setsockopt(1, socket.SO_KEEPALIVE, 1)")
    wait_until("probes are sent", lambda: counter(engine, "keepalive_probes") >= 3, 8)
    pair.engine("s.sendall(b'alive')")
    assert pair.kernel("read_exact(s, 5)") == b"alive"
    assert counter(engine, "conn_timeouts") == 0


def test_keepalive_finds_a_silent_peer(pair, engine, ns):
    pair.engine("s.setsockopt(1, socket.SO_KEEPALIVE, 1); s.setsockopt(6, socket.TCP_KEEPIDLE, 1)\n"
                "s.setsockopt(6, socket.TCP_KEEPINTVL, 1); s.setsockopt(6, socket.TCP_KEEPCNT, 2)")
    cut(ns)
    start = time.monotonic()
    pair.engine.start("s.settimeout(None); s.recv(1)")
    with pytest.raises(AgentError) as e:
        pair.engine.result(10)
    assert e.value.errno == errno.ETIMEDOUT
    assert 2.5 < time.monotonic() - start < 7


def test_the_kernels_keepalive_is_answered(pair):
    pair.kernel("s.setsockopt(1, socket.SO_KEEPALIVE, 1); s.setsockopt(6, socket.TCP_KEEPIDLE, 1)\n"
                "s.setsockopt(6, socket.TCP_KEEPINTVL, 1); s.setsockopt(6, socket.TCP_KEEPCNT, 1)")
    time.sleep(4)
    pair.kernel("s.sendall(b'x')")
    assert pair.engine("read_exact(s, 1)") == b"x"


def test_user_timeout(pair, engine, ns):
    pair.engine("s.setsockopt(6, 18, 1500)")
    time.sleep(2)  # idle time does not count
    pair.engine("s.sendall(b'a')")
    assert pair.kernel("read_exact(s, 1)") == b"a"
    cut(ns)
    start = time.monotonic()
    pair.engine.start("s.settimeout(None); s.sendall(b'b'); s.recv(1)")
    with pytest.raises(AgentError) as e:
        pair.engine.result(10)
    assert e.value.errno == errno.ETIMEDOUT
    assert 1.4 < time.monotonic() - start < 2.5
    assert counter(engine, "conn_timeouts") == 1


def test_user_timeout_of_a_connect(agents, ns):
    cut(ns)
    agents[0]("s = socket.socket(); s.setsockopt(6, 18, 1200)")
    start = time.monotonic()
    with pytest.raises(AgentError) as e:
        agents[0](f"s.connect(('{PEER}', 80))")
    assert e.value.errno == errno.ETIMEDOUT
    assert 1.0 < time.monotonic() - start < 2.5


def test_syn_count(agents, ns):
    cut(ns)
    agents[0]("s = socket.socket(); s.setsockopt(6, socket.TCP_SYNCNT, 1)")
    start = time.monotonic()
    with pytest.raises(AgentError) as e:
        agents[0](f"s.connect(('{PEER}', 80))")
    assert e.value.errno == errno.ETIMEDOUT
    assert 2.5 < time.monotonic() - start < 4.5  # 1 + 2 seconds


@pytest.mark.parametrize("more", ["cork", "flag"])
def test_corked_bytes_leave_together(pair, engine, more):
    pair.engine("s.setsockopt(6, socket.TCP_NODELAY, 1)")
    if more == "cork":
        pair.engine("s.setsockopt(6, socket.TCP_CORK, 1)")
    flags = 0 if more == "cork" else "socket.MSG_MORE"
    before = counter(engine, "tx_segments")
    pair.engine(f"for _ in range(10): s.send(b'x' * 100, {flags})\n"
                + ("s.setsockopt(6, socket.TCP_CORK, 0)" if more == "cork" else "s.send(b'x' * 100)"))
    total = 1000 if more == "cork" else 1100
    assert pair.kernel(f"read_exact(s, {total})") == b"x" * total
    assert counter(engine, "tx_segments") - before == 1


def test_a_cork_holds_for_200_ms(pair):
    pair.engine("s.setsockopt(6, socket.TCP_CORK, 1)")
    pair.kernel.start("t = time.monotonic(); s.recv(10)\nd = time.monotonic() - t")
    pair.engine("s.send(b'x')")
    pair.kernel.result()
    assert 0.15 < pair.kernel("d") < 0.6


def test_close_lingers(pair, ns):
    pair.engine("s.setsockopt(1, socket.SO_LINGER, struct.pack('ii', 1, 1)); s.settimeout(None)")
    cut(ns)
    pair.engine("s.send(b'x'); t = time.monotonic(); s.close(); d = time.monotonic() - t")
    assert 0.9 < pair.engine("d") < 2


def test_maxseg_bounds_both_directions(agents):
    on_engine, on_kernel = agents
    on_engine(f"l = socket.socket(); l.setsockopt(6, socket.TCP_MAXSEG, 900); l.bind(('{ENGINE}', 0)); l.listen()")
    port = on_engine("l.getsockname()[1]")
    on_kernel(f"s = connect('{ENGINE}', {port})")
    on_engine("s = l.accept()[0]")
    assert on_kernel("s.getsockopt(6, socket.TCP_MAXSEG)") <= 900
    assert on_engine("s.getsockopt(6, socket.TCP_MAXSEG)") <= 900


def test_tos_and_ttl_are_on_the_wire(pair, ns):
    sh("ip", "netns", "exec", ns, "nft", "add table inet see; "
       "add chain inet see in { type filter hook input priority -300; }; "
       "add counter inet see right; "
       "add rule inet see in ip dscp 0x0a ip ttl 9 tcp flags & psh == psh counter name right")
    pair.engine("s.setsockopt(0, socket.IP_TOS, 0x28); s.setsockopt(0, socket.IP_TTL, 9); time.sleep(0.1)\n"
                "s.sendall(b'x')")
    assert pair.kernel("read_exact(s, 1)") == b"x"
    assert "packets 1 " in sh("ip", "netns", "exec", ns, "nft", "list", "counter", "inet", "see", "right")
