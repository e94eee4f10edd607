"""``devplugin pods``: who holds what on this node."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from devplugin import ConfigurationError, KubeletError
from devplugin.cli._output import (
    console,
    example,
    output_option,
    plain,
    print_json,
    run_interruptibly,
    simple_table,
)
from devplugin.podresources import (
    POD_RESOURCES_SOCKET,
    AllocatableResources,
    HeldDevice,
    PodResources,
    PodResourcesClient,
)

__all__ = ["command"]


@click.command(epilog=example("devplugin pods", "devplugin pods --resource example.com/serial --output json"))
@click.option(
    "--socket",
    metavar="SOCKET",
    type=click.Path(),
    default=POD_RESOURCES_SOCKET,
    show_default=True,
    help="The kubelet's pod resources socket.",
)
@click.option("--resource", metavar="NAME", help="Only this resource.")
@output_option("one JSON document, with CPUs, memory and resource claims too")
def command(socket: str, resource: str | None, output: str) -> None:
    """Show which pods of this node have which devices, and how many of each resource are free.

    The kubelet says it, of every plugin's devices. Run it on the node, as root. The exit status is 1 when the kubelet
    does not answer.
    """
    try:
        pods, allocatable = run_interruptibly(lambda: _ask(socket))
    except (ConfigurationError, KubeletError) as error:
        raise click.ClickException(f"{error}.") from error
    if output == "json":
        print_json(_document(pods, allocatable, resource))
        return
    _show(pods, allocatable, resource)


async def _ask(socket: str) -> tuple[list[PodResources], AllocatableResources]:
    async with PodResourcesClient(socket) as kubelet:
        return await kubelet.pods(), await kubelet.allocatable()


def _held(pods: list[PodResources], only: str | None) -> Iterator[tuple[PodResources, str, str, Sequence[HeldDevice]]]:
    """Pod, container, resource and devices of each container that has any."""
    for pod in sorted(pods, key=lambda pod: (pod.namespace, pod.name)):
        for container in pod.containers:
            for resource, devices in container.devices.items():
                if only in (None, resource):
                    yield pod, container.name, resource, devices


def _show(pods: list[PodResources], allocatable: AllocatableResources, only: str | None) -> None:
    out = console()
    held: dict[str, set[str]] = {}
    holders = simple_table("NAMESPACE", "POD", "CONTAINER", "RESOURCE", "DEVICES")
    for pod, container, resource, devices in _held(pods, only):
        held.setdefault(resource, set()).update(device.id for device in devices)
        ids = ", ".join(device.id for device in devices)
        holders.add_row(*map(plain, (pod.namespace, pod.name, container, resource, ids)))
    if holders.row_count:
        out.print(holders)
    else:
        out.print("No pod on this node has a device" + (f" of {only}." if only else "."))
    totals = simple_table("RESOURCE", "HEALTHY", "HELD", "FREE")
    for resource in sorted(name for name in {*allocatable.devices, *held} if only in (None, name)):
        healthy = {device.id for device in allocatable.devices.get(resource, ())}
        taken = held.get(resource, set())
        totals.add_row(plain(resource), str(len(healthy)), str(len(taken)), str(len(healthy - taken)))
    if totals.row_count:
        out.print()
        out.print(totals)


def _document(pods: list[PodResources], allocatable: AllocatableResources, only: str | None) -> object:
    def of_resource(devices: Mapping[str, Sequence[HeldDevice]]) -> dict[str, list[dict[str, Any]]]:
        return {name: [asdict(each) for each in found] for name, found in devices.items() if only in (None, name)}

    return {
        "pods": [
            {
                "namespace": pod.namespace,
                "name": pod.name,
                "cpu_ids": pod.cpu_ids,
                "memory": [asdict(each) for each in pod.memory],
                "containers": [
                    {
                        "name": container.name,
                        "devices": of_resource(container.devices),
                        "cpu_ids": container.cpu_ids,
                        "memory": [asdict(each) for each in container.memory],
                        "dynamic_resources": [asdict(each) for each in container.dynamic_resources],
                    }
                    for container in pod.containers
                ],
            }
            for pod in pods
        ],
        "allocatable": {
            "devices": of_resource(allocatable.devices),
            "cpu_ids": allocatable.cpu_ids,
            "memory": [asdict(each) for each in allocatable.memory],
        },
    }
