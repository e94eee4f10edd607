"""kubelet.sock, and the books of those who registered on it (``plugin/v1beta1/server.go`` and ``handler.go``).

From 1.25 to 1.36 a client is found by its resource alone. Hence the two traps of those versions: the end of *any* stream
of a resource disconnects the *newest* client of it, and a registration that fails drops a living client from the books,
whose end then goes unnoticed. Since 1.37 the socket counts too.
"""

import asyncio
import os
import stat
from pathlib import Path

import anyio
from anyio.abc import TaskGroup
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from devplugin._proto.v1beta1 import DevicePluginOptions, Empty, RegisterRequest, RegistrationBase
from devplugin.testing._checkpoint import CHECKPOINT
from devplugin.testing._client import KubeletError, PluginClient
from devplugin.testing._clock import Clock
from devplugin.testing._devices import DeviceManager
from devplugin.testing._grpc import GoServer, RpcError
from devplugin.testing._names import is_extended_resource_name
from devplugin.testing._records import Records, Registration
from devplugin.testing._versions import Behaviour

__all__ = ["KUBELET_SOCKET", "RegistrationServer"]

API_VERSION = "v1beta1"
KUBELET_SOCKET = "kubelet.sock"
_PATH_MAX_BYTES = 107


class RegistrationServer(RegistrationBase):
    """The service on kubelet.sock. One per run of the kubelet."""

    def __init__(
        self,
        directory: Path,
        manager: DeviceManager,
        clock: Clock,
        records: Records,
        tasks: TaskGroup,
    ) -> None:
        self._directory = directory
        self._manager = manager
        self._clock = clock
        self._records = records
        self._tasks = tasks
        self._server = GoServer([self])
        self._books: dict[str, list[PluginClient]] = {}
        self._connections: list[PluginClient] = []

    def __repr__(self) -> str:
        return f"<RegistrationServer in {self._directory}, {self._server!r}, {len(self._connections)} plugins>"

    @property
    def _behaviour(self) -> Behaviour:
        return self._manager.behaviour

    async def start(self) -> None:
        """Make the directory, clean it, listen (server.go, Start)."""
        path = self._directory / KUBELET_SOCKET
        if len(bytes(path)) > _PATH_MAX_BYTES:
            raise ValueError(f"{path} has {len(bytes(path))} bytes; the path of a socket may have {_PATH_MAX_BYTES}")
        self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._clean_directory()
        await self._server.listen(path)

    def _clean_directory(self) -> None:
        """Remove what earlier runs left (manager.go: CleanupPluginDirectory, before 1.25 removeContents)."""
        for path in self._directory.iterdir():
            try:
                mode = path.stat().st_mode
            except FileNotFoundError:  # a link to nowhere is left alone
                continue
            unwanted = stat.S_ISSOCK(mode) if self._behaviour.cleans_sockets_only else not stat.S_ISDIR(mode)
            if unwanted and path.name != CHECKPOINT:
                path.unlink()

    def hang_up(self, *, abruptly: bool) -> None:
        """End every connection, in and out, and listen no more; kubelet.sock stays behind.

        Args:
            abruptly: Without GOAWAY.
        """
        for client in self._connections:
            if abruptly:
                client.abort()
            else:
                client.close()
        self._server.hang_up(abruptly=abruptly)

    async def closed(self) -> None:
        """See the calls in flight end, after `hang_up`."""
        await self._server.closed()

    async def register(self, message: RegisterRequest) -> Empty:
        """Answer Register."""
        self._records.add(f"Got registration request from device plugin with resource {message.resource_name}")
        error: str | None = None
        options: DevicePluginOptions | None = None
        try:
            options = await self._register(message)
        except KubeletError as refusal:
            error = str(refusal)
            raise GRPCError(Status.UNKNOWN, error) from refusal
        finally:
            self._records.add(
                Registration(
                    resource=message.resource_name,
                    endpoint=message.endpoint,
                    version=message.version,
                    at_s=self._clock.now(),
                    error=error
                    if error is not None or options is not None
                    else "the caller did not wait for an answer",
                    pre_start_required=options is not None and options.pre_start_required,
                    get_preferred_allocation_available=options is not None
                    and options.get_preferred_allocation_available,
                )
            )
        return Empty()

    async def _register(self, request: RegisterRequest) -> DevicePluginOptions:
        """Check, and connect (server.go, Register).

        Raises:
            KubeletError: The registration is refused.
        """
        if request.version != API_VERSION:
            raise KubeletError(
                f"requested API version {_quoted(request.version)} is not supported by kubelet. "
                f'Supported version is ["{API_VERSION}"]'
            )
        if not is_extended_resource_name(request.resource_name):
            raise KubeletError(f"the ResourceName {_quoted(request.resource_name)} is invalid")
        socket = _joined(self._directory, request.endpoint)
        authority = "localhost" if self._behaviour.authority_is_localhost else str(socket)
        client = PluginClient(request.resource_name, socket, authority, self._clock, self._records)
        self._connections = [known for known in self._connections if known.open] + [client]
        if self._behaviour.dials_inside_register:
            return await self._connect_aside(client)
        self._tasks.start_soon(self._add_endpoint, client, request.options, name=f"fake kubelet: {client.resource}")
        return request.options or DevicePluginOptions()

    async def _connect(self, client: PluginClient) -> DevicePluginOptions:
        """Dial, ask for the options, and start ListAndWatch (handler.go, connectClient)."""
        self._remember(client)
        try:
            await client.dial()
            options = await client.options()
            self._manager.connected(client, options)
        except BaseException:
            self._forget(client)
            raise
        self._tasks.start_soon(self._run_client, client, name=f"fake kubelet: {client.resource}")
        return options

    async def _connect_aside(self, client: PluginClient) -> DevicePluginOptions:
        """Connect in a task of the kubelet's own.

        The caller of Register may give up, and grpclib then cancels its handler in a way that the calls inside would
        take for an error of theirs. Since 1.35 that ends the connecting, too; before, it goes on.
        """
        answered = anyio.Event()
        answer: DevicePluginOptions | KubeletError | None = None
        scope = anyio.CancelScope()

        async def connect() -> None:
            nonlocal answer
            with scope:
                try:
                    answer = await self._connect(client)
                except KubeletError as error:
                    answer = error
                answered.set()

        self._tasks.start_soon(connect, name=f"fake kubelet: {client.resource}")
        try:
            await answered.wait()
        except asyncio.CancelledError:
            if self._behaviour.ends_with_caller:
                scope.cancel()
            raise
        if isinstance(answer, KubeletError):
            raise answer
        assert answer is not None
        return answer

    async def _run_client(self, client: PluginClient) -> None:
        """Follow ListAndWatch to its end, and disconnect whom the books name then (handler.go, runClient)."""
        await self._follow(client)
        known = self._find(client)
        if known is not None:
            self._forget(known)
            known.close()
            self._manager.disconnected(known.resource, known.socket)

    async def _add_endpoint(self, client: PluginClient, options: DevicePluginOptions | None) -> None:
        """Dial after Register has been answered, as 1.20 does (manager.go, addEndpoint and runEndpoint)."""
        try:
            await client.dial()
        except KubeletError as error:
            self._records.add(f"Failed to dial device plugin with request {client.resource}: {error}")
            return
        endpoint = self._manager.connected(client, options)
        await self._follow(client)
        client.close()
        self._manager.stopped(endpoint)
        if self._manager.endpoints.get(client.resource) is endpoint:
            self._manager.mark_unhealthy(client.resource)

    async def _follow(self, client: PluginClient) -> None:
        """Take every list that ListAndWatch sends, until it ends, however it ends (client.go, Run)."""
        ending = "EOF"
        try:
            async for devices in client.snapshots():
                self._manager.received(client, devices)
        except RpcError as error:
            ending = str(error)
        self._records.add(f"ListAndWatch ended unexpectedly for device plugin {client.resource}: {ending}")

    def _remember(self, client: PluginClient) -> None:
        known = self._books.get(client.resource, []) if self._behaviour.keyed_by_socket else []
        self._books[client.resource] = [*known, client]
        self._records.add(f"Registered client {client.resource}")

    def _forget(self, client: PluginClient) -> None:
        known = self._books.pop(client.resource, []) if self._behaviour.keyed_by_socket else []
        others = [other for other in known if other.socket != client.socket]
        if others:
            self._books[client.resource] = others
        else:
            self._books.pop(client.resource, None)

    def _find(self, client: PluginClient) -> PluginClient | None:
        for known in self._books.get(client.resource, []):
            if not self._behaviour.keyed_by_socket or known.socket == client.socket:
                return known
        return None


def _joined(directory: Path, endpoint: str) -> Path:
    """As Go's ``filepath.Join`` does it: below the directory, whatever the endpoint looks like."""
    return Path(os.path.normpath(f"{directory}/{endpoint}"))


_GO_ESCAPES = dict(zip('"\\\a\b\f\n\r\t\v', '"\\abfnrtv', strict=True))


def _quoted(text: str) -> str:
    """As Go's ``%q`` writes it."""
    return '"' + "".join(map(_quoted_character, text)) + '"'


def _quoted_character(character: str) -> str:
    code = ord(character)
    if character in _GO_ESCAPES:
        return "\\" + _GO_ESCAPES[character]
    if character.isprintable():
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
