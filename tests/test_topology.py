"""NUMA nodes, from a sysfs of our own laid out as the kernel's, and from the machine's."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devplugin import ConfigurationError, Device
from devplugin.topology import numa_nodes_of_cpus, numa_nodes_of_interface, numa_nodes_of_path, numa_nodes_of_pci


class Sysfs:
    """A sysfs with some devices."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def device(self, path: str, *names: str, node: int | None = None) -> Path:
        """A directory below ``devices``, with links to it as sysfs has them."""
        place = self.root / "devices" / path
        place.mkdir(parents=True, exist_ok=True)
        if node is not None:
            (place / "numa_node").write_text(f"{node}\n")
        for name in names:
            link = self.root / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(place, link.parent))
        return place

    def pci(self, address: str, node: int, *, below: str = "pci0000:3a/0000:3a:00.0") -> str:
        """A PCI device; its path."""
        self.device(f"{below}/{address}", f"bus/pci/devices/{address}", node=node)
        return f"{below}/{address}"


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    """A machine with devices on two nodes."""
    sysfs = Sysfs(tmp_path / "sys")
    sysfs.pci("0000:3b:00.0", 0)
    sysfs.pci("0000:af:00.1", 1)
    sysfs.pci("0000:05:00.0", -1)
    sysfs.pci("10000:e1:00.0", 1)
    return sysfs


# PCI ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "nodes"),
    [
        ("0000:3b:00.0", (0,)),
        ("3b:00.0", (0,)),
        ("00000000:3B:00.0", (0,)),
        ("0000:AF:00.1", (1,)),
        ("10000:e1:00.0", (1,)),
        ("00010000:E1:00.0", (1,)),
        ("0000:05:00.0", ()),
        ("0000:3b:00.1", ()),
    ],
)
def test_a_pci_address(sysfs: Sysfs, address: str, nodes: tuple[int, ...]) -> None:
    """As sysfs, lspci and NVML write it; unknown and not there are no node."""
    found = numa_nodes_of_pci(address, sysfs=sysfs.root)
    assert found == nodes
    assert Device("a", numa_nodes=found).numa_nodes == nodes


def test_a_pci_device_whose_bridge_is_known(sysfs: Sysfs) -> None:
    """What the firmware says of the bridge holds for what is below."""
    sysfs.pci("0000:90:00.0", 3, below="pci0000:90")
    sysfs.pci("0000:91:00.0", -1, below="pci0000:90/0000:90:00.0")
    assert numa_nodes_of_pci("0000:91:00.0", sysfs=sysfs.root) == (3,)


@pytest.mark.parametrize(
    "address", ["", "3b:00", "0000:3b:00.8", "0000:3b:20.0", "0000:3b:00.0\n", "../../x", "é:3b:00.0", 7, None]
)
def test_what_is_no_pci_address(sysfs: Sysfs, address: Any) -> None:
    """It is refused with its form, for no device can have it."""
    with pytest.raises(ConfigurationError, match=r"must be of the form 0000:3b:00\.0"):
        numa_nodes_of_pci(address, sysfs=sysfs.root)


# Device nodes ---------------------------------------------------------------------------------------------------------


def numbers_of(path: str) -> str:
    device = Path(path).stat().st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


def test_a_character_device(sysfs: Sysfs, tmp_path: Path) -> None:
    """A serial port has its USB controller's node; a link of udev's leads to it."""
    port = f"{sysfs.pci('0000:00:14.0', 1, below='pci0000:00')}/usb1/1-2/1-2:1.0/ttyUSB0/tty/ttyUSB0"
    sysfs.device(port, f"dev/char/{numbers_of('/dev/null')}")
    (tmp_path / "by-id").symlink_to("/dev/null")
    assert numa_nodes_of_path("/dev/null", sysfs=sysfs.root) == (1,)
    assert numa_nodes_of_path(tmp_path / "by-id", sysfs=str(sysfs.root)) == (1,)


@pytest.fixture
def make_disk(tmp_path: Path) -> Callable[[int], Path]:
    """Makes a device node of a disk with this minor number, which no driver needs to have."""
    if os.geteuid() != 0:
        pytest.skip("only root can make device nodes")

    def make(minor: int) -> Path:
        path = tmp_path / f"disk{minor}"
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(259, minor))
        return path

    return make


def test_a_disk_and_its_partition(sysfs: Sysfs, make_disk: Callable[[int], Path]) -> None:
    """The partition is below the disk, and the disk below its controller."""
    disk = f"{sysfs.pci('0000:81:00.0', 1)}/nvme/nvme0/nvme0n1"
    sysfs.device(disk, "dev/block/259:0")
    sysfs.device(f"{disk}/nvme0n1p1", "dev/block/259:1")
    assert [numa_nodes_of_path(make_disk(minor), sysfs=sysfs.root) for minor in (0, 1, 2)] == [(1,), (1,), ()]


def test_a_disk_that_stands_on_others(sysfs: Sysfs, make_disk: Callable[[int], Path]) -> None:
    """A volume on an array has the nodes of the array's disks."""
    disks = [
        sysfs.device(f"{sysfs.pci(f'0000:{bus}:00.0', node)}/nvme/nvme{bus}")
        for bus, node in (("82", 1), ("83", 0), ("84", 1))
    ]
    array = sysfs.device("virtual/block/md0")
    volume = sysfs.device("virtual/block/dm-0", "dev/block/259:0")
    for upper, lower in [(volume, array), *((array, disk) for disk in disks)]:
        (upper / "slaves").mkdir(exist_ok=True)
        (upper / "slaves" / lower.name).symlink_to(lower)
    assert numa_nodes_of_path(make_disk(0), sysfs=sysfs.root) == (0, 1)


def test_a_vfio_group(sysfs: Sysfs) -> None:
    """It has the nodes of its devices."""
    sysfs.device("virtual/vfio/12", f"dev/char/{numbers_of('/dev/zero')}")
    sysfs.device("pci0000:3a/0000:3a:00.0/0000:af:00.1", "kernel/iommu_groups/12/devices/0000:af:00.1")
    assert numa_nodes_of_path("/dev/zero", sysfs=sysfs.root) == (1,)


def test_nodes_that_are_not_there(sysfs: Sysfs, tmp_path: Path) -> None:
    """A device that has gone, in the file system or in sysfs, has no known node; neither has one without a driver's word."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "gone", tmp_path / "file" / "below", "/dev/null"):
        assert numa_nodes_of_path(path, sysfs=sysfs.root) == ()


@pytest.mark.parametrize("path", ["", "/", __file__])
def test_what_is_no_device_node(sysfs: Sysfs, path: str) -> None:
    """A directory or a file is a mistake and not a device without a node."""
    with pytest.raises(ConfigurationError, match="must be a block or character device"):
        numa_nodes_of_path(path, sysfs=sysfs.root)


# Interfaces -----------------------------------------------------------------------------------------------------------


def test_an_interface(sysfs: Sysfs) -> None:
    """A port has its card's node, a bond those of its ports, and the loopback none."""
    ports = [
        sysfs.device(f"{sysfs.pci(f'0000:{bus}:00.0', node)}/net/{name}", f"class/net/{name}")
        for bus, node, name in (("85", 1, "eth0"), ("86", 0, "eth1"))
    ]
    bond = sysfs.device("virtual/net/bond0", "class/net/bond0")
    for port in ports:
        (bond / f"lower_{port.name}").symlink_to(port)
    sysfs.device("virtual/net/lo", "class/net/lo")
    names = ("eth0", "eth1", "bond0", "lo", "gone")
    assert [numa_nodes_of_interface(name, sysfs=sysfs.root) for name in names] == [(1,), (0,), (0, 1), (), ()]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a:b", "x" * 16, "eth0\n", 7])
def test_what_is_no_interface_name(sysfs: Sysfs, name: Any) -> None:
    """The kernel lets no interface be called so."""
    with pytest.raises(ConfigurationError, match="must be a name of at most 15 characters"):
        numa_nodes_of_interface(name, sysfs=sysfs.root)


# CPUs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_cpus(sysfs: Sysfs) -> Sysfs:
    """Two nodes with CPUs, as hyper-threads are numbered, and one with memory alone."""
    for node, cpus in enumerate(("0-3,8-11\n", "4-7,12-15\n", "\n")):
        (sysfs.device(f"system/node/node{node}") / "cpulist").write_text(cpus)
    (sysfs.root / "devices/system/node/nodes").mkdir()
    return sysfs


@pytest.mark.parametrize(
    ("cpus", "nodes"),
    [
        ("0", (0,)),
        ("0-3,8", (0,)),
        (" 4 - 5 , 12\n", (1,)),
        ("3-4", (0, 1)),
        ("0-99999999999999", (0, 1)),
        ("16", ()),
        ("", ()),
        ("\n", ()),
    ],
)
def test_a_list_of_cpus(with_cpus: Sysfs, cpus: str, nodes: tuple[int, ...]) -> None:
    """In the kernel's form; none for no CPU and for CPUs that are not there."""
    assert numa_nodes_of_cpus(cpus, sysfs=with_cpus.root) == nodes


@given(st.sets(st.integers(0, 15)))
def test_any_list_of_cpus(tmp_path_factory: pytest.TempPathFactory, cpus: set[int]) -> None:
    """Each CPU counts, however the list is put together."""
    sysfs = Sysfs(tmp_path_factory.mktemp("sys"))
    for node in range(4):
        (sysfs.device(f"system/node/node{node}") / "cpulist").write_text(f"{4 * node}-{4 * node + 3}\n")
    found = numa_nodes_of_cpus(",".join(map(str, cpus)), sysfs=sysfs.root)
    assert found == tuple(sorted({cpu // 4 for cpu in cpus}))


@pytest.mark.parametrize(
    "cpus", ["a", "0-", "-1", "3-0", "0,,1", ",", "0-3:1/2", "\N{ARABIC-INDIC DIGIT ONE}", 7, None]
)
def test_what_is_no_list_of_cpus(with_cpus: Sysfs, cpus: Any) -> None:
    """It is refused with its form."""
    with pytest.raises(ConfigurationError, match="of the form 0-3,8"):
        numa_nodes_of_cpus(cpus, sysfs=with_cpus.root)


# The machine ----------------------------------------------------------------------------------------------------------


def test_this_machine() -> None:
    """The kernel's own sysfs is read: each PCI device says what its attribute says, virtual devices say nothing."""
    for device in Path("/sys/bus/pci/devices").glob("*"):
        node = int((device / "numa_node").read_text())
        assert numa_nodes_of_pci(device.name) == (() if node < 0 else (node,))
    assert numa_nodes_of_path("/dev/null") == ()
    assert numa_nodes_of_interface("lo") == ()
    nodes = Path("/sys/devices/system/node")
    online = (nodes / "node0").exists() and (nodes / "node0" / "cpulist").read_text().startswith("0")
    assert numa_nodes_of_cpus("0") == ((0,) if online else ())


@pytest.mark.parametrize(
    "ask",
    [
        lambda sysfs: numa_nodes_of_pci("3b:00.0", sysfs=sysfs),
        lambda sysfs: numa_nodes_of_path("/dev/null", sysfs=sysfs),
        lambda sysfs: numa_nodes_of_interface("lo", sysfs=sysfs),
        lambda sysfs: numa_nodes_of_cpus("0", sysfs=sysfs),
    ],
)
def test_without_a_sysfs(tmp_path: Path, ask: Callable[[Path], tuple[int, ...]]) -> None:
    """A wrong place is told apart from devices of which nothing is known."""
    with pytest.raises(ConfigurationError, match="there is no sysfs at /"):
        ask(tmp_path / "nothing")
