"""Pods: what kubectl shows of them, from the scheduler to the crash loop."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from devplugin.testing import Clock, ConditionNotMet, Container, FakeKubelet, Pod, Running, Terminated, Waiting
from tests.conftest import eventually
from tests.testing.conftest import Serve
from tests.testing.grpcio_plugin import RESOURCE, GrpcioPlugin, healthy

pytestmark = pytest.mark.asyncio


# The scheduler --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "preemption"),
    [
        ("1.20", ""),
        ("1.36", " no new claims to deallocate, preemption: 0/1 nodes are available: 1 {}."),
        ("1.37", " preemption: 0/1 nodes are available: 1 {}."),
    ],
)
async def test_pending(directory: Path, plugins: Serve, version: str, preemption: str) -> None:
    """A pod that asks for more than there is, or than is free, stays Pending; the event tells which it is."""
    async with FakeKubelet(directory, version) as kubelet:
        plugin = await plugins()
        await plugin.register()
        await kubelet.allocatable(RESOURCE, 4)
        hopeless = kubelet.create_pod("hopeless", {RESOURCE: 5, "other/one": 1})
        event = await hopeless.event("FailedScheduling")
        assert event.message == (
            f"0/1 nodes are available: 1 Insufficient {RESOURCE}, 1 Insufficient other/one."
            + preemption.format("Preemption is not helpful for scheduling")
        )
        assert (hopeless.row, hopeless.phase) == ("hopeless   0/1   Pending   0", "Pending")
        first = await kubelet.create_pod("first", {RESOURCE: 3}).running()
        waiting = kubelet.create_pod("waiting", {RESOURCE: 2})
        event = await waiting.event("FailedScheduling")
        assert event.message.endswith(preemption.format("No preemption victims found for incoming pod"))
        first.delete()
        await waiting.running()
        assert [each.reason for each in waiting.events] == ["FailedScheduling", "Scheduled", "Created", "Started"]
        assert plugin.seen[-1][0] == "Allocate"


async def test_admitted_when_it_fits(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """More devices let a pod in that was waiting for them."""
    pod = kubelet.create_pod("demo", {RESOURCE: 5})
    await pod.event("FailedScheduling")
    await plugin.send(*healthy(*"12345"))
    await pod.running()


@pytest.mark.parametrize(
    ("containers", "init", "requests"),
    [
        ([2, 1], [], 3),
        ([2], [(5, False), (3, False)], 5),
        ([2, 2], [(3, False)], 4),
        ([2], [(1, True), (3, False)], 4),
        ([2], [(3, False), (1, True)], 3),
        ([], [(1, True)], 1),
    ],
)
async def test_what_the_scheduler_counts(
    kubelet: FakeKubelet, containers: list[int], init: list[tuple[int, bool]], requests: int
) -> None:
    """Containers add up, sidecars with them; an init container counts where it needs more than all of them."""
    pod = kubelet.create_pod(
        "demo",
        containers=[Container(f"c{n}", {RESOURCE: count}) for n, count in enumerate(containers)] or [Container("c")],
        init_containers=[Container(f"i{n}", {RESOURCE: count}, restarts=side) for n, (count, side) in enumerate(init)],
    )
    assert pod.requests == {RESOURCE: requests}


async def test_what_no_pod_can_be(kubelet: FakeKubelet) -> None:
    """A name is taken once, containers have names of their own, and there is one way to say them."""
    kubelet.create_pod("demo", {})
    with pytest.raises(ValueError, match="There is a pod 'demo' already"):
        kubelet.create_pod("demo", {})
    with pytest.raises(ValueError, match="Say either the limits of the one container, or the containers"):
        kubelet.create_pod("other")
    with pytest.raises(ValueError, match="Say either the limits of the one container, or the containers"):
        kubelet.create_pod("other", {}, containers=[Container("a")])
    with pytest.raises(ValueError, match=r"Two containers of the pod 'other' have one name: \['a', 'a'\]"):
        kubelet.create_pod("other", containers=[Container("a"), Container("a")])
    assert set(kubelet.pods) == {"demo"}


# Containers that end --------------------------------------------------------------------------------------------------


CONFIG, BACKOFF = "CreateContainerConfigError", "CrashLoopBackOff"


@pytest.mark.parametrize(
    ("version", "tries"),
    [
        ("1.34", [(0, CONFIG), (10, CONFIG), (20, CONFIG), (30, BACKOFF), (40, CONFIG), (50, BACKOFF), (60, BACKOFF)]),
        ("1.36", [(0, CONFIG), (10, CONFIG), (20, CONFIG), (30, BACKOFF), (40, CONFIG), (50, BACKOFF), (80, CONFIG)]),
    ],
)
async def test_a_plugin_that_is_away(
    directory: Path, plugins: Serve, version: str, tries: list[tuple[float, str]]
) -> None:
    """Within five minutes a container starts from the cache; after that it loops until the plugin is back."""
    clock = Clock(ticking=False)
    async with FakeKubelet(directory, version, clock=clock) as kubelet:
        plugin = await plugins()
        await plugin.register()
        await kubelet.allocatable(RESOURCE, 4)
        pod = await kubelet.create_pod("demo", {RESOURCE: 2}).running()
        main, held = pod.containers["main"], pod.device_ids(RESOURCE)
        await plugin.stop()
        await kubelet.allocatable(RESOURCE, 0)
        clock.advance(60)
        pod.stop_container()
        assert (pod.row, main.state) == ("demo   0/1   Error   0", Terminated(137, "Error", 60))
        await kubelet.until(lambda: pod.row == "demo   1/1   Running   1", "The start from the cache")
        assert main.last_state == Terminated(137, "Error", 60)

        clock.advance(1000)
        await kubelet.capacity(RESOURCE, 0)
        pod.stop_container()
        seen: list[tuple[float, str]] = []
        before: object = main.state
        while len(seen) < len(tries):
            await kubelet.until(lambda: main.state is not before, "A try")  # noqa: B023 - awaited
            before = main.state
            seen.append((clock.now() - 1060, pod.status))
            assert (pod.phase, pod.ready, pod.restarts) == ("Running", "0/1", 1)
            if len(seen) < len(tries):
                clock.advance(tries[len(seen)][0] - seen[-1][0])
        assert seen == tries
        assert {f"Error: endpoint not found in cache for a registered resource: {RESOURCE}"} == {
            event.message for event in pod.events if event.reason == "Failed"
        }

        again = await plugins("again.sock")
        await again.register()
        await kubelet.allocatable(RESOURCE, 4)
        clock.advance(300)
        await pod.running()
        assert pod.row == "demo   1/1   Running   2"
        assert pod.device_ids(RESOURCE) == held
        assert again.asked("Allocate") == []


async def test_the_back_off(directory: Path) -> None:
    """It doubles from ten seconds to five minutes, and begins anew after ten good minutes."""
    clock = Clock(ticking=False)
    async with FakeKubelet(directory, clock=clock) as kubelet:
        pod = await kubelet.create_pod("demo", {}).running()
        pod.stop_container()
        await kubelet.until(lambda: pod.restarts == 1, "The first restart, at once")
        for restarts, delay_s in enumerate((10, 20, 40, 80, 160, 300, 300), 2):
            pod.stop_container()
            await pod.shows("CrashLoopBackOff")
            minutes = {80: "1m20s", 160: "2m40s", 300: "5m0s"}.get(delay_s, f"{delay_s}s")
            assert pod.containers["main"].state == Waiting(
                "CrashLoopBackOff", f"back-off {minutes} restarting failed container=main pod=demo_default(demo-1)"
            )
            clock.advance(delay_s - 1)
            assert pod.restarts == restarts - 1
            clock.advance(1)
            await pod.running()
            assert pod.restarts == restarts
        assert str(await pod.event("BackOff")).endswith("failed container main in pod demo_default(demo-1)")
        clock.advance(601)
        pod.stop_container()
        await kubelet.until(lambda: pod.restarts == restarts + 1, "The restart at once")


@pytest.mark.parametrize(
    ("policy", "exit_code", "phase", "status"),
    [
        ("Always", 0, "Running", "Completed"),
        ("Always", 3, "Running", "Error"),
        ("OnFailure", 0, "Succeeded", "Completed"),
        ("OnFailure", 3, "Running", "Error"),
        ("Never", 0, "Succeeded", "Completed"),
        ("Never", 3, "Failed", "Error"),
    ],
)
async def test_restart_policies(kubelet: FakeKubelet, policy: str, exit_code: int, phase: str, status: str) -> None:
    """What becomes of a pod whose one container ends."""
    pod = await kubelet.create_pod("demo", {}, restart_policy=policy).running()  # type: ignore[arg-type]
    pod.stop_container(exit_code=exit_code)
    assert (pod.phase, pod.status) == (phase, status)
    if phase == "Running":
        await pod.running()
        assert pod.restarts == 1
    elif phase == "Failed":
        await pod.failed()
        with pytest.raises(ConditionNotMet, match=r"'demo' was to be Running and ready\. It is Error, 0/1 ready"):
            await pod.running()
    else:
        await pod.succeeded()


async def test_several_containers(kubelet: FakeKubelet) -> None:
    """The STATUS of a pod whose containers are at different points."""
    pod = await kubelet.create_pod(
        "demo", containers=[Container("a"), Container("b")], restart_policy="Never"
    ).running()
    assert pod.row == "demo   2/2   Running   0"
    pod.stop_container("b", exit_code=0)
    await kubelet.create_pod("other", {}).running()
    assert pod.row == "demo   1/2   NotReady   0"
    with pytest.raises(RuntimeError, match="demo/b does not run: Terminated"):
        pod.stop_container("b")
    pod.stop_container("a", exit_code=1)
    assert (pod.status, pod.phase) == ("Error", "Failed")
    third = await kubelet.create_pod(
        "third", containers=[Container("a"), Container("b")], restart_policy="Never"
    ).running()
    third.stop_container("a", exit_code=0)
    third.stop_container("b", exit_code=2)
    assert (third.status, third.phase) == ("Error", "Failed")


# Init containers and sidecars -----------------------------------------------------------------------------------------


async def test_init_containers_come_one_after_the_other(kubelet: FakeKubelet) -> None:
    """Each must end well before the next one starts; then come the others."""
    pod = kubelet.create_pod(
        "demo", containers=[Container("main")], init_containers=[Container("one"), Container("two")]
    )
    assert pod.containers["main"].reason == "PodInitializing"
    await pod.shows("Init:0/2")
    await kubelet.until(lambda: pod.containers["one"].ready, "The first")
    assert (pod.phase, pod.ready) == ("Pending", "0/1")
    pod.stop_container("one", exit_code=0)
    await kubelet.until(lambda: pod.containers["two"].ready, "The second")
    assert pod.status == "Init:1/2"
    pod.stop_container("two", exit_code=4)
    assert pod.status == "Init:Error"
    await kubelet.until(lambda: pod.containers["two"].ready, "The second, again")
    assert pod.restarts == 1
    pod.stop_container("two", exit_code=4)
    await pod.shows("Init:CrashLoopBackOff")
    kubelet.clock.advance(10)
    await kubelet.until(lambda: pod.containers["two"].ready, "The second, once more")
    pod.stop_container("two", exit_code=0)
    await pod.running()
    assert pod.row == "demo   1/1   Running   0"


async def test_an_init_container_that_fails_for_good(kubelet: FakeKubelet) -> None:
    """Where nothing is restarted, the pod fails with it."""
    pod = kubelet.create_pod(
        "demo", containers=[Container("main")], init_containers=[Container("init")], restart_policy="Never"
    )
    await kubelet.until(lambda: pod.containers["init"].ready, "The init container")
    pod.stop_container("init", exit_code=1)
    await pod.failed()
    assert pod.status == "Init:Error"


async def test_devices_of_init_containers_are_used_again(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """Those of init containers go to the others; those of sidecars stay with them."""
    pod = await kubelet.create_pod(
        "demo",
        containers=[Container("a", {RESOURCE: 2}), Container("b", {RESOURCE: 1})],
        init_containers=[
            Container("init", {RESOURCE: 3}, command=["true"]),
            Container("side", {RESOURCE: 1}, restarts=True),
        ],
        restart_policy="OnFailure",
    ).running()
    init, side, a, b = (pod.device_ids(RESOURCE, name) for name in ("init", "side", "a", "b"))
    assert len(init | side | a | b) == 4
    assert side < init
    assert not side & a | side & b | a & b
    assert len(plugin.asked("Allocate")) == 4
    assert pod.row == "demo   3/3   Running   0"
    pod.stop_container("side", exit_code=0)
    await kubelet.until(lambda: pod.restarts == 1, "The restart of the sidecar")
    pod.stop_container("side", exit_code=0)
    await pod.shows("Init:CrashLoopBackOff")
    assert pod.phase == "Running"
    for name in ("a", "b"):
        pod.stop_container(name, exit_code=0)
    await pod.succeeded()


async def test_twenty_knows_no_sidecars(directory: Path) -> None:
    """A pod with a sidecar can not be made on 1.20."""
    async with FakeKubelet(directory, "1.20") as kubelet:
        with pytest.raises(ValueError, match=r"Kubernetes 1\.20 knows no init container that restarts: 'side'"):
            kubelet.create_pod("demo", {}, init_containers=[Container("side", restarts=True)])


# Processes ------------------------------------------------------------------------------------------------------------


def shell(script: str) -> Container:
    """A container that runs a script."""
    return Container("main", {RESOURCE: 1}, command=["sh", "-c", script], env={"OWN": "yes"})


async def test_a_process_has_what_was_allocated(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """A container's process sees the pod's variables and the plugin's, and none of the test's own."""
    pod = kubelet.create_pod("demo", containers=[shell("env; echo problem >&2; exit 3")], restart_policy="Never")
    await pod.failed()
    [device] = pod.device_ids(RESOURCE)
    lines = pod.containers["main"].logs().splitlines()
    assert {f"SAMPLE_DEVICE{device}=1", "OWN=yes", "problem"} < set(lines)
    assert not any(line.startswith("PYTEST_") for line in lines)
    assert pod.containers["main"].state == Terminated(3, "Error", pod.containers["main"].state.finished_at_s)  # type: ignore[union-attr]


async def test_exec(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """A program can be run with a running container's environment, and only then."""
    pod = await kubelet.create_pod(
        "demo", containers=[shell("echo up; exec sleep 1000")], restart_policy="Never"
    ).running()
    main = pod.containers["main"]
    assert "SAMPLE_DEVICE" in await main.exec("env")
    with pytest.raises(subprocess.CalledProcessError):
        await main.exec("false")
    await eventually(lambda: main.logs() == "up\n")
    pod.stop_container()
    await pod.failed()
    assert isinstance(main.state, Terminated)
    assert main.state.exit_code == 137
    assert main.logs() == "up\n"
    with pytest.raises(RuntimeError, match="demo/main does not run: Terminated"):
        await main.exec("env")
    object_only = await kubelet.create_pod("object", {RESOURCE: 1}).running()
    assert "SAMPLE_DEVICE" in await object_only.containers["main"].exec("env")
    assert object_only.containers["main"].logs() == ""


async def test_logs_before_a_start(kubelet: FakeKubelet) -> None:
    """A container that never started has written nothing."""
    pod = kubelet.create_pod("demo", {RESOURCE: 1})
    assert pod.containers["main"].logs() == ""
    with pytest.raises(RuntimeError, match="does not run: Waiting"):
        pod.stop_container()


async def test_a_command_that_is_none(kubelet: FakeKubelet) -> None:
    """What cannot be run is RunContainerError, then CrashLoopBackOff, and counts as a container each time."""
    pod = kubelet.create_pod("demo", containers=[Container("main", command=["/no/such/program"])])
    await pod.shows("RunContainerError")
    assert "/no/such/program" in (await pod.event("Failed")).message
    ended = pod.containers["main"].last_state
    assert ended is not None
    assert (ended.exit_code, ended.reason) == (128, "StartError")
    for _ in range(3):
        before = pod.containers["main"].state
        kubelet.clock.advance(10)
        await kubelet.until(lambda: pod.containers["main"].state is not before, "The next try")  # noqa: B023 - awaited
    assert (pod.status, pod.restarts) == ("CrashLoopBackOff", 2)


async def test_all_that_a_container_started_ends_with_it(kubelet: FakeKubelet, directory: Path) -> None:
    """Killing a container kills what it has put into the background, too."""
    os.mkfifo(directory / "alive")
    container = Container("main", command=["sh", "-c", f"sleep 1000 >{directory / 'alive'} & wait"])
    pod = await kubelet.create_pod("demo", containers=[container]).running()
    child = await asyncio.to_thread((directory / "alive").open)
    pod.delete()
    assert pod.status == "Terminating"
    assert await asyncio.to_thread(child.read) == ""  # nobody has it open any more
    child.close()


async def test_python_as_a_container(kubelet: FakeKubelet) -> None:
    """Any program will do, and its output is there when it has ended."""
    container = Container("main", command=[sys.executable, "-c", "print('done')"])
    pod = await kubelet.create_pod("demo", containers=[container], restart_policy="OnFailure").succeeded()
    assert pod.containers["main"].logs() == "done\n"


# What is said ---------------------------------------------------------------------------------------------------------


async def test_what_a_pod_was_instead(kubelet: FakeKubelet) -> None:
    """The error of a wait shows the pod as kubectl would: status, containers, events."""
    pod = kubelet.create_pod("demo", {RESOURCE: 1})
    await pod.event("FailedScheduling")
    with pytest.raises(ConditionNotMet) as caught:
        await pod.running(timeout_s=0)
    text = str(caught.value)
    assert text.startswith(
        "The pod 'demo' was to be Running and ready. It is Pending, 0/1 ready, 0 restarts. Containers: main"
    )
    assert "Events:\n  Warning FailedScheduling: 0/1 nodes are available" in text
    pod.events.clear()
    with pytest.raises(ConditionNotMet, match=r"Events:\n  none$"):
        await pod.shows("Moon", timeout_s=0)


async def test_what_is_printed(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """Everything that a test may print shows its state."""
    pod: Pod = await kubelet.create_pod("demo", {RESOURCE: 1}).running()
    main = pod.containers["main"]
    assert isinstance(main.state, Running)
    assert repr(pod).startswith(
        "<Pod demo   1/1   Running   0 events=['Normal Scheduled: Successfully assigned default/demo"
    )
    assert repr(main).startswith("<ContainerStatus demo/main Running(started_at_s=")
    assert repr(kubelet) == f"<FakeKubelet 1.36 running in {kubelet.directory}: {RESOURCE} 4/4; 1 pods>"
    run = kubelet._node.run
    assert run is not None
    assert repr(kubelet._node) == f"<Node with 1 pods, <KubeletRun 1.36 <DeviceManager {RESOURCE} 4/4>>>"
    assert repr(run.manager.pod_devices) == "<PodDevices of 1 pods>"
    assert repr(kubelet._records) == "<Records of 1 registrations, 1 snapshots, 1 calls>"
    registration = run._registration
    assert re.fullmatch(
        r"<RegistrationServer in .*, <GoServer, listening, \d connections>, 1 plugins>", repr(registration)
    )
    assert registration is not None
    [client] = registration._connections
    assert repr(client) == f"<PluginClient {RESOURCE} <PluginChannel {kubelet.directory / 'grpcio.sock'}, up>>"
    await kubelet.stop()
    assert repr(kubelet._node) == "<Node with 1 pods, no kubelet>"
    assert repr(kubelet).startswith("<FakeKubelet 1.36 stopped in ")
    assert repr(client).endswith(", down>>")
    assert "<GoServer, closed, 0 connections>" in repr(registration)
