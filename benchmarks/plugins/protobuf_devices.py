"""What the plugins on grpcio share: the list, as messages of Google's protobuf, and the answer to Allocate.

An expert keeps the response and changes it in place: then a change costs nothing but the encoding, in C.
"""

import logging

import deviceplugin_v1beta1_pb2 as pb
import grpc

log = logging.getLogger("plugin")


class Refused(Exception):
    """The devices cannot be allocated."""

    def __init__(self, status: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.status = status


class Devices:
    def __init__(self, count: int) -> None:
        self.response = pb.ListAndWatchResponse(
            devices=[pb.Device(ID=f"device-{n:09}", health="Healthy") for n in range(count)]
        )
        self.places = {
            device.ID: n for n, device in enumerate(self.response.devices)
        }  # an object for each would be dear

    def flip(self, which: slice) -> None:
        for device in self.response.devices[which]:
            device.health = "Unhealthy" if device.health == "Healthy" else "Healthy"

    def allocate(self, request: pb.AllocateRequest) -> pb.AllocateResponse:
        response = pb.AllocateResponse()
        for wanted in request.container_requests:
            ids = wanted.devices_ids
            log.info("Allocate %s", ids)
            for i in ids:
                place = self.places.get(i)
                if place is None:
                    raise Refused(grpc.StatusCode.NOT_FOUND, f"no device {i}")
                if self.response.devices[place].health != "Healthy":
                    raise Refused(grpc.StatusCode.UNAVAILABLE, f"device {i} is unhealthy")
            response.container_responses.add(
                envs={"DEVICES": ",".join(ids)},
                devices=[
                    pb.DeviceSpec(container_path=f"/dev/{i}", host_path=f"/dev/{i}", permissions="rw") for i in ids
                ],
            )
        return response


def register_request(endpoint: str, resource_name: str) -> pb.RegisterRequest:
    return pb.RegisterRequest(
        version="v1beta1", endpoint=endpoint, resource_name=resource_name, options=pb.DevicePluginOptions()
    )


_LAST = slice(-1, None)
_PREPARED = {"one": _LAST, "all": slice(1, None), "same": slice(0)}


def command(devices: Devices, line: str) -> tuple[bool, bool]:
    """Carry out a line of standard input, as ``devplugin_plugin.py`` describes it.

    Returns whether the list is to be sent now, and whether there will be more lines.
    """
    match line.split():
        case ["prepare", what]:
            devices.flip(_PREPARED[what])
            print("prepared", flush=True)
            return False, True
        case ["change"]:
            return True, True
        case ["flap"]:
            devices.flip(_LAST)
            return True, True
        case _:
            return False, False


# A kubelet's socket is there a moment before it listens.
CHANNEL_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.min_reconnect_backoff_ms", 20)]
REGISTER_WITHIN_S = 15.0
RETRY_S = 0.05
