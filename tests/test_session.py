"""One plugin's registration: what begins a session, what ends it, and what is left behind."""

import asyncio
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from devplugin import (
    Allocation,
    ConfigurationError,
    Device,
    DevicePluginBase,
    KubeletError,
    KubeletUnavailable,
    PreferredAllocationRequest,
    RegistrationRejected,
    _siblings,
)
from devplugin._cell import Latest
from devplugin._kubelet import KubeletDirectory
from devplugin._proto import v1beta1 as pb
from devplugin._session import Registration
from devplugin._snapshot import Snapshot
from tests.conftest import Serve, eventually
from tests.grpcio_kubelet import grpcio_kubelet

pytestmark = pytest.mark.asyncio


class Fixed(DevicePluginBase):
    resource_name = "acme.com/widget"

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a", grants=Allocation(env={"A": "1"})), Device("b")]


async def test_registers_and_announces(directory: Path, serve: Serve) -> None:
    """A plugin registers on a readable socket name, and its devices reach the kubelet."""
    async with grpcio_kubelet(directory) as kubelet:
        serve(Fixed())
        await kubelet.until(lambda k: k.lists)
        assert kubelet.lists == [{"a": "Healthy", "b": "Healthy"}]
        (request,) = kubelet.requests
        assert (request.version, request.resource_name) == ("v1beta1", "acme.com/widget")
        assert request.endpoint.startswith("widget-")
        assert (directory / request.endpoint).is_socket()
        assert request.options is not None
        assert request.options.to_dict() == kubelet.options[0].to_dict() == {}


async def test_a_clean_end_leaves_nothing(directory: Path, serve: Serve) -> None:
    """Cancelling ends the kubelet's stream with OK and removes the socket."""
    async with grpcio_kubelet(directory) as kubelet:
        task = serve(Fixed())
        await kubelet.until(lambda k: k.lists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await kubelet.until(lambda k: k.stream_ends)
        assert kubelet.stream_ends == [grpc.StatusCode.OK]
        assert [path.name for path in directory.iterdir()] == ["kubelet.sock"]


async def test_registers_again_after_a_kubelet_restart(directory: Path, serve: Serve) -> None:
    """A new kubelet.sock is registered with, on a socket name that was never used before."""
    async with grpcio_kubelet(directory) as kubelet:
        serve(Fixed())
        for n in range(1, 6):
            await kubelet.lists_seen(n)
            await kubelet.restart()
        await kubelet.until(lambda k: len(k.lists) == 6)
        assert len({request.endpoint for request in kubelet.requests}) == 6
        assert {path.name for path in directory.iterdir()} == {"kubelet.sock", kubelet.requests[-1].endpoint}


async def test_another_kubelet_takes_over(directory: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """When kubelet.sock is made again under a live stream, that stream ends in order before the new kubelet is told."""
    caplog.set_level("INFO", "devplugin")
    async with grpcio_kubelet(directory) as old:
        serve(Fixed())
        await old.until(lambda k: k.lists)
        async with grpcio_kubelet(directory) as new:
            await new.until(lambda k: k.requests)
            assert old.stream_ends == [grpc.StatusCode.OK]
            await new.until(lambda k: k.lists)
    assert "acme.com/widget: kubelet.sock was made again: registering again" in caplog.messages


async def test_registers_again_when_the_stream_is_dropped(directory: Path, serve: Serve) -> None:
    """The kubelet never asks again for a list, so the end of its stream is the end of the session."""
    async with grpcio_kubelet(directory) as kubelet:
        serve(Fixed())
        await kubelet.until(lambda k: k.lists)
        await kubelet.drop(kubelet.plugins[0])
        await kubelet.until(lambda k: len(k.lists) == 2)


async def test_waits_for_a_kubelet(directory: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Without a kubelet, and with the socket that a dead one left, a plugin waits and says so once."""
    caplog.set_level("INFO", "devplugin")
    serve(Fixed())
    await eventually(lambda: caplog.messages)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "kubelet.sock"))
    async with grpcio_kubelet(directory) as kubelet:
        await kubelet.until(lambda k: k.lists)
    waiting = [text for text in caplog.messages if "waiting for the kubelet" in text]
    assert len(waiting) == 1


async def test_waits_for_the_kubelets_directory(
    directory: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """A kubelet that has never run has not made it yet."""
    caplog.set_level("INFO", "devplugin")
    path = directory / "kubelet" / "device-plugins"
    serve(Fixed(), kubelet_dir=path)
    await eventually(lambda: caplog.messages)
    path.mkdir(parents=True)
    async with grpcio_kubelet(path) as kubelet:
        await kubelet.until(lambda k: k.lists)


async def test_a_refused_name_ends_serve(directory: Path, serve: Serve) -> None:
    """What the kubelet will never accept ends serve() with the kubelet's words and an advice."""
    async with grpcio_kubelet(directory) as kubelet:
        kubelet.refuse_with = 'the ResourceName "acme.com/widget" is invalid'
        with pytest.raises(RegistrationRejected, match="is invalid: choose another resource_name"):
            await serve(Fixed())
        assert [path.name for path in directory.iterdir()] == ["kubelet.sock"]


async def test_a_refusal_that_may_pass_is_retried(
    directory: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Other refusals are retried, with a socket that was never registered, and said once."""
    caplog.set_level("INFO", "devplugin")
    async with grpcio_kubelet(directory) as kubelet:
        kubelet.refuse_with = kubelet_says = "failed to dial device plugin: context deadline exceeded"
        serve(Fixed())
        await kubelet.until(lambda k: len(k.requests) == 3)
        kubelet.refuse_with = None
        await kubelet.until(lambda k: k.lists)
        assert len({request.endpoint for request in kubelet.requests}) == len(kubelet.requests)
    refusals = [text for text in caplog.messages if "did not accept" in text]
    assert refusals == [f"acme.com/widget: waiting for the kubelet: it did not accept the registration: {kubelet_says}"]


async def test_options_are_what_is_overridden(directory: Path, serve: Serve) -> None:
    """The kubelet is told of the hooks that a subclass has, in the request and when it asks."""

    class Both(Fixed):
        async def preferred_allocation(self, request: PreferredAllocationRequest[Device]) -> Sequence[Device]:
            return request.available

        async def pre_start_container(self, devices: Sequence[Device]) -> None:
            pass

    async with grpcio_kubelet(directory) as kubelet:
        serve(Both())
        await kubelet.until(lambda k: k.options)
        want = pb.DevicePluginOptions(pre_start_required=True, get_preferred_allocation_available=True)
        assert kubelet.options == [want] == [kubelet.requests[0].options]


async def test_its_own_socket_removed(directory: Path, serve: Serve) -> None:
    """A removed socket is replaced while there is a kubelet to tell."""
    async with grpcio_kubelet(directory) as kubelet:
        serve(Fixed())
        await kubelet.until(lambda k: k.lists)
        (directory / kubelet.requests[0].endpoint).unlink()
        await kubelet.until(lambda k: len(k.lists) == 2)
        assert kubelet.stream_ends == [grpc.StatusCode.OK]
        assert (directory / kubelet.requests[1].endpoint).is_socket()


async def test_a_wiped_directory_keeps_the_live_stream(directory: Path, serve: Serve) -> None:
    """With kubelet.sock gone too nobody could be told, so the stream that lives is kept, and the next kubelet is found."""
    async with grpcio_kubelet(directory) as kubelet:
        serve(Fixed())
        await kubelet.until(lambda k: k.lists)
        for path in directory.iterdir():
            path.unlink()
        assert await kubelet.plugins[0].allocate(["a"])
        assert kubelet.stream_ends == []
        await kubelet.restart()
        await kubelet.until(lambda k: len(k.lists) == 2)


async def test_a_directory_that_is_made_again(directory: Path, serve: Serve) -> None:
    """The whole directory can be absent, come, go and come again."""
    path = directory / "kubelet" / "device-plugins"
    serve(Fixed(), kubelet_dir=path)
    for _ in range(2):
        path.mkdir(parents=True)
        async with grpcio_kubelet(path) as kubelet:
            await kubelet.until(lambda k: k.lists)
        shutil.rmtree(path.parent)


async def test_two_instances_of_one_plugin(directory: Path, serve: Serve) -> None:
    """Two instances never touch each other's sockets, whichever ends first."""
    async with grpcio_kubelet(directory) as kubelet:
        first = serve(Fixed())
        await kubelet.until(lambda k: len(k.lists) == 1)
        second = serve(Fixed())
        await kubelet.until(lambda k: len(k.lists) == 2)
        first.cancel()
        await asyncio.wait([first])
        assert [path.name for path in directory.iterdir() if path.name != "kubelet.sock"] == [
            kubelet.requests[1].endpoint
        ]
        assert await kubelet.plugins[1].allocate(["a"])
        assert not second.done()


async def test_a_second_instance_comes_and_goes(
    directory: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one registers anew, since the kubelet may have dropped it for the second."""
    monkeypatch.setattr(_siblings, "_GONE_FOR_S", 0.1)
    caplog.set_level("INFO", "devplugin")
    async with grpcio_kubelet(directory) as kubelet:
        serve(Fixed())
        await kubelet.until(lambda k: len(k.lists) == 1)
        second = serve(Fixed())
        await kubelet.until(lambda k: len(k.lists) == 2)
        second.cancel()
        await kubelet.until(lambda k: len(k.lists) == 3)
    assert "acme.com/widget: another instance of this plugin has come and gone: registering again" in caplog.messages


async def test_names_that_differ_little_do_not_collide(directory: Path, serve: Serve) -> None:
    """acme.com/gpu and acme-com/gpu, and 63 characters that differ in the last, have sockets of their own."""
    names = ["acme.com/gpu", "acme-com/gpu", "a.b/" + "x" * 62 + "1", "a.b/" + "x" * 62 + "2"]
    async with grpcio_kubelet(directory) as kubelet:
        for name in names:
            plugin = Fixed()
            plugin.resource_name = name
            serve(plugin)
        await kubelet.until(lambda k: len(k.lists) == 4)
        assert len({request.endpoint for request in kubelet.requests}) == 4
        assert sorted(request.resource_name for request in kubelet.requests) == sorted(names)


async def test_sockets_of_the_dead_are_removed(directory: Path, serve: Serve) -> None:
    """What killed instances left is removed; what somebody listens on, or is not ours, stays."""
    async with grpcio_kubelet(directory) as kubelet:
        serve(Fixed())
        await kubelet.until(lambda k: k.lists)
        name = kubelet.requests[0].endpoint
        stale, hidden, other, file = (
            directory / (name[:-13] + "00000000.sock"),
            directory / ("." + name[:-13] + "00000000"),
            directory / "other-0123abcd-00000000.sock",
            directory / (name[:-13] + "11111111.sock"),
        )
        for path in (stale, hidden, other):
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(path))
        file.write_text("not a socket")
        serve(Fixed())
        await kubelet.until(lambda k: len(k.lists) == 2)
        assert not stale.exists()
        assert hidden.exists()  # it might have been bound just now
        assert other.exists()
        assert file.exists()
        assert (directory / name).is_socket()


async def test_calls_under_way_are_answered_at_the_end(directory: Path, serve: Serve) -> None:
    """An Allocate that has begun is finished before the stream ends, since the kubelet then drops the connection."""
    begun, release = asyncio.Event(), asyncio.Event()

    class Slow(Fixed):
        async def allocate(self, devices: Sequence[Device]) -> Allocation:
            begun.set()
            await release.wait()
            return await super().allocate(devices)

    async with grpcio_kubelet(directory) as kubelet:
        task = serve(Slow())
        await kubelet.until(lambda k: k.lists)
        allocating = asyncio.create_task(kubelet.plugins[0].allocate(["a"]))
        await begun.wait()
        task.cancel()
        with pytest.raises(AssertionError, match=r"not within 0\.3 s"):
            await kubelet.until(lambda k: k.stream_ends, 0.3)
        release.set()
        assert (await allocating)[0].envs == {"A": "1"}
        await kubelet.until(lambda k: k.stream_ends == [grpc.StatusCode.OK])


async def test_a_peer_that_does_not_close(directory: Path, serve: Serve) -> None:
    """A peer that keeps its connection after the end is dropped after a second, and the socket is gone."""
    async with grpcio_kubelet(directory) as kubelet:
        task = serve(Fixed())
        await kubelet.until(lambda k: k.lists)
        reader, writer = await asyncio.open_unix_connection(directory / kubelet.requests[0].endpoint)
        assert await reader.readexactly(9)  # the header of SETTINGS
        task.cancel()
        await asyncio.wait([task])
        assert b"\x07\x00\x00\x00\x00\x00" in await reader.read()  # GOAWAY on stream 0, then the end
        writer.close()


async def test_a_kubelet_that_never_asks(directory: Path) -> None:
    """Without a stream soon after Register the session is over."""
    async with grpcio_kubelet(directory) as kubelet, registration(directory, stream_within_s=0.05):
        kubelet.watches = False
        await kubelet.until(lambda k: len(k.requests) == 2)
        kubelet.watches = True
        await kubelet.until(lambda k: k.lists)


async def test_streams_that_end_at_once_do_not_make_it_hot(directory: Path) -> None:
    """Sessions that do not last are followed by longer and longer waits; one that lasted is followed by a short one."""
    async with grpcio_kubelet(directory) as kubelet, registration(directory, lasted_s=3600) as under_test:
        for n in range(1, 4):
            await kubelet.lists_seen(n)
            await kubelet.drop(kubelet.plugins[-1])
        await kubelet.until(lambda k: len(k.lists) == 4)
        assert repr(under_test._backoff) == "Backoff(next at most 0.4 s)"  # 50 ms doubled three times
        under_test._lasted_s = 0
        await kubelet.drop(kubelet.plugins[-1])
        await kubelet.until(lambda k: len(k.lists) == 5)
        assert repr(under_test._backoff) == "Backoff(next at most 0.1 s)"


async def test_something_else_on_kubelet_sock(directory: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """What is no kubelet, or goes away during the registration, is waited out."""
    caplog.set_level("INFO", "devplugin")
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), directory / "kubelet.sock")
    serve(Fixed())
    await eventually(lambda: "went away during the registration" in caplog.text)
    server.close()
    (directory / "kubelet.sock").unlink(missing_ok=True)
    async with grpcio_kubelet(directory) as kubelet:
        await kubelet.until(lambda k: k.lists)


async def test_no_answer_to_the_registration(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubelet that does not answer is given up after a deadline that is above its own."""
    monkeypatch.setattr("devplugin._kubelet._REGISTER_WITHIN_S", 0.05)

    gone = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_unix_server(swallow, directory / "kubelet.sock")
    kubelet = KubeletDirectory(directory)
    async with kubelet.dial(kubelet.socket_id()) as client:
        with pytest.raises(KubeletUnavailable, match=r"no answer to the registration in 0\.05 s"):
            await client.register(b"")
    await gone.wait()
    server.close()


@pytest.mark.parametrize("mode", [0o000, 0o555])
async def test_no_permission(directory: Path, serve: Serve, mode: int) -> None:
    """A directory that the system closes to the plugin is an error that says which path, which user, and SELinux."""
    path = directory / "device-plugins"
    path.mkdir()
    async with grpcio_kubelet(path) as kubelet:
        path.chmod(mode)
        kubelet.socket.chmod(0o777) if mode else None
        directory.chmod(0o755)
        with as_nobody(), pytest.raises(ConfigurationError) as caught:
            await serve(Fixed(), kubelet_dir=path)
        path.chmod(0o700)
    assert f"as user {65534 if os.geteuid() == 0 else os.geteuid()}: Permission denied" in str(caught.value)
    assert str(path) in str(caught.value)
    assert "SELinux" in str(caught.value)


async def test_no_permission_to_connect(directory: Path, serve: Serve) -> None:
    """The same for kubelet.sock itself."""
    async with grpcio_kubelet(directory) as kubelet:
        kubelet.socket.chmod(0)
        directory.chmod(0o777)
        with as_nobody(), pytest.raises(ConfigurationError, match=r"no permission to connect to .*/kubelet\.sock"):
            await serve(Fixed())


async def test_a_directory_that_was_deleted_under_a_mount(directory: Path, serve: Serve) -> None:
    """A deleted directory that is still held open never comes back: an error lets the pod be started again."""
    path = directory / "device-plugins"
    path.mkdir()
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    path.rmdir()
    try:
        with pytest.raises(KubeletError, match="was deleted on the host"):
            await serve(Fixed(), kubelet_dir=Path(f"/proc/self/fd/{held}"))
    finally:
        os.close(held)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("", "the kubelet's directory is an empty string"),
        ("/etc/hostname", "/etc/hostname is not a directory, and kubelet.sock should be in it"),
        ("/tmp/" + "x" * 91, "is too long: the path of a socket in it has at most 107 bytes"),
    ],
)
async def test_a_directory_that_is_none(path: str, text: str) -> None:
    """What can never hold a kubelet.sock is an error, and not waited for."""
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        await Fixed().serve(kubelet_dir=path)


async def test_a_path_that_is_too_long(directory: Path, serve: Serve) -> None:
    """Socket paths end at 107 bytes: a longer directory is an error, and one that just fits works."""
    for extra, fits in ((0, True), (1, False)):
        path = directory / ("x" * (107 - len(os.fsencode(directory)) - len("/" + "/w-12345678-12345678.sock") + extra))
        path.mkdir()
        if fits:
            async with grpcio_kubelet(path) as kubelet:
                task = serve(Fixed(), kubelet_dir=path)
                await kubelet.until(lambda k: k.lists)
                assert len(os.fsencode(path / kubelet.requests[0].endpoint)) == 107
                task.cancel()
        else:
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(path / "kubelet.sock"))
            listening.listen()
            with listening, pytest.raises(ConfigurationError, match="has at most 107 bytes"):
                await serve(Fixed(), kubelet_dir=path)


@asynccontextmanager
async def registration(directory: Path, **times_s: float) -> AsyncIterator[Registration[Device]]:
    """A registration with other times than the usual ones."""
    snapshots: Latest[Snapshot[Device]] = Latest()
    snapshots.set(await Snapshot.take([Device("a")], None))
    under_test = Registration(Fixed(), b"", snapshots, KubeletDirectory(directory), **times_s)
    task = asyncio.create_task(under_test.keep())
    yield under_test
    task.cancel()
    await asyncio.wait([task])


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's power over permissions, where this is root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
