# SPDX-License-Identifier: BSD-3-Clause
"""Congestion control and ECN, against the Linux kernel as the peer."""
import pytest

from lab import ENGINE, PEER, sh

ECN_ON = {"settings": ("ecn on",)}
DCTCP = {"settings": ("ecn on", "congestion dctcp")}
BYTES = 8000000


def nft(ns, text):
    sh("ip", "netns", "exec", ns, "nft", text)


def mark(ns, direction, every):
    """Every n-th ECN-capable packet the peer receives ("in") or sends ("out") is marked on the way."""
    hook = {"in": "prerouting", "out": "postrouting"}[direction]
    nft(ns, f"add table ip marks; add chain ip marks c {{ type filter hook {hook} priority -400; }}; "
            f"add rule ip marks c ip protocol tcp ip ecn ect0 numgen inc mod {every} == 0 ip ecn set ce")


def ecn_of_the_kernel(ns, value):
    sh("ip", "netns", "exec", ns, "sysctl", "-qw", f"net.ipv4.tcp_ecn={value}")


def connection(engine):
    return [c for c in engine.connections() if c["state"] == "ESTABLISHED"][0]


def test_off_by_default_on_both_sides(pair, engine):
    pair.client("s.sendall(b'x')")
    assert not connection(engine)["ecn"]
    assert connection(engine)["congestion"] == "cubic"
    assert pair.engine("s.getsockopt(6, socket.TCP_CONGESTION, 16)").rstrip(b"\0") == b"cubic"


def test_agreed_to_when_the_kernel_asks(agents, engine, ns):
    on_engine, on_kernel = agents
    ecn_of_the_kernel(ns, 1)
    on_engine(f"l = listen('{ENGINE}', 7200)")
    on_kernel(f"s = connect('{ENGINE}', 7200)")
    on_engine("s = l.accept()[0]")
    assert connection(engine)["ecn"]
    mark(ns, "out", 10)
    on_engine.start(f"len(read_exact(s, {BYTES}))")
    on_kernel(f"s.sendall(b'x' * {BYTES})")
    assert on_engine.result() == BYTES
    assert engine.stat()["rx_ecn_marked"] > 5
    # The kernel heard the echo and reduced: ssthresh is no longer infinite (tcpi_snd_ssthresh).
    assert on_kernel("struct.unpack_from('I', s.getsockopt(6, socket.TCP_INFO, 104), 84)[0]") < 1 << 30


@pytest.mark.parametrize("engine", [ECN_ON], indirect=True)
@pytest.mark.parametrize("name", ["cubic", "reno", "dctcp"])
def test_marks_reduce_our_window(agents, engine, ns, name):
    on_engine, on_kernel = agents
    on_kernel(f"l = listen('{PEER}', 7201)")
    on_engine(f"s = socket.socket(); s.setsockopt(6, socket.TCP_CONGESTION, b'{name}'); s.settimeout(10)\n"
              f"s.connect(('{PEER}', 7201))")
    on_kernel("s = l.accept()[0]; s.settimeout(10)")
    assert connection(engine)["ecn"]
    assert connection(engine)["congestion"] == name
    mark(ns, "in", 20)
    on_kernel.start(f"len(read_exact(s, {BYTES}))")
    on_engine(f"s.sendall(b'x' * {BYTES})")
    assert on_kernel.result() == BYTES
    stat = engine.stat()
    assert stat["ecn_reductions"] > 1
    assert stat["retransmit_bytes"] == 0


@pytest.mark.parametrize("engine", [DCTCP], indirect=True)
def test_dctcp_listener(agents, engine, ns):
    """Exact echo towards a kernel sender with ECN."""
    on_engine, on_kernel = agents
    ecn_of_the_kernel(ns, 1)
    on_engine(f"l = listen('{ENGINE}', 7202)")
    on_kernel(f"s = connect('{ENGINE}', 7202)")
    on_engine("s = l.accept()[0]")
    mark(ns, "out", 10)
    on_engine.start(f"len(read_exact(s, {BYTES}))")
    on_kernel(f"s.sendall(b'x' * {BYTES})")
    assert on_engine.result() == BYTES
    assert connection(engine)["congestion"] == "dctcp"
    assert engine.stat()["rx_ecn_marked"] > 5
