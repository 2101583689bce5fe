# SPDX-License-Identifier: BSD-3-Clause
"""A plain asyncio echo server and its client: streams, many at once, with time-outs and half-close."""
import asyncio
import sys


async def serve_one(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b"bye")
        await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve(addr, port):
    server = await asyncio.start_server(serve_one, addr, port, backlog=256)
    async with server:
        await server.serve_forever()


async def visit(addr, port, number):
    reader, writer = await asyncio.open_connection(addr, port)
    for size in (1, 100, 5000, 200000):
        message = bytes([number % 256]) * size
        writer.write(message)
        assert await reader.readexactly(size) == message
        await asyncio.sleep(0.001)
    writer.write_eof()
    assert await reader.read() == b"bye"
    writer.close()
    await writer.wait_closed()


async def drive(addr, port):
    for _ in range(3):
        await asyncio.wait_for(asyncio.gather(*(visit(addr, port, n) for n in range(100))), 25)
    reader, writer = await asyncio.open_connection(addr, port)
    try:
        await asyncio.wait_for(reader.read(1), 0.2)
        raise AssertionError("a byte came from nowhere")
    except asyncio.TimeoutError:
        pass
    writer.close()
    print("all good")


asyncio.run({"serve": serve, "drive": drive}[sys.argv[1]](sys.argv[2], int(sys.argv[3])))
