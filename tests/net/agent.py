# SPDX-License-Identifier: BSD-3-Clause
"""The program at the far end of scripts/lab.py's Agent: one JSON string of Python a line in, its value out.

It runs under `flextoe run` or on kernel TCP, and knows nothing of which.
"""
# pylint: disable=unused-import,exec-used,eval-used
import errno
import hashlib
import json
import os
import select
import selectors
import signal
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from stream import transfer, churn_client, churn_server, echo_server  # noqa: E402,F401


def listen(addr, port=0, backlog=128):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((addr, port))
    s.listen(backlog)
    return s


def connect(addr, port, seconds=10):
    s = socket.create_connection((addr, port), seconds)
    s.settimeout(seconds)
    return s


def read_all(s):
    """To the end of the stream."""
    parts = []
    while True:
        part = s.recv(262144)
        if not part:
            return b"".join(parts)
        parts.append(part)


def read_exact(s, n):
    parts = []
    while n:
        part = s.recv(min(n, 262144))
        if not part:
            raise EOFError(f"the stream ended {n} bytes early")
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def reset(s):
    """Closes with RST."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def main():
    names = globals()
    for line in sys.stdin:
        code = json.loads(line)
        try:
            try:
                compiled = compile(code, "test", "eval")
            except SyntaxError:
                exec(compile(code, "test", "exec"), names)
                value = None
            else:
                value = eval(compiled, names)
            if not isinstance(value, (int, float, str, bytes, list, tuple, dict, type(None))):
                value = None
            answer = {"value": repr(value)}
        except Exception as e:  # pylint: disable=broad-except
            answer = {"error": type(e).__name__, "errno": getattr(e, "errno", None), "text": str(e)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
