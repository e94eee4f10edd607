"""What any asyncio program on a Unix socket costs: ``python floor.py DIRECTORY`` echoes on echo.sock.

When it listens it connects to kubelet.sock, and stays connected.
"""

import asyncio
import sys


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main(directory: str) -> None:
    server = await asyncio.start_unix_server(echo, f"{directory}/echo.sock")
    _, writer = await asyncio.open_unix_connection(f"{directory}/kubelet.sock")
    async with server:
        await server.serve_forever()
    writer.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
