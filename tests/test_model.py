"""The values of the public face: what they accept, refuse and show, and that they behave as values."""

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, dataclass, field, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from devplugin import (
    Allocation,
    AllocationError,
    ConfigurationError,
    Device,
    DeviceNode,
    Health,
    Mount,
    PreferredAllocationRequest,
)
from devplugin.model import check_resource_name, merge_grants
from tests.support_values import INT64_MAX, allocations, cdi_devices, device_ids, device_nodes, devices, mounts, paths

DEVICE = Device(
    "gpu-0",
    health=Health.UNHEALTHY,
    numa_nodes=[0, 1],
    grants=Allocation(
        env={"GPU": "0"},
        mounts=[Mount("/lib/gpu", "/opt/gpu/lib", read_only=True)],
        device_nodes=[DeviceNode("/dev/gpu0", "/dev/gpu0")],
        annotations={"example.com/gpu": "0"},
        cdi_devices=["example.com/gpu=0"],
    ),
)
VALUES = (DEVICE, DEVICE.grants, DEVICE.grants.mounts[0], DEVICE.grants.device_nodes[0])


@dataclass(frozen=True, slots=True)
class Gpu(Device):
    bus: str
    cores: int = field(default=1, kw_only=True)


# Refusals

TEXT = "it must be a string that UTF-8 can carry, without NUL"
ABSOLUTE = "it must be an absolute path"
ID = "it must be printable ASCII without spaces, and not empty"
NO_NODES: tuple[Any, ...] = (0, None, "01", b"01", {0: 1})
HEALTH = "it must be Health.HEALTHY or Health.UNHEALTHY"
NUMA = "it must be a number from 0 to 2**63 - 1; give none when it is not known"
LETTERS = "they must be some of r, w and m, each at most once"
CDI = "it must be of the form vendor/class=name, vendor and class with two characters or more"


@pytest.mark.parametrize(
    ("build", "what", "value", "rule"),
    [
        *((Device, "device id", v, ID) for v in ("", "a b", " a", "a\n", "a\t", "ä", "\x7f", "\0", 1, None, b"a")),
        *((lambda v: Device("a", health=v), "health", v, HEALTH) for v in ("Healthy", True, None)),
        *(
            (lambda v: Device("a", numa_nodes=v), "NUMA nodes", v, "it must be a sequence of int")
            for v in NO_NODES
        ),
        *((lambda v: Device("a", numa_nodes=[v]), "NUMA nodes item", v, "it must be of type int") for v in ("0", None, 0.0)),
        *((lambda v: Device("a", numa_nodes=(0, v)), "NUMA node", v, NUMA) for v in (-1, 2**63, True)),
        *((lambda v: Device("a", grants=v), "grants", v, "it must be an Allocation") for v in (None, "", Mount("/a", "/b"))),
        *((lambda v: Mount(v, "/a"), "container path", v, ABSOLUTE) for v in ("", "a", "./a", "~/a")),
        *((lambda v: Mount("/a", v), "host path", v, ABSOLUTE) for v in ("", "a", "./a", "~/a")),
        *((lambda v: Mount(v, "/a"), "container path", v, TEXT) for v in (None, 1, b"/a", "/a\0", "/\ud800")),
        *((lambda v: Mount("/a", v), "host path", v, TEXT) for v in (None, 1, b"/a", "/a\0", "/\ud800")),
        *((lambda v: Mount("/a", "/a", v), "read_only", v, "it must be True or False") for v in ("rw", 0, None)),
        *((lambda v: DeviceNode(v, "/a"), "container path", v, ABSOLUTE) for v in ("", "dev/a")),
        *((lambda v: DeviceNode("/a", v), "host path", v, ABSOLUTE) for v in ("", "dev/a")),
        *((lambda v: DeviceNode("/a", "/a", v), "permissions", v, LETTERS) for v in ("", "x", "rr", "rwx", "RW", None, ["r"])),
        *((lambda v: Allocation(env=v), "environment", v, "it must map names to strings") for v in (None, "A=1", ["A"])),
        (lambda v: Allocation(env={v: ""}), "environment name", "", "it must not be empty"),
        *((lambda v: Allocation(env={v: ""}), "environment name", v, TEXT) for v in (1, None, b"A", "A\0", "\ud800")),
        *(
            (lambda v: Allocation(env={v: ""}), "environment name", v, "a container runtime accepts no '=' in it")
            for v in ("=", "A=", "=A", "A=B")
        ),
        *((lambda v: Allocation(env={"A": v}), "environment value of 'A':", v, TEXT) for v in (1, None, b"1", "\0", "\ud800")),
        *((lambda v: Allocation(annotations=v), "annotation", v, "it must map names to strings") for v in (None, "A=1")),
        (lambda v: Allocation(annotations={v: ""}), "annotation name", "", "it must not be empty"),
        *((lambda v: Allocation(annotations={"a": v}), "annotation value of 'a':", v, TEXT) for v in (1, None)),
        *(
            (lambda v: Allocation(mounts=v), "mounts", v, "it must be a sequence of Mount")
            for v in (None, Mount("/a", "/b"), "/a:/b", {"/a": "/b"})
        ),
        *((lambda v: Allocation(mounts=[v]), "mounts item", v, "it must be of type Mount") for v in (None, "/a")),
        (lambda v: Allocation(device_nodes=v), "device nodes", "/dev/a", "it must be a sequence of DeviceNode"),
        (lambda v: Allocation(device_nodes=[v]), "device nodes item", "/dev/a", "it must be of type DeviceNode"),
        *((lambda v: Allocation(cdi_devices=v), "CDI devices", v, "it must be a sequence of str") for v in ("a/b=c", None)),
        (lambda v: Allocation(cdi_devices=[v]), "CDI devices item", 1, "it must be of type str"),
        *(
            (lambda v: Allocation(cdi_devices=[v]), "CDI device", v, CDI)
            for v in (
                *("", "aa", "aa/bb", "aa=c", "aa/bb=", "aa/=c", "/bb=c", "aa/bb=c/d", "aa/bb/c=d", "aa/bb=c=d", "aa/bb=c "),
                *("aa/bb=c\n", "1a/bb=c", "a-/bb=c", "aa/1=c", "aa/b.=c", "aa/bb=-c", "aa/bb=c_", "ää/bb=c", "a:b/bb=c"),
                *("aa/b:b=c", "a/bb=c", "aa/b=c"),
            )
        ),
    ],
)  # fmt: skip
def test_a_refusal_quotes_the_value_and_says_the_rule(
    build: Callable[[Any], object], what: str, value: object, rule: str
) -> None:
    """What cannot reach a kubelet or a container is refused where it is built."""
    with pytest.raises(ConfigurationError) as refused:
        build(value)
    assert str(refused.value) == f"{what} {value!r} is not usable: {rule}"


@pytest.mark.parametrize(
    ("items", "what"),
    [
        ((Mount("/a", "/x"), Mount("/b", "/x"), Mount("/a", "/y")), "mounts"),
        ((Mount("/a", "/x"), Mount("/a", "/x", read_only=True)), "mounts"),
        ((DeviceNode("/a", "/x"), DeviceNode("/a", "/y")), "device nodes"),
        ((DeviceNode("/a", "/x"), DeviceNode("/a", "/x", "r")), "device nodes"),
    ],
)
def test_a_place_in_the_container_has_one_content(items: tuple[Any, ...], what: str) -> None:
    """The kubelet would take the first and drop the others without a word."""
    with pytest.raises(ConfigurationError) as refused:
        Allocation(mounts=items) if what == "mounts" else Allocation(device_nodes=items)
    assert str(refused.value) == f"{what} {items!r} is not usable: the container path /a can have only one of them"


@given(allocations, st.data())
def test_the_same_grant_twice_is_harmless(allocation: Allocation, data: st.DataObject) -> None:
    """Repetition is no contradiction."""
    again = data.draw(st.permutations([*allocation.mounts, *allocation.mounts]))
    assert set(replace(allocation, mounts=again).mounts) == set(allocation.mounts)


# What is accepted


@given(device_ids, mounts, device_nodes, cdi_devices)
def test_what_follows_the_rules_is_accepted(device_id: str, mount: Mount, node: DeviceNode, cdi_device: str) -> None:
    """Values arrive as they were given."""
    grants = Allocation(mounts=[mount], device_nodes=[node], cdi_devices=[cdi_device])
    device = Device(device_id, grants=grants)
    assert (device.id, device.grants) == (device_id, grants)
    assert (grants.mounts, grants.device_nodes, grants.cdi_devices) == ((mount,), (node,), (cdi_device,))


@given(st.text(max_size=5))
def test_ids_are_what_a_kubelet_prints_in_one_word(text: str) -> None:
    """Exactly the ids of visible ASCII characters are accepted."""
    usable = text != "" and all("!" <= character <= "~" for character in text)
    try:
        Device(text)
    except ConfigurationError:
        assert not usable
    else:
        assert usable


@pytest.mark.parametrize("node", [0, 1, INT64_MAX])
def test_numa_nodes_are_from_0_to_the_largest_int64(node: int) -> None:
    """Node 0 is a node as any other."""
    assert Device("a", numa_nodes=[node]).numa_nodes == (node,)


@pytest.mark.parametrize(
    "name",
    [
        "aa/bb=c",
        "AA/BB=0",
        "a.b-c_d/e.f-g_h=i.j-k_l:m",
        "vendor.com/class=0",
        "a0/b0=c0",
        "example.com/gpu=all",
        "aB/cc=D",
    ],
)
def test_cdi_names_follow_the_specification(name: str) -> None:
    """Vendor and class begin with a letter, the name with a letter or digit too."""
    assert Allocation(cdi_devices=[name]).cdi_devices == (name,)


def test_defaults_are_a_healthy_device_that_grants_nothing() -> None:
    """Only the id has no default."""
    assert Device("a") == Device("a", health=Health.HEALTHY, numa_nodes=(), grants=Allocation())
    assert Mount("/a", "/b") == Mount("/a", "/b", read_only=False)
    assert DeviceNode("/a", "/b") == DeviceNode("/a", "/b", "rw")
    assert Allocation() == Allocation(env={}, mounts=(), device_nodes=(), annotations={}, cdi_devices=())


@pytest.mark.parametrize("arguments", [{"args": ({},)}, {"args": (), "kwargs": {"envs": {}}}])
def test_an_allocation_takes_names_only(arguments: dict[str, Any]) -> None:
    """Its parts have no natural order, and a misspelt one is refused."""
    with pytest.raises(TypeError):
        Allocation(*arguments["args"], **arguments.get("kwargs", {}))


def test_a_device_takes_its_id_first_and_the_rest_by_name() -> None:
    """Nobody reads what a second positional argument would be."""
    with pytest.raises(TypeError):
        Device("a", Health.HEALTHY)  # type: ignore[call-arg]


# Resource names

DNS = "the part before '/' must be a lower-case DNS subdomain of at most 244 characters"
NAME = "the part after '/' must be at most 63 letters, digits, '-', '_' or '.', with a letter or digit first and last"
RESERVED = "kubernetes.io and names that start with 'requests.' are reserved"
FORM = "it must be a string of the form vendor-domain/resource"


@pytest.mark.parametrize(
    "name",
    [
        *("demo/sample-device", "example.com/gpu", "a/b", "0/0", "1.2/3", "a-b.c/D_e.F-g", "xn--bcher-kva.example/a"),
        *(
            "a" * 244 + "/b",
            ".".join(["a"] * 122) + "/b",
            "a/" + "b" * 63,
            "k8s.io/a",
            "kubernetes.iox/a",
            "request.a/b",
        ),
        *("requestss.a/b", "a/requests.b", "a/kubernetes.io", "a/A", "a/a__.--b"),
    ],
)
def test_resource_names_that_kubelets_accept(name: str) -> None:
    """The name itself comes back."""
    assert check_resource_name(name) == name


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *((name, FORM) for name in (None, 1, b"a/b", "", "gpu", "a/b/c", "a//b", "//")),
        *((name, RESERVED) for name in ("kubernetes.io/a", "x.kubernetes.io/a", "akubernetes.io/a", "requests.a/b")),
        *((name, DNS) for name in ("/", "/b", "a" * 245 + "/b", "A/b", "a_b/c", "-a/b", "a-/b", "a..b/c", ".a/b", "a./b")),
        *((name, DNS) for name in ("a b/c", "a\n/b", "ä/b", "a.-b/c", "\u0661/b")),
        *((name, NAME) for name in ("a/", "a/" + "b" * 64, "a/-b", "a/b-", "a/_b", "a/b.", "a/b c", "a/b\n", "a/ä", "a/b:c")),
    ],
)  # fmt: skip
def test_resource_names_that_kubelets_refuse(name: object, rule: str) -> None:
    """They are refused before a kubelet is asked, with the part that is wrong."""
    with pytest.raises(ConfigurationError) as refused:
        check_resource_name(name)
    assert str(refused.value) == f"resource name {name!r} is not usable: {rule}"


# Values

frozen = pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)


@frozen
def test_values_cannot_be_changed(value: Any) -> None:
    """Neither a field nor, having slots, a misspelt one."""
    for name in value.__dataclass_fields__:
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, None)
    with pytest.raises((FrozenInstanceError, TypeError)):  # 3.11 says TypeError
        value.helth = Health.HEALTHY
    assert not hasattr(value, "__dict__")


def test_a_request_cannot_be_changed() -> None:
    """What preferred_allocation receives is a value too."""
    request = PreferredAllocationRequest((DEVICE,), (), 1)
    with pytest.raises(FrozenInstanceError):
        request.size = 2  # type: ignore[misc]
    assert not hasattr(request, "__dict__")
    assert {request, replace(request)} == {request}


def test_what_was_given_can_be_changed_without_effect() -> None:
    """A value keeps copies of the lists and dicts that it was built of."""
    env, nodes, granted = {"A": "1"}, [0], [Mount("/a", "/b")]
    allocation, device = Allocation(env=env, mounts=granted), Device("a", numa_nodes=nodes)
    env["B"] = "2"
    nodes.append(1)
    granted.clear()
    assert (allocation, device) == (Allocation(env={"A": "1"}, mounts=[Mount("/a", "/b")]), Device("a", numa_nodes=[0]))


@pytest.mark.parametrize(
    "change",
    [
        lambda env: env.__setitem__("A", "2"),
        lambda env: env.__delitem__("A"),
        lambda env: env.__ior__({"B": "2"}),
        lambda env: env.clear(),
        lambda env: env.pop("A"),
        lambda env: env.popitem(),
        lambda env: env.setdefault("B", "2"),
        lambda env: env.update(B="2"),
    ],
)
@pytest.mark.parametrize("name", ["env", "annotations"])
def test_names_and_values_cannot_be_changed(name: str, change: Callable[[Any], object]) -> None:
    """The mappings of an allocation are as frozen as itself."""
    granted = getattr(Allocation(env={"A": "1"}, annotations={"A": "1"}), name)
    with pytest.raises(TypeError, match="cannot be changed: make a new object with others"):
        change(granted)
    assert granted == {"A": "1"}


@given(devices)
def test_equal_values_are_equal_in_every_way(device: Device) -> None:
    """Copies of all kinds are equal, hash equally, and are as frozen; sets and dict keys work."""
    for made in (copy.copy(device), copy.deepcopy(device), pickle.loads(pickle.dumps(device)), replace(device)):
        assert type(made) is Device
        assert made == device
        assert {made: 1, device: 2} == {device: 2}
        with pytest.raises(TypeError):
            made.grants.env["A"] = "1"  # type: ignore[index]


few_devices = st.builds(
    Device,
    st.sampled_from("ab"),
    health=st.sampled_from(Health),
    numa_nodes=st.sampled_from([(), (0,)]),
    grants=st.sampled_from([Allocation(), Allocation(env={"A": "1"})]),
)


@given(few_devices, few_devices)
def test_different_values_differ(one: Device, other: Device) -> None:
    """Equality is that of all fields."""
    same = (one.id, one.health, one.numa_nodes, one.grants) == (other.id, other.health, other.numa_nodes, other.grants)
    assert (one == other) is same
    assert len({one, other}) == (1 if same else 2)


def test_hashes_do_not_depend_on_the_order_of_names() -> None:
    """Equal mappings hash equally."""
    one, other = Allocation(env={"A": "1", "B": "2"}), Allocation(env={"B": "2", "A": "1"})
    assert one == other
    assert hash(one) == hash(other)


def test_replace_makes_another_value() -> None:
    """The way to change the health of a device: the others stay, and the rules hold."""
    healthy = replace(DEVICE, health=Health.HEALTHY)
    assert (healthy.id, healthy.health, healthy.grants) == (DEVICE.id, Health.HEALTHY, DEVICE.grants)
    assert replace(DEVICE.grants, env={}).cdi_devices == DEVICE.grants.cdi_devices
    with pytest.raises(ConfigurationError):
        replace(DEVICE, id="")
    with pytest.raises(ConfigurationError):
        replace(DEVICE.grants, env=replace(DEVICE.grants, annotations={"a=b": "c"}).annotations)


def test_a_device_as_a_dict_and_as_json() -> None:
    """Devices can be logged and stored."""
    assert json.loads(json.dumps(asdict(DEVICE))) == {
        "id": "gpu-0",
        "health": "Unhealthy",
        "numa_nodes": [0, 1],
        "grants": {
            "env": {"GPU": "0"},
            "mounts": [{"container_path": "/lib/gpu", "host_path": "/opt/gpu/lib", "read_only": True}],
            "device_nodes": [{"container_path": "/dev/gpu0", "host_path": "/dev/gpu0", "permissions": "rw"}],
            "annotations": {"example.com/gpu": "0"},
            "cdi_devices": ["example.com/gpu=0"],
        },
    }


def test_representations_show_what_is_there() -> None:
    """An allocation shows what it grants only."""
    assert repr(Allocation()) == "Allocation()"
    assert (
        repr(Allocation(env={"A": "1"}, cdi_devices=["aa/bb=c"]))
        == "Allocation(env={'A': '1'}, cdi_devices=('aa/bb=c',))"
    )
    assert repr(Mount("/a", "/b")) == "Mount(container_path='/a', host_path='/b', read_only=False)"
    assert repr(DeviceNode("/a", "/b")) == "DeviceNode(container_path='/a', host_path='/b', permissions='rw')"
    assert repr(Device("a")) == (
        "Device(id='a', health=<Health.HEALTHY: 'Healthy'>, numa_nodes=(), grants=Allocation())"
    )
    assert str(Health.HEALTHY) == "Healthy"


# Subclasses


def test_a_subclass_carries_what_hooks_need() -> None:
    """Fields of its own come after the id, or by name; it is frozen, slotted, hashed and copied as its base."""
    gpu = Gpu("gpu-0", "0000:01:00.0", cores=4, numa_nodes=[1])
    assert (gpu.id, gpu.bus, gpu.cores, gpu.numa_nodes) == ("gpu-0", "0000:01:00.0", 4, (1,))
    assert not hasattr(gpu, "__dict__")
    with pytest.raises(FrozenInstanceError):
        gpu.cores = 8  # type: ignore[misc]
    for made in (copy.deepcopy(gpu), pickle.loads(pickle.dumps(gpu)), replace(gpu)):
        assert {made, gpu} == {gpu}
    assert gpu != Device("gpu-0", numa_nodes=[1])
    assert repr(gpu).startswith("Gpu(id='gpu-0', ")


def test_a_subclass_follows_the_rules_of_its_base() -> None:
    """The base's rules hold, and rules of its own may be added."""

    @dataclass(frozen=True, slots=True)
    class Slice(Gpu):
        def __post_init__(self) -> None:
            Device.__post_init__(self)
            if self.cores < 1:
                raise ValueError("no cores")

    with pytest.raises(ConfigurationError):
        Gpu("", "0000:01:00.0")
    with pytest.raises(ConfigurationError):
        Slice("", "0000:01:00.0")
    with pytest.raises(ValueError, match="no cores"):
        Slice("a", "0000:01:00.0", cores=0)


# Device.at


@pytest.mark.parametrize(
    ("path", "device_id"),
    [
        ("/dev/ttyUSB0", "ttyUSB0"),
        ("/dev/dri/renderD128", "dri-renderD128"),
        ("/dev/bus/usb/001/002", "bus-usb-001-002"),
        ("/srv/device", "srv-device"),
        ("/devices/a", "devices-a"),
        ("/dev/a/", "a"),
    ],
)
def test_a_device_at_a_path_is_named_after_it_and_grants_it(path: str, device_id: str) -> None:
    """The id is readable, and the node is at the same path in the container."""
    assert Device.at(path) == Device(device_id, grants=Allocation(device_nodes=[DeviceNode(path, path, "rw")]))


def test_a_device_at_a_path_can_be_told_the_rest() -> None:
    """All that a Device and its node know, and the subclass that it is asked of."""

    @dataclass(frozen=True, slots=True)
    class Port(Device):
        speed: int = 9600

    device = Port.at("/dev/a", container_path="/dev/b", permissions="r", health=Health.UNHEALTHY, numa_nodes=[0])
    node = DeviceNode("/dev/b", "/dev/a", "r")
    assert device == Port("a", health=Health.UNHEALTHY, numa_nodes=[0], grants=Allocation(device_nodes=[node]))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"path": "ttyUSB0"}, "host path 'ttyUSB0' is not usable: it must be an absolute path"),
        ({"path": "/dev/"}, "device id '' is not usable: .*"),
        ({"path": "/dev/a b"}, "device id 'a b' is not usable: .*"),
        ({"path": None}, "host path None is not usable: .*"),
        ({"path": "/dev/a", "container_path": ""}, "container path '' is not usable: it must be an absolute path"),
        ({"path": "/dev/a", "container_path": "b"}, "container path 'b' is not usable: it must be an absolute path"),
        ({"path": "/dev/a", "permissions": "x"}, "permissions 'x' is not usable: .*"),
        ({"path": "/dev/a", "numa_nodes": [-1]}, "NUMA node -1 is not usable: .*"),
    ],
)
def test_a_device_at_a_path_follows_the_rules(arguments: dict[str, Any], sentence: str) -> None:
    """What is wrong is named as the author gave it."""
    with pytest.raises(ConfigurationError, match=f"^{sentence}$"):
        Device.at(**arguments)


# What devices grant together


def granting(device_id: str, **grants: Any) -> Device:
    return Device(device_id, grants=Allocation(**grants))


def test_grants_are_merged_in_the_order_of_the_devices() -> None:
    """All that the devices grant is in the answer, each once."""
    shared = Mount("/lib/gpu", "/opt/gpu", read_only=True)
    one = granting(
        "one",
        env={"A": "1"},
        mounts=[shared],
        device_nodes=[DeviceNode("/dev/a", "/dev/a")],
        annotations={"a": "1"},
        cdi_devices=["aa/bb=1", "aa/bb=all"],
    )
    other = granting(
        "other",
        env={"B": "2"},
        mounts=[Mount("/b", "/b"), shared],
        device_nodes=[DeviceNode("/dev/b", "/dev/b")],
        annotations={"b": "2"},
        cdi_devices=["aa/bb=2", "aa/bb=all"],
    )
    assert merge_grants([one, other]) == Allocation(
        env={"A": "1", "B": "2"},
        mounts=[shared, Mount("/b", "/b")],
        device_nodes=[DeviceNode("/dev/a", "/dev/a"), DeviceNode("/dev/b", "/dev/b")],
        annotations={"a": "1", "b": "2"},
        cdi_devices=["aa/bb=1", "aa/bb=all", "aa/bb=2"],
    )


@given(devices)
def test_what_one_device_grants_is_what_its_container_gets(device: Device) -> None:
    """Nothing is lost but repetition, and the device may be there twice under two ids."""
    twin = replace(device, id=f"{device.id}-twin")
    expected = replace(device.grants, cdi_devices=[*dict.fromkeys(device.grants.cdi_devices)])
    assert merge_grants([device]) == merge_grants([device, twin]) == expected


def test_no_devices_grant_nothing() -> None:
    """A container that asked for none gets an empty answer."""
    assert merge_grants([]) == Allocation()


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ({"env": {"A": "1"}}, {"env": {"A": "2"}}, "environment variable A"),
        ({"annotations": {"a": "1"}}, {"annotations": {"a": ""}}, "annotation a"),
        ({"mounts": [Mount("/a", "/b")]}, {"mounts": [Mount("/a", "/b", read_only=True)]}, "mount /a"),
        ({"mounts": [Mount("/a", "/b")]}, {"mounts": [Mount("/a", "/c")]}, "mount /a"),
        (
            {"device_nodes": [DeviceNode("/dev/a", "/dev/a")]},
            {"device_nodes": [DeviceNode("/dev/a", "/dev/a", "r")]},
            "device node /dev/a",
        ),
    ],
)
def test_devices_that_contradict_each_other_are_named(first: dict[str, Any], second: dict[str, Any], what: str) -> None:
    """The two that differ are named, whatever stands between them, and so is what they set."""
    chosen = [granting("zero"), granting("one", **first), granting("between", **first), granting("two", **second)]
    with pytest.raises(AllocationError) as refused:
        merge_grants(chosen)
    assert str(refused.value) == f"Devices one and two cannot go to one container: they set {what} differently"


@given(paths, paths)
def test_a_mount_and_a_device_node_are_different_things(one: str, other: str) -> None:
    """Only the same kind of grant can contradict."""
    assume(one != other)
    merged = merge_grants(
        [granting("a", mounts=[Mount(one, one)]), granting("b", device_nodes=[DeviceNode(one, other)])]
    )
    assert (len(merged.mounts), len(merged.device_nodes)) == (1, 1)
