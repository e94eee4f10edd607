"""The bytes of every message that a plugin sends or receives, against the generated messages and Google's protobuf."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from devplugin import Allocation, Device, DevicePluginError, Health
from devplugin._proto import v1beta1 as pb
from devplugin._wire import (
    LIST_BYTES_MAX,
    MalformedMessage,
    decode_allocate,
    decode_pre_start_container,
    decode_preferred_allocation,
    encode_allocate,
    encode_device,
    encode_options,
    encode_preferred_allocation,
    encode_register,
)
from tests.support_protobuf import google, google_parse
from tests.support_values import INT64_MAX, allocations, listed_devices, names, numa_nodes

any_texts = st.text(st.characters(codec="utf-8"), max_size=300)
ids = st.lists(any_texts, max_size=5)
ids_of_containers = st.lists(ids, max_size=4)
int32s = st.integers(-(2**31), 2**31 - 1)


def assert_is(data: bytes, google_message: Any, generated: Any) -> None:
    """The bytes are this message for both libraries, and no longer than Google's (whose maps have an order of their own)."""
    assert google(google_message.DESCRIPTOR.name).FromString(data) == google_message
    assert type(generated).parse(data) == generated
    assert len(data) == google_message.ByteSize() == len(bytes(generated))


# What a plugin sends


@given(st.booleans(), st.booleans())
def test_options(pre_start: bool, preferred: bool) -> None:  # noqa: FBT001
    """The options are what the plugin can do."""
    assert_is(
        encode_options(pre_start=pre_start, preferred_allocation=preferred),
        google("DevicePluginOptions")(pre_start_required=pre_start, get_preferred_allocation_available=preferred),
        pb.DevicePluginOptions(pre_start_required=pre_start, get_preferred_allocation_available=preferred),
    )


@given(names, names, st.booleans(), st.booleans())
def test_register(endpoint: str, resource: str, pre_start: bool, preferred: bool) -> None:  # noqa: FBT001
    """A registration names version, socket and resource, and always brings options, even those that are all false."""
    options = encode_options(pre_start=pre_start, preferred_allocation=preferred)
    flags = {"pre_start_required": pre_start, "get_preferred_allocation_available": preferred}
    data = encode_register(endpoint=endpoint, resource_name=resource, options=options)
    assert_is(
        data,
        google("RegisterRequest")(version="v1beta1", endpoint=endpoint, resource_name=resource, options=flags),
        pb.RegisterRequest("v1beta1", endpoint, resource, pb.DevicePluginOptions(**flags)),
    )
    assert google("RegisterRequest").FromString(data).HasField("options")


def google_device(device: Device) -> Any:
    topology = {"nodes": [{"ID": node} for node in device.numa_nodes]} if device.numa_nodes else None
    return google("Device")(ID=device.id, health=device.health.value, topology=topology)


def generated_device(device: Device) -> pb.Device:
    topology = pb.TopologyInfo([pb.NumaNode(node) for node in device.numa_nodes]) if device.numa_nodes else None
    return pb.Device(device.id, device.health.value, topology)


@given(st.lists(listed_devices, max_size=5))
@example([Device("a", numa_nodes=[0])])
@example([Device("a", numa_nodes=[0, 0, 1, 127, 128, INT64_MAX])])
@example([Device("a" * 127), Device("a" * 128), Device("a" * 20_000)])
def test_the_list_is_its_pieces_joined(listed: list[Device]) -> None:
    """Pieces make a ListAndWatchResponse, byte for byte the one that Google's protobuf writes."""
    data = b"".join(map(encode_device, listed))
    message = google("ListAndWatchResponse")(devices=map(google_device, listed))
    assert data == message.SerializeToString()
    assert_is(data, message, pb.ListAndWatchResponse([generated_device(device) for device in listed]))


@given(numa_nodes)
@example(())
@example((0,))
def test_topology_is_there_only_with_nodes(nodes: tuple[int, ...]) -> None:
    """Node 0 is kept; without nodes there is no topology, since an empty one loses the device for the kubelet."""
    [sent] = google("ListAndWatchResponse").FromString(encode_device(Device("a", numa_nodes=nodes))).devices
    assert sent.HasField("topology") == bool(nodes)
    assert tuple(node.ID for node in sent.topology.nodes) == nodes


@pytest.mark.parametrize(
    ("id_length", "nodes", "fit"),
    [
        (16, (), 144_631),
        (36, (), 85_598),
        (63, (), 55_188),
        (16, (0,), 127_100),
        (36, (0,), 79_137),
        (63, (0,), 52_428),
    ],
)
def test_as_many_devices_fit_as_a_kubelet_took(id_length: int, nodes: tuple[int, ...], fit: int) -> None:
    """The sizes are those that were found with a real peer's limit."""
    assert LIST_BYTES_MAX // len(encode_device(Device("x" * id_length, numa_nodes=nodes))) == fit


def google_allocation(allocation: Allocation) -> Any:
    return google("ContainerAllocateResponse")(
        envs=dict(allocation.env),
        mounts=[
            {"container_path": m.container_path, "host_path": m.host_path, "read_only": m.read_only}
            for m in allocation.mounts
        ],
        devices=[
            {"container_path": n.container_path, "host_path": n.host_path, "permissions": n.permissions}
            for n in allocation.device_nodes
        ],
        annotations=dict(allocation.annotations),
        cdi_devices=[{"name": name} for name in allocation.cdi_devices],
    )


def generated_allocation(allocation: Allocation) -> pb.ContainerAllocateResponse:
    return pb.ContainerAllocateResponse(
        envs=dict(allocation.env),
        mounts=[pb.Mount(m.container_path, m.host_path, m.read_only) for m in allocation.mounts],
        devices=[pb.DeviceSpec(n.container_path, n.host_path, n.permissions) for n in allocation.device_nodes],
        annotations=dict(allocation.annotations),
        cdi_devices=[pb.CdiDevice(name) for name in allocation.cdi_devices],
    )


@given(st.lists(allocations, max_size=2))
@example([])
@example([Allocation()])
@example([Allocation(env={"EMPTY": ""}, annotations={"empty": ""})])
@example([Allocation(env={"LONG": "x" * 100_000})])
def test_allocate_response(answers: list[Allocation]) -> None:
    """One answer for each container, an empty one too, with all that it grants."""
    assert_is(
        encode_allocate(answers),
        google("AllocateResponse")(container_responses=map(google_allocation, answers)),
        pb.AllocateResponse([generated_allocation(answer) for answer in answers]),
    )


@given(ids_of_containers)
def test_preferred_allocation_response(choices: list[list[str]]) -> None:
    """One list of ids for each container, an empty one too."""
    message = google("PreferredAllocationResponse")(container_responses=[{"deviceIDs": choice} for choice in choices])
    data = encode_preferred_allocation(choices)
    assert data == message.SerializeToString()
    assert_is(
        data,
        message,
        pb.PreferredAllocationResponse([pb.ContainerPreferredAllocationResponse(choice) for choice in choices]),
    )


# What a plugin receives


@given(ids_of_containers)
def test_allocate_request(asked: list[list[str]]) -> None:
    """The ids of each container, in order, whoever encoded them."""
    by_google = google("AllocateRequest")(container_requests=[{"devices_ids": each} for each in asked])
    generated = pb.AllocateRequest([pb.ContainerAllocateRequest(each) for each in asked])
    assert decode_allocate(by_google.SerializeToString()) == asked
    assert decode_allocate(bytes(generated)) == asked


@given(st.lists(st.tuples(ids, ids, int32s), max_size=4))
@example([([], [], -1)])
@example([(["a"], [], -(2**31)), ([], ["b"], 2**31 - 1), ([], [], 0)])
def test_preferred_allocation_request(asked: list[tuple[list[str], list[str], int]]) -> None:
    """What each container may get, must get, and how many, whoever encoded it; a negative size stays one."""
    by_google = google("PreferredAllocationRequest")(
        container_requests=[
            {"available_deviceIDs": available, "must_include_deviceIDs": must, "allocation_size": size}
            for available, must, size in asked
        ]
    )
    generated = pb.PreferredAllocationRequest([pb.ContainerPreferredAllocationRequest(*each) for each in asked])
    assert decode_preferred_allocation(by_google.SerializeToString()) == asked
    assert decode_preferred_allocation(bytes(generated)) == asked


@given(ids)
def test_pre_start_container_request(asked: list[str]) -> None:
    """The ids of the container that starts, whoever encoded them."""
    assert (
        decode_pre_start_container(google("PreStartContainerRequest")(devices_ids=asked).SerializeToString()) == asked
    )
    assert decode_pre_start_container(bytes(pb.PreStartContainerRequest(asked))) == asked


# What others may send: all that the format allows, and what it does not

ALLOCATE, PREFERRED, PRE_START = "AllocateRequest", "PreferredAllocationRequest", "PreStartContainerRequest"
MESSAGES = pytest.mark.parametrize("name", [ALLOCATE, PREFERRED, PRE_START])

DECODERS: dict[str, Callable[[bytes], Any]] = {
    ALLOCATE: decode_allocate,
    PREFERRED: decode_preferred_allocation,
    PRE_START: decode_pre_start_container,
}
FROM_GOOGLE: dict[str, Callable[[Any], Any]] = {
    ALLOCATE: lambda message: [[*each.devices_ids] for each in message.container_requests],
    PREFERRED: lambda message: [
        ([*each.available_deviceIDs], [*each.must_include_deviceIDs], each.allocation_size)
        for each in message.container_requests
    ],
    PRE_START: lambda message: [*message.devices_ids],
}


def ours(name: str, data: bytes) -> Any:
    """What we read; None when we refuse. Any other exception fails the test."""
    try:
        return DECODERS[name](data)
    except MalformedMessage:
        return None


def theirs(name: str, data: bytes) -> Any:
    """What Google's protobuf reads; None when it refuses."""
    message = google_parse(name, data)
    return None if message is None else FROM_GOOGLE[name](message)


def varint(number: int, length: int = 1) -> bytes:
    """The number in at least ``length`` bytes: more than it needs is allowed."""
    parts = bytearray()
    while number > 0x7F or len(parts) + 1 < length:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def tag(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def field(number: int, payload: bytes) -> bytes:
    return tag(number, 2) + varint(len(payload)) + payload


field_numbers = st.integers(1, 4) | st.integers(1, 2**29 - 1)
lengths = st.integers(1, 5)
uint64s = st.integers(0, 2**64 - 1)
texts_and_others = any_texts.map(str.encode) | st.binary(max_size=20)

number_fields = st.builds(
    lambda number, value, length: tag(number, 0) + varint(value, length), field_numbers, uint64s, st.integers(1, 10)
)
fixed_fields = st.builds(
    lambda number, value: tag(number, 1) + value, field_numbers, st.binary(min_size=8, max_size=8)
) | (st.builds(lambda number, value: tag(number, 5) + value, field_numbers, st.binary(min_size=4, max_size=4)))


def length_fields(payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda number, payload, key_length, length: (
            varint(number << 3 | 2, key_length) + varint(len(payload), length) + payload
        ),
        field_numbers,
        payloads,
        lengths,
        lengths,
    )


def messages_of(payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(number_fields | fixed_fields | length_fields(payloads), max_size=5).map(b"".join)


inner_messages = messages_of(texts_and_others)
messages = inner_messages | messages_of(inner_messages)


@MESSAGES
@given(data=messages)
@example(data=field(1, tag(3, 0) + varint(7) + tag(3, 0) + varint(5)))  # the last one counts
@example(data=field(1, tag(3, 0) + varint(7)) + field(1, tag(3, 0) + varint(5)))  # not over two containers
@example(data=field(1, tag(3, 0) + varint(2**64 - 1)))  # -1
@example(data=field(1, tag(3, 0) + varint(2**63 + 5)))  # what is above 32 bits is cut off
@example(data=field(1, tag(3, 0) + b"\xff" * 9 + b"\x7f"))  # and above 64
@example(data=field(1, tag(3, 0) + b"\xff" * 10))  # too long
@example(data=field(1, field(3, b"\x05")))  # a string where a number is due is another field
@example(data=tag(1, 0) + b"\x05")  # and the other way round
@example(data=field(1, field(1, b"\xff")))  # no UTF-8
@example(data=field(1, field(1, b"\xed\xa0\x80")))  # half of a pair
@example(data=field(1, field(1, b"")))
@example(data=tag(2**29 - 1, 0) + b"\x00")
@example(data=tag(2**29, 0) + b"\x00")
@example(data=tag(0, 0) + b"\x00")
@example(data=tag(0, 2) + b"\x00")
@example(data=tag(1, 6))
@example(data=tag(1, 7))
@example(data=tag(1, 4))
@example(data=tag(1, 2) + varint(2**31))
@example(data=tag(1, 2) + varint(2**64 - 1))
def test_every_message_is_read_as_protobuf_reads_it(name: str, data: bytes) -> None:
    """Unknown fields, repeated and long ones, numbers of all sizes, wrong types: accepted, refused and read alike."""
    assert ours(name, data) == theirs(name, data)


@MESSAGES
@given(data=messages)
@example(
    data=field(1, field(1, b"abc") + field(2, "grüße".encode()) + tag(3, 0) + varint(2**64 - 1))
    + tag(7, 1)
    + b"8bytes.."
)
def test_a_message_cut_short_is_read_as_protobuf_reads_it(name: str, data: bytes) -> None:
    """At whichever byte it ends: refused, but for an end between two fields, which makes a shorter message."""
    for length in range(len(data)):
        assert ours(name, data[:length]) == theirs(name, data[:length])


@MESSAGES
@given(data=st.binary(max_size=100))
def test_random_bytes_do_no_harm(name: str, data: bytes) -> None:
    """They are malformed, or what protobuf reads."""
    read = ours(name, data)
    expected = theirs(name, data)
    assert read is None or expected is None or read == expected


@MESSAGES
def test_groups_are_refused(name: str) -> None:
    """Protobuf skips a group, of which proto3 has none; for us that is malformed."""
    group = tag(7, 3) + tag(7, 4)
    assert theirs(name, group) == []
    with pytest.raises(MalformedMessage, match="unknown wire type 3"):
        DECODERS[name](group)


@MESSAGES
def test_a_number_may_have_as_many_bytes_as_grpc_go_allows(name: str) -> None:
    """Keys and lengths of six to ten bytes are read, as Go's protobuf does and Google's C++ does not; nobody writes them."""
    expected = DECODERS[name](field(1, b""))
    for data in (varint(10, 10) + varint(0), varint(10) + varint(0, 10)):
        assert theirs(name, data) is None
        assert ours(name, data) == expected


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (field(1, b"abc")[:-1], "the message is cut short, or is no protobuf message"),
        (tag(5, 5) + b"123", "the message is cut short, or is no protobuf message"),
        (tag(0, 0) + b"\x01", "the message is cut short, or is no protobuf message"),
        (b"\x80", "the message is cut short in a number, or the number is too long"),
        (tag(1, 0) + b"\xff" * 10 + b"\x01", "the message is cut short in a number, or the number is too long"),
        (tag(1, 7), "the message has a field of the unknown wire type 7"),
        (field(1, b"a\xff"), "a string of the message is no UTF-8"),
    ],
)
def test_refusals_say_what_is_wrong(data: bytes, sentence: str) -> None:
    """The caller, and who reads the log, get a sentence."""
    with pytest.raises(MalformedMessage, match=sentence):
        decode_pre_start_container(data)
    assert issubclass(MalformedMessage, DevicePluginError)


def test_health_is_the_kubelets_word() -> None:
    """Anything but "Healthy" is unhealthy to a kubelet."""
    for health, word in ((Health.HEALTHY, b"\x12\x07Healthy"), (Health.UNHEALTHY, b"\x12\x09Unhealthy")):
        assert encode_device(Device("a", health=health)).endswith(word)
