"""One process of a proxy, which takes and returns places on command.

taker.py HANDLE PROCESSES PROCESS MOST CONNECTIONS SOCKET
"""

from __future__ import annotations

import asyncio
import sys
import time

from prana_proxy.gateway.limits import ConcurrencyLimit
from prana_proxy.gateway.shared_counters import ServicePage, SharedCounters


async def obey(process: int, page: ServicePage, places: ConcurrencyLimit, socket: str) -> None:
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(f"{process}\n".encode())
    held = []
    while command := (await reader.readline()).decode().strip():
        done = True
        if command == "take":
            done = await places.take(time.monotonic() + 60)
        elif command == "give":
            places.release()
        else:
            held.append(page.lock())
            held[0].__enter__()
        writer.write(b"done\n" if done else b"in vain\n")
    writer.close()


async def main(handle: int, processes: int, process: int, most: int, connections: int, socket: str) -> None:
    page = SharedCounters(processes, process, handle).page("s")
    places = ConcurrencyLimit(most, page, time.monotonic)
    await asyncio.gather(*(obey(process, page, places, socket) for _ in range(connections)))


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:6]), sys.argv[6]))
