"""Any device nodes and files of a node as resources, told by a YAML file: no code for each kind of device.

    python -m examples.generic examples/generic.yaml

The file has the form of squat/generic-device-plugin's; generic.yaml beside this file says what is in it. It needs PyYAML.
"""

import argparse
import asyncio
import difflib
import hashlib
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, replace
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import yaml

from devplugin import Allocation, ConfigurationError, Device, DeviceNode, DevicePluginBase, Health, Mount, run
from devplugin.sources import every

_PLAIN = {str: "text (in quotes, if it looks like a number)", int: "a whole number of 1 or more", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class PathSpec:
    """Paths that match a glob, each of them a device node or a mount for the container."""

    path: str
    mount_path: str = ""
    type: str = "Device"
    permissions: str = "rwm"
    read_only: bool = False
    limit: int = 1
    optional: bool = False

    def __post_init__(self) -> None:
        if self.type not in {"Device", "Mount"}:
            raise ConfigurationError(f"type {self.type!r} is not known: it must be Device or Mount")
        self.grant(self.path)  # which is checked when it is built

    def grant(self, path: str) -> Mount | DeviceNode:
        place = self.mount_path or path
        place += Path(path).name if place.endswith("/") else ""
        return Mount(place, path, self.read_only) if self.type == "Mount" else DeviceNode(place, path, self.permissions)


@dataclass(frozen=True, kw_only=True)
class UsbSpec:
    """USB devices by vendor and product, and by serial number if one is given."""

    vendor: str
    product: str
    serial: str = ""

    def __post_init__(self) -> None:
        for number in (self.vendor, self.product):
            if not re.fullmatch("[0-9A-Fa-f]{4}", number):
                raise ConfigurationError(f"{number!r} is no USB id: it must be four hexadecimal digits")

    def is_of(self, vendor: str, product: str, serial: str) -> bool:
        return (self.vendor.lower(), self.product.lower()) == (vendor, product) and self.serial in {"", serial}


@dataclass(frozen=True, kw_only=True)
class Group:
    """What goes to a container as one device: a path of each spec, or one USB device; `count` containers may have it."""

    paths: list[PathSpec] = field(default_factory=list)
    usb: list[UsbSpec] = field(default_factory=list)
    count: int = 1

    def __post_init__(self) -> None:
        if bool(self.paths) == bool(self.usb):
            raise ConfigurationError("it must have either paths or usb")


@dataclass(frozen=True, kw_only=True)
class Resource:
    name: str
    groups: list[Group]


@dataclass(frozen=True, kw_only=True)
class Configuration:
    domain: str
    devices: list[Resource]


def load(file: Path) -> Configuration:
    """What the file says. A ``ConfigurationError`` says what is wrong with it, and where."""
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
    return _read(Configuration, content, file.name)  # type: ignore[no-any-return]


def _read(kind: Any, value: object, place: str) -> Any:
    """The value as it must be at this place of the file: plain, a list, or one of the classes above."""
    if kind in _PLAIN:
        if type(value) is not kind or (type(value) is int and value < 1):  # isinstance would take True for a number
            raise ConfigurationError(f"{place}: {value!r} must be {_PLAIN[kind]}")
        return value
    if items := get_args(kind):
        if not isinstance(value, list) or not value:
            raise ConfigurationError(f"{place}: {value!r} must be a list with at least one entry")
        return [_read(items[0], item, f"{place}[{n}]") for n, item in enumerate(value)]
    known = {re.sub("_(.)", lambda m: m[1].upper(), each.name): each for each in fields(kind)}  # read_only is readOnly
    if not isinstance(value, dict):
        raise ConfigurationError(f"{place}: {value!r} must be a mapping with {', '.join(known)}")
    for name in value.keys() - known.keys():
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise ConfigurationError(f"{place}: {name!r} is not known: {hint}")
    for name, each in known.items():
        if name not in value and each.default is MISSING and each.default_factory is MISSING:
            raise ConfigurationError(f"{place}: {name} is missing")
    given = {known[name].name: _read(known[name].type, each, f"{place}.{name}") for name, each in value.items()}
    try:
        return kind(**given)
    except ConfigurationError as error:
        raise ConfigurationError(f"{place}: {error}") from error


def scan_paths(group: Group) -> Iterator[Device]:
    """Where one spec matches more paths than another, there are as many devices as the shortest one, repeated, allows."""
    found = [(spec, sorted(glob(spec.path))) for spec in group.paths]  # noqa: PTH207 - pathlib's takes no absolute ones
    found = [(spec, paths) for spec, paths in found if paths or not spec.optional]
    longest = max((len(paths) for _, paths in found), default=0)
    rows = zip(*(paths * spec.limit for spec, paths in found), strict=False)
    for row in islice(rows, longest):
        grants = [spec.grant(path) for (spec, _), path in zip(found, row, strict=True)]
        yield from _copies(Path(row[0]).name, "\0".join(row), grants, group.count)


def scan_usb(group: Group, sysfs: Path) -> Iterator[Device]:
    """A device that is plugged in again gets another node, so its id is made of its serial number, or else of its port."""
    for port in sorted(path.parent for path in sysfs.glob("*/idVendor")):
        with suppress(OSError):  # it is being unplugged
            vendor, product = ((port / name).read_text().strip() for name in ("idVendor", "idProduct"))
            serial = (port / "serial").read_text().strip() if (port / "serial").exists() else ""
            if any(usb.is_of(vendor, product, serial) for usb in group.usb):
                bus, number = (int((port / name).read_text()) for name in ("busnum", "devnum"))
                node = DeviceNode(path := f"/dev/bus/usb/{bus:03}/{number:03}", path)
                yield from _copies(f"{vendor}-{product}", serial or port.name, [node], group.count)


def _copies(name: str, identity: str, grants: Sequence[Mount | DeviceNode], count: int) -> Iterator[Device]:
    """The device as often as it may be had, with ids that can be read and stay the same."""
    nodes = [grant for grant in grants if isinstance(grant, DeviceNode)]
    mounts = [grant for grant in grants if isinstance(grant, Mount)]
    readable = re.sub("[^A-Za-z0-9_.-]", "_", name)[:40]
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:8]
    for n in range(count):
        yield Device(f"{readable}-{digest}-{n}", grants=Allocation(device_nodes=nodes, mounts=mounts))


class Generic(DevicePluginBase):
    """One resource of the file."""

    def __init__(
        self, domain: str, resource: Resource, *, sysfs: Path = Path("/sys/bus/usb/devices"), interval_s: float = 5.0
    ) -> None:
        self.resource_name = f"{domain}/{resource.name}"
        self._groups = resource.groups
        self._sysfs = sysfs
        self._interval_s = interval_s

    async def devices(self) -> AsyncIterator[Iterable[Device]]:
        known: dict[str, Device] = {}
        async for _ in every(self._interval_s):
            found = await asyncio.to_thread(self._scan)
            known |= found
            yield [d if d.id in found else replace(d, health=Health.UNHEALTHY) for d in known.values()]

    def _scan(self) -> dict[str, Device]:
        scans = (scan_usb(group, self._sysfs) if group.usb else scan_paths(group) for group in self._groups)
        return {device.id: device for scan in scans for device in scan}


def main() -> None:
    options = argparse.ArgumentParser(prog="generic", description=__doc__.partition("\n")[0])
    options.add_argument("config", type=Path, help="the YAML file")
    options.add_argument("--kubelet-dir", default="/var/lib/kubelet/device-plugins", help="where kubelet.sock is")
    arguments = options.parse_args()
    try:
        config = load(arguments.config)
        run(*(Generic(config.domain, resource) for resource in config.devices), kubelet_dir=arguments.kubelet_dir)
    except ConfigurationError as error:
        options.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
