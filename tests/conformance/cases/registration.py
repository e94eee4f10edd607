"""Register, as the kubelet answers it: with a plugin that has no manners of its own."""

import asyncio

import grpc
import pytest

from devplugin._proto import v1beta1 as pb
from tests.conformance.kubelet import Counts
from tests.conformance.lab import Lab, refusal
from tests.conformance.registry import case, since
from tests.kubelets.answers import Pod
from tests.testing.grpcio_plugin import GrpcioPlugin, Refusal, healthy

RESOURCE = "example.com/raw"

_LABEL = "a" * 63
INVALID_NAMES = (
    "",
    "no-slash",
    "two/slashes/here",
    "kubernetes.io/x",
    "sub.kubernetes.io/x",
    "requests.example.com/x",
    "/x",
    "example.com/",
    "Example.com/x",
    "example..com/x",
    "-example.com/x",
    "example-/x",
    "exämple.com/x",
    "example.com/-x",
    "example.com/x-",
    "example.com/x y",
    "example.com/" + "x" * 64,
    ".".join([_LABEL] * 3 + ["a" * 53]) + "/x",  # 245 characters before the slash
)
VALID_NAMES = (
    "a/b",
    "example.com/X_y.z-1",
    "example.com/" + "x" * 63,
    ".".join([_LABEL] * 3 + ["a" * 52]) + "/x",  # 244 characters before the slash
)


@case()
async def a_wrong_version_is_refused(lab: Lab) -> None:
    """Register refuses any version of the API but v1beta1, in these words."""
    plugin = await lab.raw("a.sock")
    for version in ("v1alpha", "v1", "", "v1beta1 ", 'v"1', "vü"):
        quoted = '"' + version.replace('"', '\\"') + '"'
        expected = f'requested API version {quoted} is not supported by kubelet. Supported version is ["v1beta1"]'
        assert await refusal(plugin.register(RESOURCE, version)) == expected
    assert not lab.kubelet.knows(RESOURCE)


@case()
async def an_invalid_name_is_refused(lab: Lab) -> None:
    """Register refuses whatever is no name of an extended resource, in these words."""
    plugin = await lab.raw("a.sock")
    for name in INVALID_NAMES:
        assert await refusal(plugin.register(name)) == f'the ResourceName "{name}" is invalid'
        assert not lab.kubelet.knows(name)


@case()
async def the_longest_names_are_accepted(lab: Lab) -> None:
    """Names up to the limits are accepted, and counted."""
    for number, name in enumerate(VALID_NAMES):
        plugin = await lab.raw(f"{number}.sock")
        await plugin.register(name)
        await lab.offers(name, 4)


@case()
async def a_socket_that_nobody_serves_is_refused(lab: Lab) -> None:
    """Register dials the plugin for ten seconds; before 1.25 it answers first, and nothing comes of it."""
    plugin = GrpcioPlugin(lab.directory, "nobody.sock")
    if lab.version.dials_inside_register:
        expected = "failed to dial device plugin: context deadline exceeded"
        assert await refusal(plugin.register(RESOURCE, timeout_s=30)) == expected
    else:
        await plugin.register(RESOURCE)
    assert not lab.kubelet.knows(RESOURCE)
    assert not lab.kubelet.registered(RESOURCE) or not lab.version.dials_inside_register


@case(needs=[since("1.25", "does not ask for options")])
async def failing_options_are_refused(lab: Lab) -> None:
    """When GetDevicePluginOptions fails, so does Register, in the plugin's words, and the resource never appears."""
    plugin = await lab.raw("a.sock")
    plugin.options = Refusal(grpc.StatusCode.UNIMPLEMENTED, "none of that")
    expected = "failed to get device plugin options: rpc error: code = Unimplemented desc = none of that"
    assert await refusal(plugin.register(RESOURCE)) == expected
    assert plugin.asked("ListAndWatch") == []
    other = await lab.raw("b.sock")
    await other.register("example.com/other")
    await lab.offers("example.com/other", 4)
    assert not lab.kubelet.knows(RESOURCE)


@case()
async def register_answers_when_the_plugin_is_connected(lab: Lab) -> None:
    """The options have been asked for, and asked for on the plugin's socket, when Register returns (since 1.25)."""
    plugin = await lab.raw("a.sock")
    await plugin.register(RESOURCE)
    if lab.version.dials_inside_register:
        assert len(plugin.asked("GetDevicePluginOptions")) == 1
    await lab.offers(RESOURCE, 4)
    assert len(plugin.asked("GetDevicePluginOptions")) == lab.version.dials_inside_register
    await lab.registered(RESOURCE, 1)
    assert lab.kubelet.registered(RESOURCE) == ["a.sock"]


@case()
async def the_options_of_the_call_count(lab: Lab) -> None:
    """Not those of the request, but those of GetDevicePluginOptions count (since 1.25)."""
    plugin = await lab.raw("a.sock")
    plugin.options = pb.DevicePluginOptions(pre_start_required=True)
    registering = GrpcioPlugin(lab.directory, "a.sock")  # says in the request that it wants nothing
    await registering.register(RESOURCE)
    await lab.offers(RESOURCE, 4)
    await lab.run(Pod.of("a", RESOURCE, 1))
    assert len(plugin.asked("PreStartContainer")) == lab.version.dials_inside_register


@case()
async def one_socket_registered_twice(lab: Lab) -> None:
    """Since 1.37 a second registration of the same socket is refused; before, it is just one more."""
    plugin = await lab.raw("a.sock")
    await plugin.register(RESOURCE)
    await lab.registered(RESOURCE, 1)
    await lab.offers(RESOURCE, 4)
    if lab.version.knows_sockets:
        path = lab.directory / "a.sock"
        assert await refusal(plugin.register(RESOURCE)) == f"device plugin already connected: {path}"
    else:
        await plugin.register(RESOURCE)
        await lab.registered(RESOURCE, 2)
    await plugin.send(*healthy("1", "2"))
    await lab.offers(RESOURCE, 2)


@case()
async def options_that_hang_hold_up_only_their_own_plugin(lab: Lab) -> None:
    """While one plugin does not answer for its options, another one registers; the one that gave up is registered all the
    same when it answers, but from 1.35 on.
    """
    plugin, other = await lab.raw("a.sock"), await lab.raw("b.sock")
    answer = asyncio.Event()
    plugin.hold = {"GetDevicePluginOptions": answer}
    if lab.version.dials_inside_register:
        # Both ends keep the deadline; CANCELLED is the kubelet's end, when it is first.
        with pytest.raises(grpc.aio.AioRpcError, match=r"DEADLINE_EXCEEDED|DeadlineExceeded|CANCELLED"):
            await plugin.register(RESOURCE, timeout_s=1)
    else:
        await plugin.register(RESOURCE)
    await other.register("example.com/other")
    await lab.offers("example.com/other", 4)
    answer.set()
    if lab.version.gives_register_up_with_its_caller:
        await plugin.register(RESOURCE)
    await lab.offers(RESOURCE, 4)


@case()
async def the_last_one_to_register_gets_the_calls(lab: Lab) -> None:
    """Two plugins of one resource side by side: the newest list of either counts, the last to register allocates."""
    first, second = await lab.raw("a.sock", *healthy("1", "2")), await lab.raw("b.sock", *healthy("3"))
    await first.register(RESOURCE)
    await lab.offers(RESOURCE, 2)
    await second.register(RESOURCE)
    await lab.offers(RESOURCE, 1)
    await first.send(*healthy("1", "2", "3"))
    await lab.offers(RESOURCE, 3)
    await lab.run(Pod.of("a", RESOURCE, 3))
    assert (len(first.asked("Allocate")), len(second.asked("Allocate"))) == (0, 1)
    assert sorted(second.asked("Allocate")[0]) == ["1", "2", "3"]


@case()
async def the_late_end_of_an_old_stream(lab: Lab) -> None:
    """A plugin that registers anew before its old stream has ended loses the new registration with that (1.25 to 1.36)."""
    old, new = await lab.raw("a.sock"), await lab.raw("b.sock", *healthy("5", "6"))
    await old.register(RESOURCE)
    await lab.offers(RESOURCE, 4)
    await new.register(RESOURCE)
    await lab.offers(RESOURCE, 2)
    await old.end_streams()
    if lab.version.late_end_takes_the_new_registration:
        await lab.away(RESOURCE, 2)
        await asyncio.wait_for(new.stream_ended.wait(), lab.kubelet.timeout_s)
    else:
        await new.send(*healthy("5", "6", "7"))
        await lab.offers(RESOURCE, 3)
        await lab.run(Pod.of("a", RESOURCE, 3))
        assert len(new.asked("Allocate")) == 1


@case()
async def a_second_instance_that_fails(lab: Lab) -> None:
    """A second instance whose registration fails takes nothing from the first; but from 1.25 to 1.36 the first one's end
    goes unnoticed then.
    """
    first, second = await lab.raw("a.sock"), await lab.raw("b.sock")
    await first.register(RESOURCE)
    await lab.offers(RESOURCE, 4)
    if lab.version.dials_inside_register:
        second.options = Refusal(grpc.StatusCode.UNKNOWN, "broken")
        await refusal(second.register(RESOURCE))
    else:
        await second.stop()
        await second.register(RESOURCE)
    await first.send(*healthy("1", "2"))
    await lab.offers(RESOURCE, 2)
    await lab.run(Pod.of("a", RESOURCE, 1))
    assert len(first.asked("Allocate")) == 1
    await first.end_streams()
    if lab.version.late_end_takes_the_new_registration:
        await lab.run(Pod.of("b", RESOURCE, 1))  # it goes on being asked
        assert len(first.asked("Allocate")) == 2
        assert lab.kubelet.counts(RESOURCE) == Counts(2, 2)
    else:
        await lab.away(RESOURCE, 2)


@case()
async def a_second_instance_that_is_withdrawn(lab: Lab) -> None:
    """When the second instance leaves, the first one serves again (1.37); before, its lists count but it is not asked."""
    first, second = await lab.raw("a.sock"), await lab.raw("b.sock", *healthy("1", "2"))
    await first.register(RESOURCE)
    await lab.offers(RESOURCE, 4)
    await second.register(RESOURCE)
    await lab.offers(RESOURCE, 2)
    await second.stop()
    if lab.version.knows_sockets:
        await first.send(*healthy("1", "2", "3"))
        await lab.offers(RESOURCE, 3)
        await lab.run(Pod.of("a", RESOURCE, 1))
        assert len(first.asked("Allocate")) == 1
        return
    await lab.away(RESOURCE, 2)
    await first.send(*healthy("1", "2", "3"))
    await lab.offers(RESOURCE, 3)
    reason = await lab.rejected(Pod.of("a", RESOURCE, 1))
    assert reason.startswith("endpoint ")
    assert reason.endswith(" has been stopped")
    again = await lab.raw("c.sock")
    await again.register(RESOURCE)
    await lab.offers(RESOURCE, 4)
    await lab.run(Pod.of("b", RESOURCE, 1))
