"""A device plugin's socket seen from the side: what the plugin announces, to whoever asks as the kubelet does."""

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from grpclib import GRPCError
from grpclib.client import Channel
from grpclib.exceptions import ProtocolError, StreamTerminatedError

from devplugin._proto.v1beta1 import Device, DevicePluginOptions, DevicePluginStub
from devplugin.errors import DevicePluginError

__all__ = ["SideClient", "SideClientError", "sockets_in"]

# As long as the kubelet waits for a plugin that has just registered.
_OPTIONS_WITHIN_S = 10.0
_KUBELET_SOCKET = "kubelet.sock"


class SideClientError(DevicePluginError):
    """Nothing can be had from that socket; the text says why."""


class SideClient:
    """A connection to one plugin, which may be written in any language. Build it with `SideClient.connected`.

    Attributes:
        options: What the plugin said to GetDevicePluginOptions.
    """

    def __init__(self, stub: DevicePluginStub, options: DevicePluginOptions) -> None:
        self.options = options
        self._stub = stub

    def __repr__(self) -> str:
        return f"<SideClient of a plugin with {self.options}>"

    @classmethod
    @asynccontextmanager
    async def connected(cls, socket: Path) -> AsyncIterator["SideClient"]:
        """Connect and ask for the options; the connection ends with the context.

        Raises:
            SideClientError: Nobody answers there as a device plugin does.
        """
        async with Channel(path=str(socket)) as channel:
            stub = DevicePluginStub(channel)
            try:
                await channel.__connect__()
                options = await stub.get_device_plugin_options(timeout=_OPTIONS_WITHIN_S)
            except (GRPCError, OSError, ProtocolError, StreamTerminatedError) as error:
                raise SideClientError(_reason(error)) from error
            yield cls(stub, options)

    async def lists(self) -> AsyncGenerator[list[Device], None]:
        """Each list of devices, until the plugin ends.

        Raises:
            SideClientError: The plugin ended it with an error of its own.
        """
        try:
            async for message in self._stub.list_and_watch():
                yield message.devices
        except GRPCError as error:
            raise SideClientError(_reason(error)) from error
        except StreamTerminatedError:  # how a plugin ends that does not say goodbye
            pass


def sockets_in(directory: Path, prefix: str = "") -> list[Path]:
    """The plugins' sockets in a kubelet's directory whose names begin so.

    More than one of a plugin are there while a new instance takes over from an old one.

    Raises:
        OSError: The directory cannot be read.
    """
    names = sorted(entry.name for entry in os.scandir(directory) if entry.name.endswith(".sock"))
    return [directory / name for name in names if name.startswith(prefix) and name != _KUBELET_SOCKET]


def _reason(error: Exception) -> str:
    reasons: dict[type[Exception], str] = {
        FileNotFoundError: "no such socket",
        ConnectionRefusedError: "nothing listens there: the plugin has gone, or it is no socket",
        PermissionError: f"no permission to connect as user {os.geteuid()}: try as root",
        TimeoutError: f"no answer in {_OPTIONS_WITHIN_S:g} s: is it a device plugin?",
        StreamTerminatedError: f"it does not speak gRPC ({error}): is it a device plugin?",
        ProtocolError: f"it does not speak gRPC ({error}): is it a device plugin?",
    }
    if isinstance(error, GRPCError):
        return f"the call failed ({error.status.name}: {error.message}): is it a device plugin?"
    return reasons.get(type(error), f"cannot connect: {error}")
