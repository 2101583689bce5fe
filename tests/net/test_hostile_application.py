# SPDX-License-Identifier: BSD-3-Clause
"""An application that breaks the rules of the shared memory or of the control channel: its context, or it, is
put out with a logged reason, and nobody else notices. Written against include/flextoe/abi.h by hand."""
import array
import fcntl
import mmap
import os
import random
import re
import socket
import struct
import time

import pytest

from lab import ENGINE, Agent, wait_until

with open(os.path.join(os.path.dirname(__file__), "../../include/flextoe/abi.h"), encoding="utf-8") as header:
    VERSION = int(re.search(r"FLEXTOE_ABI_VERSION (\d+)", header.read()).group(1))
HELLO, WELCOME, CONTEXT, ERROR, CONN_INFO, STATUS, TEXT = range(1, 8)
HC_SLOTS, NTF_SLOTS = 1024, 4096
AREA = 4096 + 32 * HC_SLOTS + 32 * NTF_SLOTS


def message(kind, body=b"", version=VERSION, length=None):
    return struct.pack("<IHHII", version, kind, 0, 16 + len(body) if length is None else length, 0) + body


class Intruder:
    """An application without libflextoe."""

    def __init__(self, engine, contexts=1):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(5)
        self.sock.connect(engine.socket)
        self.sock.send(message(HELLO, struct.pack("<I28s", os.getpid(), b"intruder")))
        answer, fds = self.receive()
        assert struct.unpack_from("<IHHII", answer)[1] == WELCOME
        self.size, self.offset = struct.unpack_from("<QI", answer, 16)
        self.region = mmap.mmap(fds[0], self.offset + 4 * AREA)
        os.close(fds[0])
        self.position = [0] * contexts
        self.wakes, self.doorbells = [], []
        for n in range(contexts):
            self.sock.send(message(CONTEXT, struct.pack("<II", 0, 0)))
            answer, fds = self.receive()
            assert struct.unpack_from("<IHHII", answer)[1] == CONTEXT and struct.unpack_from("<I", answer, 16)[0] == n
            self.wakes.append(fds[0])
            self.doorbells.append(fds[1])

    def receive(self):
        data, ancillary, _, _ = self.sock.recvmsg(32768, 1024)
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[:len(payload) - len(payload) % fds.itemsize])
        return data, fds

    def area(self, context=0):
        return self.offset + context * AREA

    def descriptor(self, body, kind, context=0):
        """Puts 30 bytes and a type on the host-control ring as a correct producer would, and rings."""
        at = self.area(context) + 4096 + 32 * (self.position[context] % HC_SLOTS)
        mark = 1 + (self.position[context] // HC_SLOTS) % 2
        self.region[at:at + 31] = body.ljust(30, b"\0")[:30] + bytes([kind])
        self.region[at + 31] = mark
        self.position[context] += 1
        os.write(self.doorbells[context], struct.pack("<Q", 1))

    def update(self, conn, tx_head=0, rx_tail=0, flags=0, context=0):
        self.descriptor(struct.pack("<IIIH", conn, tx_head, rx_tail, flags), 1, context)

    def dead(self, context=0):
        return struct.unpack_from("<I", self.region, self.area(context) + 72)[0] == 1

    def close(self):
        self.sock.close()
        self.region.close()
        for fd in self.wakes + self.doorbells:
            os.close(fd)


@pytest.fixture
def beside(lab, ns, engine):
    server, client = Agent(lab, daemon=engine), Agent(lab, ns=ns)
    server(f"l = listen('{ENGINE}', 8000)")
    client(f"s = connect('{ENGINE}', 8000)")
    server("s = l.accept()[0]; s.settimeout(10)")

    def works():
        server("s.sendall(b'm' * 20000)")
        assert client("read_exact(s, 20000)") == b"m" * 20000
    return works


def own_connection(intruder, ns, lab, port):
    """Binds, listens and takes a connection by hand; returns the connection's name, buffers and the client."""
    ring = intruder.area() + 4096 + 32 * HC_SLOTS
    seen = 0

    def next_notification(kind):
        nonlocal seen
        while True:
            at = ring + 32 * (seen % NTF_SLOTS)
            wait_until("a notification", lambda: intruder.region[at + 31] == 1 + (seen // NTF_SLOTS) % 2, 3)
            body = intruder.region[at:at + 32]
            seen += 1
            if body[30] == kind:
                return body
    intruder.descriptor(struct.pack("<IIIIHHHH", 7, 0, 0, 0, socket.htons(port), 0, 0, 1), 2)
    result = next_notification(2)
    endpoint = struct.unpack_from("<I", result, 4)[0]
    assert struct.unpack_from("<H", result, 14)[0] == 0
    intruder.descriptor(struct.pack("<IIIIHHHH", 7, endpoint, 0, 0, 0, 0, 16, 0), 3)
    next_notification(2)
    client = Agent(lab, ns=ns)
    client(f"s = connect('{ENGINE}', {port})")
    opened = next_notification(3)
    return struct.unpack_from("<I", opened, 4)[0], client


BAD = {
    "type 0 with a valid mark": lambda i, c: i.descriptor(b"", 0),
    "an unknown type": lambda i, c: i.descriptor(b"\xff" * 30, 200),
    "unknown flags": lambda i, c: i.update(c, flags=0x8000),
    "more sent than the buffer holds": lambda i, c: i.update(c, tx_head=0x7fffffff),
    "more consumed than came": lambda i, c: i.update(c, rx_tail=0x10000000),
    "a connection index beyond the table": lambda i, c: i.update(0x3ffffe, tx_head=5),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_descriptor_ends_the_context(lab, ns, engine, beside, what):
    intruder = Intruder(engine)
    conn, client = own_connection(intruder, ns, lab, 8100)
    BAD[what](intruder, conn)
    wait_until("the context is dead", intruder.dead, 2)
    assert engine.stat()["hc_bad"] >= 1
    wait_until("the log says why", lambda: "intruder" in engine.log() or "context" in engine.log(), 2)
    beside()
    intruder.close()


def test_another_applications_connection(lab, ns, engine, beside):
    """Naming a connection that is not one's own touches nothing."""
    intruder = Intruder(engine)
    for index in range(64):
        for generation in range(3):
            try:
                intruder.update(generation << 22 | index, flags=0x0004)
            except OSError:
                break
    time.sleep(0.3)
    beside()
    intruder.close()


@pytest.mark.seconds(60)
def test_random_descriptors(lab, ns, engine, beside):
    rng = random.Random(int(os.environ.get("FLEXTOE_TEST_SEED", "1")))
    end = time.monotonic() + 4
    while time.monotonic() < end:
        intruder = Intruder(engine, contexts=2)
        for _ in range(400):
            context = rng.randrange(2)
            kind = rng.choice((1, 1, 1, 2, 3, 4, 5, 6, rng.randrange(256)))
            body = bytearray(rng.randbytes(30) if rng.randrange(2) else bytes(30))
            for _ in range(3):
                body[rng.randrange(20)] = rng.randrange(256)
            intruder.descriptor(bytes(body), kind, context)
        # the words too: counts that run backwards, sleep flags that lie
        for word in (0, 4):
            at = intruder.area() + word
            intruder.region[at:at + 4] = rng.randbytes(4)
        os.write(intruder.doorbells[0], struct.pack("<Q", 1))
        intruder.close()
        assert engine.alive()
    beside()


def test_whole_region_of_noise(engine, beside):
    intruder = Intruder(engine)
    noise = os.urandom(65536)
    for at in range(intruder.offset, intruder.offset + AREA, len(noise)):
        n = min(len(noise), intruder.offset + AREA - at)
        intruder.region[at:at + n] = noise[:n]
    os.write(intruder.doorbells[0], struct.pack("<Q", 1))
    time.sleep(0.3)
    beside()
    intruder.close()


def test_region_cannot_shrink(engine, beside):
    """The memory is sealed: an application cannot pull it away under the engine."""
    intruder = Intruder(engine)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as second:
        second.connect(engine.socket)
        second.settimeout(5)
        second.send(message(HELLO, struct.pack("<I28s", 1, b"second")))
        _, ancillary, _, _ = second.recvmsg(32768, 1024)
        fd = struct.unpack("i", ancillary[0][2][:4])[0]
        with pytest.raises(OSError):
            os.ftruncate(fd, 4096)
        os.close(fd)
    beside()
    intruder.close()


def test_doorbell_written_full(engine, beside):
    """All applications ring the same doorbell: one that fills its counter must not keep the others from it."""
    intruder, other = Intruder(engine), Intruder(engine)
    time.sleep(0.2)
    for _ in range(3):
        try:
            os.read(intruder.doorbells[0], 8)
        except BlockingIOError:
            pass
        os.write(intruder.doorbells[0], struct.pack("<Q", 2 ** 64 - 2))
        time.sleep(0.1)
        os.write(other.doorbells[0], struct.pack("<Q", 1))
    beside()
    intruder.close()
    other.close()


def test_wake_that_would_block(engine, beside):
    """The eventfd an application is woken by is one open file with the engine's: made to block and written full, it must
    hold the engine up for a moment at most, and once."""
    intruder = Intruder(engine)
    fcntl.fcntl(intruder.wakes[0], fcntl.F_SETFL, 0)
    os.write(intruder.wakes[0], struct.pack("<Q", 2 ** 64 - 2))
    intruder.region[intruder.area() + 4:intruder.area() + 8] = struct.pack("<I", 1000)  # asleep, on another core
    intruder.descriptor(struct.pack("<IIIIHHHH", 7, 0, 0, 0, socket.htons(8101), 0, 0, 1), 2)  # BIND: is answered
    started = time.monotonic()
    beside()
    assert time.monotonic() - started < 2
    wait_until("the intruder is put out", lambda: "made the engine wait" in engine.log(), 3)
    intruder.close()


MESSAGES = [
    b"", b"\0", b"\xff" * 16, message(99), message(HELLO, b"short"), message(HELLO, b"\xff" * 32, version=77),
    message(HELLO, b"x" * 32, length=9999), message(CONTEXT, b"\0" * 8), message(CONN_INFO, b"\xff" * 80),
    message(STATUS, struct.pack("<II", 999, 0)), message(TEXT, b"t" * 1000), os.urandom(20000),
]


@pytest.mark.parametrize("number", range(len(MESSAGES)))
@pytest.mark.parametrize("attached", [False, True], ids=["stranger", "attached"])
def test_bad_message(engine, number, attached):
    """An answer with the reason, or the end; the engine goes on."""
    if attached:
        sock = Intruder(engine).sock
    else:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(engine.socket)
    sock.settimeout(0.3)
    try:
        for _ in range(3):
            if MESSAGES[number]:
                sock.send(MESSAGES[number])
        sock.recv(32768)
    except (BrokenPipeError, ConnectionResetError, TimeoutError):
        pass
    sock.close()
    assert engine.stat()["apps_registered"] >= 0


def test_strangers_that_say_nothing(engine, beside):
    """Open control connections without a word do not keep others out."""
    idle = []
    for _ in range(300):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.setblocking(False)
        try:
            s.connect(engine.socket)
        except BlockingIOError:
            s.close()
            continue
        idle.append(s)
    beside()
    for s in idle:
        s.close()
    engine.stat()
