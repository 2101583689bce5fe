# SPDX-License-Identifier: BSD-3-Clause
"""Blocking sockets and threads: a server with a thread (or a process) a connection, and a client whose sockets
are made in one thread, written in a second and read in a third."""
import os
import signal
import socket
import socketserver
import sys
import threading


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class Forks(socketserver.ForkingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128


def write(sock, message, times):
    for _ in range(times):
        sock.sendall(message)
    sock.shutdown(socket.SHUT_WR)


def read(sock, message, times, errors):
    want, got = len(message) * times, 0
    try:
        while data := sock.recv(65536):
            for i in (0, len(data) - 1):
                if data[i] != message[0]:
                    errors.append("other bytes came back")
            got += len(data)
        if got != want:
            errors.append(f"{got} bytes of {want} came back")
    except OSError as e:
        errors.append(repr(e))


def drive(addr, port, conns):
    errors = []
    for _ in range(3):
        threads = []
        for n in range(conns):
            sock = socket.create_connection((addr, port), 20)
            message = bytes([n + 1]) * (100 + n * 777)
            threads.append(threading.Thread(target=write, args=(sock, message, 50)))
            threads.append(threading.Thread(target=read, args=(sock, message, 50, errors)))
        for t in threads:
            t.start()
        for t in threads:
            t.join(25)
            if t.is_alive():
                errors.append("a thread hangs")
                break
        if errors:
            break
    print(errors or "all good", flush=True)
    os._exit(1 if errors else 0)


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
mode, host, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
if mode == "drive":
    drive(host, number, int(sys.argv[4]) if len(sys.argv) > 4 else 20)
else:
    (Threads if mode == "serve" else Forks)((host, number), Echo).serve_forever()
