"""The kubelet as the client of one plugin's socket (``plugin/v1beta1/client.go``, ``endpoint.go``)."""

from collections.abc import AsyncIterator, Collection
from contextlib import aclosing
from pathlib import Path

from devplugin._proto.v1beta1 import (
    AllocateRequest,
    ContainerAllocateRequest,
    ContainerAllocateResponse,
    ContainerPreferredAllocationRequest,
    Device,
    DevicePluginOptions,
    DevicePluginStub,
    PreferredAllocationRequest,
    PreStartContainerRequest,
)
from devplugin.testing._clock import Clock
from devplugin.testing._grpc import PluginChannel, RpcError, go_errors
from devplugin.testing._records import Call, Records

__all__ = ["DIAL_TIMEOUT_S", "PRE_START_TIMEOUT_S", "KubeletError", "PluginClient"]

DIAL_TIMEOUT_S = 10.0
"""``dial`` in ``plugin/v1beta1/client.go``."""

PRE_START_TIMEOUT_S = 30.0
"""``KubeletPreStartContainerRPCTimeoutInSecs`` in ``k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/constants.go``."""

_ROUNDED_OFF_S = 0.9
"""grpclib cuts what is left of a deadline to whole seconds when it writes ``grpc-timeout``; Go does not."""

_RETRY_FIRST_S, _RETRY_FACTOR = 1.0, 1.6
"""grpc-go's ``backoff.DefaultConfig``, without its jitter: the pauses between two attempts to connect."""


class KubeletError(Exception):
    """What the kubelet refuses, in its own words."""


class PluginClient:
    """One registration of one plugin: a connection, and the calls on it."""

    def __init__(self, resource: str, socket: Path, authority: str, clock: Clock, records: Records) -> None:
        self.resource = resource
        self.socket = socket
        self._clock = clock
        self._records = records
        self._channel = PluginChannel(socket, authority)
        self._stub = DevicePluginStub(self._channel)

    def __repr__(self) -> str:
        return f"<PluginClient {self.resource} {self._channel!r}>"

    @property
    def open(self) -> bool:
        """Whether there is a connection, or still can be."""
        return self._channel.open

    async def dial(self) -> None:
        """Connect, trying again until `DIAL_TIMEOUT_S` are over.

        Raises:
            KubeletError: Nobody answered in that time.
        """
        with self._clock.move_on_after(DIAL_TIMEOUT_S):
            pause_s = _RETRY_FIRST_S
            while True:
                try:
                    return await self._channel.dial()
                except OSError:
                    await self._clock.sleep(pause_s)
                    pause_s *= _RETRY_FACTOR
        raise KubeletError("failed to dial device plugin: context deadline exceeded")

    async def options(self) -> DevicePluginOptions:
        """Call GetDevicePluginOptions, without a deadline.

        Raises:
            KubeletError: The call failed.
        """
        try:
            async with go_errors():
                return await self._stub.get_device_plugin_options()
        except RpcError as error:
            raise KubeletError(f"failed to get device plugin options: {error}") from error

    async def snapshots(self) -> AsyncIterator[list[Device]]:
        """Call ListAndWatch and yield each list.

        Raises:
            RpcError: The stream ended other than with status OK.
        """
        async with go_errors(), aclosing(self._stub.list_and_watch()) as stream:  # type: ignore[type-var]
            async for message in stream:
                yield message.devices

    async def allocate(self, ids: Collection[str]) -> list[ContainerAllocateResponse]:
        """Call Allocate for one container, without a deadline.

        Raises:
            RpcError: The call failed.
        """
        request = AllocateRequest(container_requests=[ContainerAllocateRequest(devices_ids=list(ids))])
        try:
            async with go_errors():
                response = await self._stub.allocate(request)
        except RpcError as error:
            self._record("Allocate", device_ids=ids, error=str(error))
            raise
        self._record("Allocate", device_ids=ids)
        return response.container_responses

    async def preferred(self, available: Collection[str], must_include: Collection[str], size: int) -> set[str]:
        """Call GetPreferredAllocation for one container, without a deadline.

        Raises:
            RpcError: The call failed.
        """
        request = PreferredAllocationRequest(
            container_requests=[
                ContainerPreferredAllocationRequest(
                    available_deviceIDs=list(available),
                    must_include_deviceIDs=list(must_include),
                    allocation_size=size,
                )
            ]
        )
        try:
            async with go_errors():
                response = await self._stub.get_preferred_allocation(request)
        except RpcError as error:
            self._record(
                "GetPreferredAllocation", available=available, must_include=must_include, size=size, error=str(error)
            )
            raise
        ids = response.container_responses[0].device_i_ds if response.container_responses else []
        self._record(
            "GetPreferredAllocation", device_ids=ids, available=available, must_include=must_include, size=size
        )
        return set(ids)

    async def pre_start(self, ids: Collection[str]) -> None:
        """Call PreStartContainer, with a deadline of `PRE_START_TIMEOUT_S`.

        Raises:
            RpcError: The call failed, or took too long.
        """
        request = PreStartContainerRequest(devices_ids=list(ids))
        try:
            async with go_errors():
                with self._clock.fail_after(PRE_START_TIMEOUT_S):
                    await self._stub.pre_start_container(request, timeout=PRE_START_TIMEOUT_S + _ROUNDED_OFF_S)
        except RpcError as error:
            self._record("PreStartContainer", device_ids=ids, error=str(error))
            raise
        self._record("PreStartContainer", device_ids=ids)

    def close(self) -> None:
        """Close the connection with GOAWAY."""
        self._channel.close()

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._channel.abort()

    def _record(
        self,
        method: str,
        *,
        device_ids: Collection[str] = (),
        available: Collection[str] = (),
        must_include: Collection[str] = (),
        size: int = 0,
        error: str | None = None,
    ) -> None:
        self._records.add(
            Call(
                method=method,
                resource=self.resource,
                endpoint=self.socket.name,
                at_s=self._clock.now(),
                device_ids=tuple(device_ids),
                available=tuple(available),
                must_include=tuple(must_include),
                size=size,
                error=error,
            )
        )
