# SPDX-License-Identifier: BSD-3-Clause
"""What routers on the way say: path MTU and errors, from the kernel as the router."""
import errno

import pytest

from lab import PEER, Agent, AgentError, sh

FAR = "10.79.0.2"
ROUTED = {"settings": (f"route 10.79.0.0/24 via {PEER}", "all-routes on")}


@pytest.fixture
def far(lab, ns, engine):
    """A program behind the kernel's end of the link, which routes over a narrow one."""
    name = lab.namespace()
    lab.veth(ns, "10.79.0.1/24", name, f"{FAR}/24", mtu=1000)
    sh("ip", "-n", name, "link", "set", "veth0", "mtu", "1500")
    sh("ip", "netns", "exec", ns, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    sh("ip", "-n", name, "route", "add", "10.78.0.0/24", "via", "10.79.0.1")
    return Agent(lab, ns=name)


@pytest.mark.parametrize("engine", [ROUTED], indirect=True)
def test_path_mtu(lab, engine, far):
    far(f"l = listen('{FAR}', 7100)")
    on_engine = Agent(lab, daemon=engine)
    on_engine(f"s = connect('{FAR}', 7100)")
    far("a = l.accept()[0]; a.settimeout(10)")
    far.start("hashlib.sha256(read_exact(a, 3000000)).hexdigest()")
    on_engine("import hashlib; data = os.urandom(3000000); s.sendall(data)")
    assert far.result() == on_engine("hashlib.sha256(data).hexdigest()")
    stat = engine.stat()
    assert stat["pmtu_lowered"] == 1
    assert [c["mss"] for c in engine.connections() if c["remote"] == f"{FAR}:7100"] == [1000 - 52]
    # The next one knows.
    on_engine(f"s2 = connect('{FAR}', 7100)")
    assert on_engine("s2.getsockopt(6, socket.TCP_MAXSEG)") == 1000 - 52


@pytest.mark.parametrize("engine", [ROUTED], indirect=True)
def test_unreachable_ends_an_attempt(lab, engine, ns, far):
    on_engine = Agent(lab, daemon=engine)
    sh("ip", "-n", ns, "route", "add", "unreachable", "10.79.0.77/32")
    with pytest.raises(AgentError) as e:
        on_engine("connect('10.79.0.77', 80)")
    assert e.value.errno == errno.EHOSTUNREACH
