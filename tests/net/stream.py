# SPDX-License-Identifier: BSD-3-Clause
"""Both ends of the integrity and churn tests: plain socket code that runs over either TCP.

A stream's bytes follow from its seed, so that each end knows the SHA-256 of what must come.
"""
import hashlib
import random
import selectors
import socket
import struct
import time

BLOCK = random.Random(20221109).randbytes(1000003)  # a prime length: no period fits a segment or a buffer
DOUBLE = memoryview(BLOCK + BLOCK + BLOCK[:262144])
SIZES = (1, 7, 64, 536, 1460, 4096, 65536, 1 << 20, 3, 1449, 100000)  # of one send()


def stream_piece(seed, position, length):
    at = (position + seed * 7919) % len(BLOCK)
    return DOUBLE[at:at + length]


def stream_sha(seed, length):
    sha = hashlib.sha256()
    position = 0
    while position < length:
        n = min(1 << 20, length - position)
        sha.update(stream_piece(seed, position, n))
        position += n
    return sha.hexdigest()


class End:
    """One end of one connection: sends its stream, ends it, reads the other's to the end."""

    def __init__(self, sock, number, to_send, client):
        self.sock = sock
        self.number = number
        self.client = client
        self.to_send = to_send
        self.sent = 0
        self.sends = number if number is not None else 0
        self.got = 0
        self.sha = hashlib.sha256()
        self.head = b""
        self.head_out = struct.pack("!I", number) if client else b""
        self.write_done = self.read_done = False

    def seed(self, mine):
        return self.number * 2 + (1 if mine == self.client else 2)

    def writable(self):
        if self.head_out:
            self.head_out = self.head_out[self.sock.send(self.head_out):]
            return
        if self.sent == self.to_send:
            self.sock.shutdown(socket.SHUT_WR)
            self.write_done = True
            return
        n = min(SIZES[self.sends % len(SIZES)], self.to_send - self.sent)
        self.sends += 1
        self.sent += self.sock.send(stream_piece(self.seed(True), self.sent, n))

    def readable(self, buf):
        n = self.sock.recv_into(buf)
        if n == 0:
            self.read_done = True
            return
        data = buf[:n]
        if not self.client and self.number is None:
            take = min(n, 4 - len(self.head))
            self.head += bytes(data[:take])
            data = data[take:]
            if len(self.head) == 4:
                self.number = self.sends = struct.unpack("!I", self.head)[0]
        self.got += len(data)
        self.sha.update(data)


def transfer(listener=None, connect_to=None, conns=1, send=0, expect=0, seconds=60):
    """Moves streams over `conns` connections at once and returns {"mbit": …}; raises when a byte is wrong."""
    sel = selectors.DefaultSelector()
    buf = memoryview(bytearray(1 << 18))
    ends, open_ends, accepted = [], 0, 0
    start = time.monotonic()

    def add(sock, number, client):
        nonlocal open_ends
        sock.setblocking(False)
        end = End(sock, number, send, client)
        ends.append(end)
        open_ends += 1
        sel.register(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if client else 0), end)

    if listener is not None:
        listener.setblocking(False)
        sel.register(listener, selectors.EVENT_READ, None)
    else:
        for number in range(conns):
            add(socket.create_connection(connect_to, 10), number, True)
    while open_ends or accepted < (conns if listener is not None else 0):
        if time.monotonic() - start > seconds:
            done = sum(e.got for e in ends)
            raise TimeoutError(f"after {seconds} s {open_ends} of {conns} connections are not through, {done} bytes "
                               f"of {expect * conns} came, {sum(e.sent for e in ends)} were sent")
        for key, events in sel.select(1):
            end = key.data
            if end is None:
                try:
                    sock = listener.accept()[0]
                except BlockingIOError:
                    continue
                accepted += 1
                add(sock, None, False)
                continue
            try:
                if events & selectors.EVENT_READ:
                    end.readable(buf)
                if events & selectors.EVENT_WRITE:
                    end.writable()
            except BlockingIOError:
                pass
            wanted = (0 if end.read_done else selectors.EVENT_READ) | \
                (0 if end.write_done or end.number is None else selectors.EVENT_WRITE)
            if end.read_done and end.write_done:
                sel.unregister(end.sock)
                end.sock.close()
                open_ends -= 1
            elif wanted == 0:
                raise EOFError("the stream ended before its number came")
            elif wanted != key.events:
                sel.modify(end.sock, wanted, end)
    took = time.monotonic() - start
    sel.close()
    for end in ends:
        if end.got != expect:
            raise ValueError(f"connection {end.number}: {end.got} bytes came, {expect} were sent")
        if end.sha.hexdigest() != stream_sha(end.seed(False), expect):
            raise ValueError(f"connection {end.number}: SHA-256 differs")
    return {"mbit": round(8 * (send + expect) * len(ends) / took / 1e6, 1)}


def echo_server(listener, conns):
    """Serves `conns` connections, each until its end, several at once; returns how many."""
    sel = selectors.DefaultSelector()
    listener.setblocking(False)
    sel.register(listener, selectors.EVENT_READ, None)
    done = 0
    while done < conns:
        for key, _ in sel.select(5):
            if key.data is None:
                while True:
                    try:
                        sock = listener.accept()[0]
                    except BlockingIOError:
                        break
                    sel.register(sock, selectors.EVENT_READ, sock)
                continue
            sock = key.data
            try:
                data = sock.recv(65536)
                if data:
                    sock.sendall(data)
                    continue
            except ConnectionError:
                pass
            sel.unregister(sock)
            sock.close()
            done += 1
    sel.close()
    listener.setblocking(True)
    return done


churn_server = echo_server


def churn_client(address, cycles, size=300, close_first=True):
    """Connects, exchanges one message, closes, again and again; returns cycles a second."""
    start = time.monotonic()
    for i in range(cycles):
        s = socket.create_connection(address, 5)
        message = bytes(stream_piece(i, 0, size))
        s.sendall(message)
        got = b""
        while len(got) < size:
            part = s.recv(size - len(got))
            if not part:
                raise EOFError(f"cycle {i}: the stream ended early")
            got += part
        if got != message:
            raise ValueError(f"cycle {i}: other bytes came back")
        s.close()
    return round(cycles / (time.monotonic() - start))
