# SPDX-License-Identifier: BSD-3-Clause
"""Every byte arrives, in order, in both directions at once, whatever the sizes and the number of connections."""
import hashlib
import os

import pytest

from lab import ENGINE, PEER, Agent

MIB = int(os.environ.get("FLEXTOE_TEST_MIB", "256"))


def both_ways(server, client, addr, conns, total_bytes, seconds=60):
    each = total_bytes // conns
    server(f"l = listen('{addr}', 0, 512)")
    port = server("l.getsockname()[1]")
    server.start(f"transfer(listener=l, conns={conns}, send={each}, expect={each}, seconds={seconds})")
    client.start(f"transfer(connect_to=('{addr}', {port}), conns={conns}, send={each}, expect={each}, seconds={seconds})")
    client.result(seconds + 10)
    server.result(seconds + 10)


@pytest.mark.seconds(90)
@pytest.mark.parametrize("engine_listens", [True, False], ids=["engine-listens", "kernel-listens"])
@pytest.mark.parametrize("conns", [1, 16, 256])
@pytest.mark.parametrize("engine", [{"device": "tap"}, {"device": "afxdp"}], indirect=True, ids=["tap", "afxdp"])
def test_bytes(engine, agents, conns, engine_listens):
    on_engine, on_kernel = agents
    total = (MIB << 20) // (1 if engine_listens else 4)
    if engine_listens:
        both_ways(on_engine, on_kernel, ENGINE, conns, total)
    else:
        both_ways(on_kernel, on_engine, PEER, conns, total)


@pytest.mark.seconds(90)
@pytest.mark.parametrize("engine_listens", [True, False], ids=["engine-listens", "kernel-listens"])
@pytest.mark.parametrize("engine", [
    {"device_options": "seed 7 drop-ppm 5000 duplicate-ppm 5000 reorder-ppm 10000"},
    {"device_options": "offload off seed 7 drop-ppm 5000 duplicate-ppm 5000 reorder-ppm 10000"},
], indirect=True, ids=["offload", "plain"])
def test_bytes_over_a_bad_wire(engine, agents, engine_listens):
    on_engine, on_kernel = agents
    total = min(MIB, 8) << 20
    if engine_listens:
        both_ways(on_engine, on_kernel, ENGINE, 8, total)
    else:
        both_ways(on_kernel, on_engine, PEER, 8, total)
    counters = engine.stat()
    assert counters["retransmit_bytes"] + counters["rx_out_of_order"] > 0


@pytest.mark.seconds(60)
@pytest.mark.parametrize("engine", [{"settings": ["rx-buffer 4K", "tx-buffer 4K"]}], indirect=True, ids=["4K-buffers"])
def test_bytes_through_small_buffers(agents):
    """Windows close and open all the time."""
    on_engine, on_kernel = agents
    both_ways(on_engine, on_kernel, ENGINE, 4, min(MIB, 4) << 20)


@pytest.mark.seconds(60)
@pytest.mark.parametrize("conns", [1, 16])
def test_bytes_between_two_applications_of_one_engine(lab, engine, conns):
    """The engine's own address to itself: inside the engine."""
    server, client = Agent(lab, daemon=engine), Agent(lab, daemon=engine)
    both_ways(server, client, ENGINE, conns, min(MIB, 64) << 20)


@pytest.mark.seconds(60)
def test_a_reader_that_sleeps_stops_the_writer_and_loses_nothing(pair):
    """Zero window for a while, then all of it."""
    for reader, writer in ((pair.engine, pair.kernel), (pair.kernel, pair.engine)):
        writer.start("s.settimeout(30); s.sendall(hashlib.sha256(b'x').digest() * 250000)")
        reader("time.sleep(2)")
        digest = reader("hashlib.sha256(read_exact(s, 8000000)).hexdigest()", 30)
        assert digest == hashlib.sha256(hashlib.sha256(b"x").digest() * 250000).hexdigest()
        writer.result(30)

