# SPDX-License-Identifier: BSD-3-Clause
"""Frames nobody should send: each is counted by reason and dropped, or answered as the RFC says, and a
connection beside them goes on."""
import os
import random
import struct
import time

import pytest

import lab as laboratory
from lab import ENGINE, PEER, Agent, resident_kib, wait_until

scapy = pytest.importorskip("scapy.all", reason="needs python3-scapy")
from scapy.all import ARP, ICMP, IP, TCP, UDP, Ether, Raw  # noqa: E402

SECONDS = float(os.environ.get("FLEXTOE_TEST_FUZZ_SECONDS", "4"))


class Wire:
    """A packet socket on the kernel's end of the link."""

    def __init__(self, lab, ns):
        links = [w.split(":")[1].strip().split("@")[0] for w in laboratory.sh("ip", "-n", ns, "-o", "link").splitlines()]
        self.interface = next(name for name in links if name not in ("lo", "tunl0", "sit0", "gre0"))
        self.agent = Agent(lab, ns=ns)
        laboratory.sh("ip", "netns", "exec", ns, "ping", "-c", "1", "-W", "2", ENGINE)
        neighbours = laboratory.sh("ip", "-n", ns, "neigh", "show", ENGINE).split()
        self.engine_mac = neighbours[neighbours.index("lladdr") + 1]
        link = laboratory.sh("ip", "-n", ns, "-o", "link", "show", self.interface).split()
        self.own_mac = link[link.index("link/ether") + 1]
        self.agent(f"p = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); p.bind(('{self.interface}', 0))")

    def send(self, *frames):
        self.agent(f"for f in {[bytes(f) for f in frames]!r}: p.send(f)")

    def ether(self, **fields):
        return Ether(**{"src": self.own_mac, "dst": self.engine_mac, **fields})

    def tcp(self, ip=None, **fields):
        return self.ether() / IP(**{"src": PEER, "dst": ENGINE, **(ip or {})}) / \
            TCP(**{"sport": 4444, "dport": 8000, "seq": 1000, "flags": "S", **fields})

    def replies_to(self, *frames, seconds=1.0):
        """Sends, and returns what TCP came back from the engine within the time."""
        self.agent(f"""
import select as _select
r = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)); r.bind(('{self.interface}', 0x0800))
""")
        self.send(*frames)
        got = self.agent(f"""(lambda end, out: ([out.append(r.recv(65536)) for _ in iter(
            lambda: bool(_select.select([r], [], [], max(0, end - time.monotonic()))[0]), False)], out)[1])(
            time.monotonic() + {seconds}, [])""")
        self.agent("r.close()")
        frames_in = [Ether(f) for f in got]
        return [f for f in frames_in if f.src == self.engine_mac and IP in f and TCP in f]


@pytest.fixture
def wire(lab, ns, engine):
    return Wire(lab, ns)


@pytest.fixture
def beside(lab, ns, engine):
    """A connection that must go on, whatever else is on the wire."""
    server, client = Agent(lab, daemon=engine), Agent(lab, ns=ns)
    server(f"l = listen('{ENGINE}', 8000)")
    client(f"s = connect('{ENGINE}', 8000)")
    server("s = l.accept()[0]; s.settimeout(10)")

    class Beside:
        port = client("s.getsockname()[1]")

        @staticmethod
        def works():
            for a, b in ((server, client), (client, server)):
                a("s.sendall(b'm' * 20000)")
                assert b("read_exact(s, 20000)") == b"m" * 20000
    return Beside


def raw_tcp_options(wire, options, **fields):
    """A SYN whose option bytes are exactly these (padded to words), checksums right."""
    options += b"\0" * (-len(options) % 4)
    header = bytearray(bytes(TCP(sport=4444, dport=8000, seq=1000, flags=fields.get("flags", "S"), window=1000))[:20])
    header[12] = (5 + len(options) // 4) << 4
    segment = bytes(header) + options
    pseudo = laboratory_ip(PEER) + laboratory_ip(ENGINE) + struct.pack("!BBH", 0, 6, len(segment))
    total = segment[:16] + b"\0\0" + segment[18:]
    return wire.ether() / IP(src=PEER, dst=ENGINE, proto=6) / Raw(
        total[:16] + struct.pack("!H", checksum(pseudo + total)) + total[18:])


def laboratory_ip(text):
    return bytes(int(x) for x in text.split("."))


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    s = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while s >> 16:
        s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff


def bad_frames(w):
    """(counter that must grow, frame)."""
    good = bytes(w.tcp())
    yield "drop_short", good[:14] + good[14:24]
    yield "drop_ethertype", w.ether(type=0x88b5) / Raw(b"?" * 60)
    yield "drop_ip_header", w.tcp(ip={"version": 6})
    yield "drop_ip_header", w.tcp(ip={"ihl": 3, "chksum": 0})
    yield "drop_ip_header", w.tcp(ip={"ihl": 15, "chksum": 0})
    yield "drop_ip_header", w.tcp(ip={"len": 10})
    yield ("drop_ip_header", "drop_short"), w.tcp(ip={"len": 4000})
    yield "drop_ip_checksum", w.tcp(ip={"chksum": 0x1234})
    yield "drop_ip_fragment", w.tcp(ip={"flags": "MF"})
    yield "drop_ip_fragment", w.tcp(ip={"frag": 100})
    yield "drop_ip_protocol", w.ether() / IP(src=PEER, dst=ENGINE, proto=132) / Raw(b"x" * 40)
    yield "drop_ip_protocol", w.ether() / IP(src=PEER, dst=ENGINE) / UDP(dport=53) / Raw(b"x" * 40)
    yield "drop_tcp_header", w.tcp(dataofs=3)
    yield ("drop_tcp_header", "drop_short"), w.tcp(dataofs=15)
    yield "drop_tcp_header", w.ether() / IP(src=PEER, dst=ENGINE, proto=6) / Raw(b"\x11\x22\x1f\x40abc")
    yield "drop_tcp_header", w.tcp(sport=0)
    yield "drop_tcp_header", w.tcp(dport=0)
    yield "drop_tcp_checksum", w.tcp(chksum=0x4242)
    yield "drop_land", w.tcp(ip={"src": ENGINE}, sport=8000)
    yield "drop_not_local", w.tcp(ip={"dst": "10.78.0.77"})
    yield "drop_arp", w.ether(type=0x0806) / Raw(bytes(ARP())[:12])
    yield "drop_arp", w.ether() / ARP(hwlen=20, plen=200)
    yield "drop_icmp", w.ether() / IP(src=PEER, dst=ENGINE) / ICMP(type=13, code=0)
    yield "drop_icmp", w.ether() / IP(src=PEER, dst=ENGINE, proto=1) / Raw(b"\x08")


def test_each_is_counted_by_reason(engine, wire, beside):
    failures = []
    for n, (counters, frame) in enumerate(bad_frames(wire)):
        names = (counters,) if isinstance(counters, str) else counters
        before = engine.stat()
        wire.send(frame, frame, frame)
        try:
            wait_until("counted", lambda: sum(engine.stat()[c] - before[c] for c in names) >= 3, 2)
        except TimeoutError:
            after = engine.stat()
            moved = {k: after[k] - before[k] for k in after if after[k] != before.get(k)}
            failures.append(f"frame {n}: {names} did not count 3; what moved: {moved}; {bytes(frame).hex()}")
    assert not failures, "\n".join(failures)
    beside.works()


def test_malformed_options(engine, wire, beside):
    """Length 0 (endless loops), length beyond the header, length 1: dropped or ignored, never followed."""
    lists = [b"\x02\x00", b"\x08\x00" + b"\1" * 10, b"\x05\x01", b"\x02\x28\x05\xb4", b"\xfe\xff", b"\x03\x00\x07",
             b"\1" * 39 + b"\x08", b"\x04\x03\x00", b"\x08\x0b" + b"\0" * 10, b"\x13\x00" * 10]
    for options in lists:
        wire.send(raw_tcp_options(wire, options), raw_tcp_options(wire, options, flags="A"))
    beside.works()
    assert engine.alive()


def test_senseless_control_bits(engine, wire, beside):
    """Every combination, to a listener, to a closed port and into the connection."""
    for dport, sport in ((8000, 4445), (9, 4445), (8000, beside.port)):
        wire.send(*[wire.tcp(flags=f, dport=dport, sport=sport, seq=99) for f in range(512)])
    beside.works()


def test_resets_are_answers_not_triggers(engine, wire):
    """A segment to a closed port is answered with RST (RFC 9293 3.10.7.1); a RST never is."""
    answer = wire.replies_to(wire.tcp(dport=9, flags="S", seq=5000))
    assert [a[TCP].flags for a in answer] == ["RA"] and answer[0][TCP].ack == 5001 and answer[0][TCP].seq == 0
    answer = wire.replies_to(wire.tcp(dport=9, flags="A", seq=5000, ack=7777))
    assert [a[TCP].flags for a in answer] == ["R"] and answer[0][TCP].seq == 7777
    assert not wire.replies_to(wire.tcp(dport=9, flags="R", seq=5000))
    assert not wire.replies_to(wire.tcp(dport=9, flags="RA", seq=5000, ack=1))


def test_blind_reset_and_blind_data(engine, wire, beside):
    """RFC 5961: a RST that is not exactly right does not end the connection, nor does a SYN."""
    rng = random.Random(1)
    guesses = [rng.randrange(1 << 32) for _ in range(300)]
    wire.send(*[wire.tcp(sport=beside.port, flags="R", seq=g) for g in guesses])
    wire.send(*[wire.tcp(sport=beside.port, flags="S", seq=g) for g in guesses])
    wire.send(*[wire.tcp(sport=beside.port, flags="A", seq=g, ack=g) / Raw(b"injected") for g in guesses])
    beside.works()


def test_syn_flood(engine, wire, beside, agents):
    """Half-open connections are bounded; the established one goes on, and later ones get in: at once when the flood
    has lasted for a second, before that when their SYN comes again."""
    server, client = agents
    server("l = listen('{0}', 8001)".format(ENGINE))
    before, dropped = resident_kib(engine.pid), engine.stat()["drop_syn_backlog"]
    for start in range(0, 6000, 500):
        wire.send(*[wire.tcp(sport=20000 + start + i, dport=8001, seq=i, ip={"src": f"10.78.0.{3 + (start + i) % 200}"})
                    for i in range(500)])
        client(f"c = connect('{ENGINE}', 8001)")
        server("s = l.accept()[0]; s.sendall(b'here')")
        assert client("read_exact(c, 4)") == b"here"
    beside.works()
    assert resident_kib(engine.pid) - before < 32 * 1024
    counters = engine.stat()
    assert counters["syn_cookies_sent"] > 5000 and counters["syn_cookies_good"] >= 11
    assert counters["drop_syn_backlog"] - dropped < 1000


@pytest.mark.seconds(60)
def test_random_damage(engine, wire, beside):
    """Valid frames with random bytes changed, cut or made longer, and pure noise."""
    rng = random.Random(int(os.environ.get("FLEXTOE_TEST_SEED", "1")))
    seeds = [bytes(f) for f in (
        wire.tcp(), wire.tcp(flags="A", sport=beside.port, seq=1), wire.tcp(flags="PA", sport=beside.port) / Raw(b"d" * 900),
        wire.tcp(flags="F", sport=beside.port), wire.tcp(options=[("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)),
                                                              ("NOP", None), ("WScale", 7)]),
        wire.ether() / ARP(pdst=ENGINE, psrc=PEER, hwsrc=wire.own_mac),
        wire.ether() / IP(src=PEER, dst=ENGINE) / ICMP() / Raw(b"ping" * 10),
        wire.ether() / IP(src=PEER, dst=ENGINE) / ICMP(type=3, code=4) / IP(src=ENGINE, dst=PEER) / TCP())]
    end = time.monotonic() + SECONDS
    count = 0
    while time.monotonic() < end:
        batch = []
        for _ in range(400):
            frame = bytearray(rng.choice(seeds))
            kind = rng.randrange(10)
            if kind == 0:
                frame = bytearray(frame[:12] + rng.randbytes(rng.randrange(2, 1400)))
            elif kind == 1:
                frame = frame[:rng.randrange(14, len(frame) + 1)]
            else:
                for _ in range(rng.choice((1, 1, 2, 8))):
                    frame[rng.randrange(12, len(frame))] = rng.randrange(256)
            if kind == 2:
                frame += rng.randbytes(rng.randrange(100))
            if kind >= 6 and len(frame) >= 54 and frame[12:14] == b"\x08\x00" and frame[14] == 0x45:
                repair(frame)
            batch.append(bytes(frame))
        wire.send(*batch)
        count += len(batch)
        assert engine.alive(), f"flextoed died within {count} frames"
    beside.works()
    counters = engine.stat()
    assert sum(v for k, v in counters.items() if k.startswith("drop_")) > 0


def repair(frame):
    """Makes the checksums right again, so that the damage gets past them."""
    frame[24:26] = b"\0\0"
    frame[24:26] = struct.pack("!H", checksum(bytes(frame[14:34])))
    if frame[23] == 6:
        segment = frame[34:]
        segment[16:18] = b"\0\0"
        pseudo = bytes(frame[26:34]) + struct.pack("!BBH", 0, 6, len(segment))
        frame[50:52] = struct.pack("!H", checksum(pseudo + bytes(segment)))
