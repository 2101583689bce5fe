# SPDX-License-Identifier: BSD-3-Clause
"""Workers that share a listener with the process that has forked them; used by the programs of agent.py.

A worker answers every connection with its pid, once it has read a byte. `how` says how it waits for connections.
"""
import os
import select
import signal
import socket
import sys
import time


def answer(s):
    s.setblocking(True)
    s.settimeout(10)
    if s.recv(1) == b"w":
        time.sleep(1)  # a slow one: this worker is busy
    s.sendall(b"%d" % os.getpid())
    s.close()


def _wait_poll(listener):
    p = select.poll()
    p.register(listener, select.POLLIN)
    p.poll()


def serve(listener, how="accept"):
    if how == "epoll":
        ep = select.epoll()
        ep.register(listener.fileno(), select.EPOLLIN | (1 << 28))  # EPOLLEXCLUSIVE
    if how != "accept":
        listener.setblocking(False)
    while True:
        if how == "epoll":
            ep.poll()
        elif how == "poll":
            _wait_poll(listener)
        elif how == "select":
            select.select([listener], [], [])
        try:
            answer(listener.accept()[0])
        except BlockingIOError:
            pass
        except OSError as e:
            print("worker:", e, file=sys.stderr)
            return


def in_child(function, *args):
    """Runs the function in a forked child; its pid."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(60)
    try:
        function(*args)
    finally:
        os._exit(0)  # pylint: disable=protected-access


def daemon(listener):
    fd = listener.fileno()
    for other in range(3, 64):
        try:
            if other != fd:
                os.close(other)
        except OSError:
            pass
    os.closerange(3, fd)
    os.closerange(fd + 1, 256)
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(30)]
    serve(listener, "epoll")
    assert all(os.fstat(f) for f in files)


def worker(listener, how="accept"):
    return in_child(serve, listener, how)


def worker_of_worker(listener):
    """A child that only forks again, and ends."""
    return in_child(lambda: worker(listener))


def worker_by_exec(listener):
    """A child that executes another program, which finds the listener at its number."""
    fd = listener.fileno()
    os.set_inheritable(fd, True)
    script = (f"import socket, sys; sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r}); import forks; "
              f"forks.serve(socket.socket(fileno={fd}))")
    return in_child(os.execv, sys.executable, [sys.executable, "-B", "-c", script])


def reap(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def ask(address, port, count=1, byte=b"x", seconds=10):
    """Connects `count` times, one after the other; the pids that answered."""
    pids = []
    for _ in range(count):
        with socket.create_connection((address, port), seconds) as s:
            s.settimeout(seconds)
            s.sendall(byte)
            pids.append(int(s.recv(100) or b"0"))
    return pids


def ask_at_once(address, port, count, byte=b"x", seconds=10):
    """Connects `count` times before the first answer is read."""
    sockets = [socket.create_connection((address, port), seconds) for _ in range(count)]
    for s in sockets:
        s.sendall(byte)
    pids = []
    for s in sockets:
        s.settimeout(seconds)
        pids.append(int(s.recv(100) or b"0"))
        s.close()
    return pids
