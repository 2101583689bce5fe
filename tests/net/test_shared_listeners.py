# SPDX-License-Identifier: BSD-3-Clause
"""Listeners that fork() and exec() pass on: who accepts, and what happens when one of them goes."""
import time

import pytest

from lab import ENGINE, AgentError, wait_until


@pytest.fixture
def forked(agents):
    """A parent that listens (`l`) on the engine's address, and a client on the kernel's side."""
    server, client = agents
    server("from forks import *")
    client("from forks import *")
    server(f"l = listen('{ENGINE}')")
    return server, client, server("l.getsockname()[1]")


@pytest.mark.parametrize("how", ["accept", "poll", "select", "epoll"])
def test_workers_accept_and_the_parent_never_does(forked, how):
    server, client, port = forked
    pids = server(f"pids = [worker(l, '{how}') for _ in range(3)]; pids") or server("pids")
    served = client(f"ask('{ENGINE}', {port}, 60)")
    assert set(served) <= set(pids)
    served = client(f"ask_at_once('{ENGINE}', {port}, 40)")
    assert set(served) <= set(pids) and len(set(served)) > 1


def test_any_address(agents):
    """The kernel's half of the listener goes on beside the engine's."""
    server, client = agents
    server("from forks import *")
    client("from forks import *")
    server("l = listen('0.0.0.0')")
    port = server("l.getsockname()[1]")
    server("pids = [worker(l, h) for h in ('accept', 'poll', 'epoll')]")
    pids = server("pids")
    assert set(client(f"ask('{ENGINE}', {port}, 20)")) <= set(pids)
    assert set(server(f"ask('127.0.0.1', {port}, 20)")) <= set(pids)


def test_parent_and_child_accept(forked):
    server, client, port = forked
    server("pid = worker(l)")
    server.start("[answer(l.accept()[0]) for _ in range(3)] and os.getpid()")
    time.sleep(0.5)
    served = client(f"ask_at_once('{ENGINE}', {port}, 20)", 30)
    parent = server.result()
    assert served.count(parent) == 3 and set(served) == {parent, server("pid")}


def test_connection_before_the_child_has_joined(forked):
    """It waits, with what it has sent, until somebody accepts."""
    server, client, port = forked
    client(f"s = connect('{ENGINE}', {port}); s.sendall(b'x')")
    client(f"t = connect('{ENGINE}', {port}); t.sendall(b'x'); t.shutdown(socket.SHUT_WR)")
    time.sleep(0.5)
    server("pid = worker(l)")
    assert client("int(s.recv(100))") == server("pid")
    assert client("int(t.recv(100))") == server("pid")


def test_busy_worker_gets_nothing(forked):
    """What arrives while a worker is busy goes to one that waits."""
    server, client, port = forked
    server("pids = [worker(l) for _ in range(2)]")
    client(f"slow = connect('{ENGINE}', {port}); slow.sendall(b'w')")
    begin = time.monotonic()
    served = client(f"ask('{ENGINE}', {port}, 20)")
    assert time.monotonic() - begin < 0.8
    assert len(set(served)) == 1
    assert client("int(slow.recv(100))") != served[0]


def test_dead_worker(forked):
    """The others go on; nothing is left with the dead."""
    server, client, port = forked
    server("pids = [worker(l, 'epoll') for _ in range(3)]")
    client(f"ask('{ENGINE}', {port}, 10)")
    server("reap(pids[0])")
    served = client(f"ask('{ENGINE}', {port}, 30)", 40)
    assert set(served) <= set(server("pids[1:]"))
    server("[reap(p) for p in pids[1:]]")
    client(f"s = connect('{ENGINE}', {port}); s.sendall(b'x')")
    server("pids = [worker(l)]")  # as a master does with a worker that crashed
    assert client("int(s.recv(100))") == server("pids[0]")


def test_stopped_worker_swallows_nothing(forked):
    """A worker that accepts and then serves for long holds no connection back."""
    server, client, port = forked
    server("pids = [worker(l) for _ in range(2)]")
    client(f"ask('{ENGINE}', {port}, 4)")
    client(f"slow = connect('{ENGINE}', {port}); slow.sendall(b'w')")
    served = client(f"ask_at_once('{ENGINE}', {port}, 10)")
    assert len(set(served)) >= 1
    client("slow.recv(100)")


def test_child_forks_again(forked):
    server, client, port = forked
    server("pid = worker_of_worker(l); os.waitpid(pid, 0)")
    served = client(f"ask('{ENGINE}', {port}, 5)")
    assert server("pid") not in served and server("os.getpid()") not in served
    server(f"os.kill({served[0]}, 9)")


def test_owner_closes(forked, engine):
    """The listener lives as long as somebody has it, and its port is free when nobody does."""
    server, client, port = forked
    server("pid = worker(l)")
    client(f"ask('{ENGINE}', {port}, 1)")
    server("l.close()")
    assert client(f"ask('{ENGINE}', {port}, 10)") == [server("pid")] * 10
    with pytest.raises(AgentError) as e:
        server(f"listen('{ENGINE}', {port})")
    assert e.value.errno == 98  # EADDRINUSE
    server("reap(pid)")
    wait_until("the port is free", lambda: not [c for c in engine.connections() if c["state"] == "LISTEN"])
    with pytest.raises(AgentError) as e:
        client(f"connect('{ENGINE}', {port})")
    assert e.value.kind == "ConnectionRefusedError"
    server(f"l = listen('{ENGINE}', {port})")


def test_owner_ends_before_the_child_has_joined(forked):
    """As a server that listens and then puts itself into the background."""
    server, client, port = forked
    server("pid = in_child(lambda: (time.sleep(0.7), serve(l, 'epoll')))")
    pid = server("pid")
    server.kill()
    client(f"s = connect('{ENGINE}', {port}); s.sendall(b'x')")
    assert client("int(s.recv(100))") == pid
    assert client(f"ask('{ENGINE}', {port}, 10)") == [pid] * 10
    client(f"os.kill({pid}, 9)")


def test_daemon_that_closes_what_it_does_not_know(forked):
    """After fork() all descriptors but the listener are closed, and their numbers used again."""
    server, client, port = forked
    server("pid = in_child(daemon, l)")
    server("l.close()")
    assert client(f"ask('{ENGINE}', {port}, 10)") == [server("pid")] * 10
    server("reap(pid)")
    wait_until("the port is free", lambda: _refused(client, port))


def test_child_executes_another_program(forked):
    server, client, port = forked
    server("pid = worker_by_exec(l)")
    server("l.close()")
    assert client(f"ask('{ENGINE}', {port}, 10)", 30) == [server("pid")] * 10
    server("reap(pid)")
    wait_until("the port is free", lambda: _refused(client, port))


def test_listener_that_is_closed_at_exec(forked):
    """Descriptors of Python are; nothing of the listener is left with the program."""
    server, client, port = forked
    server("pid = in_child(os.execv, '/bin/sleep', ['sleep', '20'])")
    time.sleep(0.5)
    server("l.close()")
    assert _refused(client, port)
    server("reap(pid)")


def _refused(client, port):
    try:
        client(f"connect('{ENGINE}', {port}).close()")
    except AgentError as e:
        return e.kind == "ConnectionRefusedError"
    return False


def test_child_with_connections(forked):
    """A child that has inherited a connection serves it, and the listener too."""
    server, client, port = forked
    client(f"s = connect('{ENGINE}', {port}); s.sendall(b'x')")
    server("c = l.accept()[0]; pid = in_child(lambda: (answer(c), serve(l))); c.close()")
    assert client("int(s.recv(100))") == server("pid")
    assert client(f"ask('{ENGINE}', {port}, 5)") == [server("pid")] * 5
    server("reap(pid)")
    server.start("answer(l.accept()[0])")
    time.sleep(0.5)  # it has noticed that the child is gone
    client(f"s = connect('{ENGINE}', {port}); s.sendall(b'x')")
    assert client("int(s.recv(100))")
    server.result()


def test_listener_sent_to_another_process(forked, lab, engine):
    """Over a UNIX socket, as programs do that hand their listeners over at an upgrade."""
    server, client, port = forked
    path = lab.dir / "hand.sock"
    server(f"u = socket.socket(socket.AF_UNIX); u.bind('{path}'); u.listen(1)")
    from lab import Agent  # pylint: disable=import-outside-toplevel
    other = Agent(lab, daemon=engine)
    other("from forks import *")
    other(f"u = socket.socket(socket.AF_UNIX); u.connect('{path}')")
    server("v = u.accept()[0]; socket.send_fds(v, [b'x'], [l.fileno()])")
    other("fds = socket.recv_fds(u, 1, 1)[1]; l = socket.socket(fileno=fds[0])")
    server("l.close()")
    other.start("[answer(l.accept()[0]) for _ in range(5)] and os.getpid()")
    served = client(f"ask('{ENGINE}', {port}, 5)")
    assert set(served) == {other.result()}
