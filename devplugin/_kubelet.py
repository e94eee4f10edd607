"""The kubelet's device plugin directory: what its kubelet.sock is, and how to register there."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from devplugin._caller import CallingConnection
from devplugin._grpc import CallError
from devplugin._server import SOCKET_PATH_MAX, directory_too_long, no_permission
from devplugin.errors import ConfigurationError, KubeletError, KubeletUnavailable, RegistrationRejected

# Compiled into the kubelet; it ignores --root-dir (pkg/kubelet/apis/deviceplugin: DevicePluginPath).
DEVICE_PLUGIN_DIRECTORY = "/var/lib/kubelet/device-plugins"
SOCKET_NAME = "kubelet.sock"
# Inside Register the kubelet dials the plugin for up to 10 s and asks for its options.
_REGISTER_WITHIN_S = 15
# How the kubelet's refusals begin that no retry mends (devicemanager/plugin/v1beta1/server.go), and what does.
_REFUSED_FOR_GOOD = {
    "requested API version": "this kubelet speaks another version of the device plugin API than devplugin does",
    "the ResourceName": "choose another resource_name",
}


class SocketId(NamedTuple):
    """Which kubelet.sock it is. A new one often gets the old one's inode, so its time counts too."""

    device: int
    inode: int
    ctime_ns: int


class KubeletDirectory:
    """The directory in which a kubelet listens on kubelet.sock, and plugins on their own sockets.

    Raises:
        ConfigurationError: No socket can ever be in such a directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        given = os.fspath(path)
        if not given:
            raise ConfigurationError("the kubelet's directory is an empty string")
        self.path = given if os.path.isabs(given) else os.path.join(os.getcwd(), given)
        self.socket = os.path.join(self.path, SOCKET_NAME)
        if len(os.fsencode(self.socket)) > SOCKET_PATH_MAX:
            raise directory_too_long(self.path)

    def __repr__(self) -> str:
        return f"KubeletDirectory({self.path!r})"

    def socket_id(self) -> SocketId | None:
        """Which kubelet.sock is there; None when there is none."""
        try:
            found = os.stat(self.socket)
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise ConfigurationError(f"{self.path} is not a directory, and kubelet.sock should be in it") from error
        except PermissionError as error:
            raise no_permission("look into", self.path, error) from error
        return SocketId(found.st_dev, found.st_ino, found.st_ctime_ns)

    def check_mount(self) -> None:
        """Refuse to wait in a directory that was deleted: when it is made again, this process will not see it.

        Raises:
            KubeletError: The directory has no name any more. It happens to a container whose mounted directory was
                deleted on the host.
        """
        try:
            deleted = os.stat(self.path).st_nlink == 0
        except OSError:
            return
        if deleted:
            raise KubeletError(
                f"{self.path} was deleted on the host and what is mounted here is its remains: the plugin must be started"
                " again to see the new one"
            )

    @asynccontextmanager
    async def dial(self, kubelet: SocketId | None) -> AsyncIterator["KubeletClient"]:
        """A connection to the kubelet whose socket was found; ``kubelet`` is what ``socket_id()`` said.

        Raises:
            KubeletUnavailable: Nobody listens on kubelet.sock.
            ConfigurationError: The system does not let the plugin connect.
        """
        if kubelet is None:  # one that comes at this moment is for the next attempt, which knows its socket
            raise KubeletUnavailable(f"nobody listens on {self.socket}")
        try:
            _, connection = await asyncio.get_running_loop().create_unix_connection(CallingConnection, self.socket)
        except PermissionError as error:
            raise no_permission("connect to", self.socket, error) from error
        except OSError as error:
            raise KubeletUnavailable(f"nobody listens on {self.socket}") from error
        try:
            yield KubeletClient(connection)
        finally:
            connection.transport.close()


class KubeletClient:
    """A connection to the kubelet for one registration."""

    def __init__(self, connection: CallingConnection) -> None:
        self._connection = connection

    async def register(self, request: bytes) -> None:
        """Send a RegisterRequest and close the connection: the kubelet has then connected to the plugin and accepted
        it.

        Raises:
            RegistrationRejected: The kubelet will never accept this request.
            KubeletUnavailable: It did not accept it now.
        """
        try:
            await self._connection.call("/v1beta1.Registration/Register", request, _REGISTER_WITHIN_S)
        except CallError as error:
            raise _refusal(error.message or error.status.name) from error
        except TimeoutError as error:
            raise KubeletUnavailable(f"no answer to the registration in {_REGISTER_WITHIN_S} s") from error
        except ConnectionResetError as error:
            raise KubeletUnavailable(f"it went away during the registration ({error})") from error
        finally:
            self._connection.transport.close()


def _refusal(text: str) -> KubeletError:
    for beginning, advice in _REFUSED_FOR_GOOD.items():
        if text.startswith(beginning):
            return RegistrationRejected(f"the kubelet refused the registration: {text}: {advice}")
    return KubeletUnavailable(f"it did not accept the registration: {text}")
