"""Play the whole scenario: the sample plugin as a process of its own, against an embedded kubelet. No root, no cluster.

The exit status is 0 when all that is said held, 1 when something did not, 128 + the signal's number when interrupted.
"""

import asyncio
import re
import signal
import subprocess
import sys
import textwrap
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from devplugin.testing import ConditionNotMet, Container, FakeKubelet, Pod

RESOURCE = "demo/sample-device"
ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 10.0  # no step waits longer for anything
START_OF_PLUGIN = [
    "Starting to listen",
    "Registration.register",
    "DevicePlugin.get_device_plugin_options",
    "DevicePlugin.list_and_watch",
    "DevicePlugin.list_and_watch.start",
    "DevicePlugin.list_and_watch.send",
]


class Unexpected(Exception):
    """A program did not do what was to be seen."""


class Story:
    """What is told on the screen: 80 columns, no colour."""

    def __init__(self) -> None:
        self.step = 0
        self.failed = 0

    def begin(self, title: str, *explanation: str) -> None:
        self.step += 1
        print(f"\n{self.step}. {title}", flush=True)
        for line in textwrap.wrap(" ".join(explanation), 76):
            print(f"   {line}")

    def command(self, text: str) -> None:
        print(f"   $ {text}", flush=True)

    def says(self, who: str, *lines: str) -> None:
        for line in lines:
            for part in textwrap.wrap(line, 62, subsequent_indent="  ") or [""]:
                print(f"     {who:8} | {part}", flush=True)

    def verdict(self, held: object, sentence: str) -> None:
        self.failed += not held
        text = textwrap.wrap(sentence, 68, subsequent_indent=" " * 11)
        print(f"   {'held:  ' if held else 'FAILED:'} {text[0]}", *text[1:], sep="\n" if text[1:] else " ", flush=True)

    def pods(self, kubelet: FakeKubelet) -> None:
        self.command("kubectl get pods")
        self.says("kubectl", f"{'NAME':17} {'READY':6} {'STATUS':27} RESTARTS")
        for pod in kubelet.pods.values():
            self.says("kubectl", f"{pod.name:17} {pod.ready:6} {pod.status:27} {pod.restarts}")


class Program:
    """A module of this checkout, run as a process; its output is kept, and told when it is asked for."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._told = 0
        self._more = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name="output of the program")
        self._reader.add_done_callback(self._ended)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))
            self._more.set()

    def _ended(self, _: object) -> None:
        self._more.set()

    async def prints(self, line: str, after: int = 0) -> None:
        """Wait until it has printed a line that starts so, not among the first `after` ones."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not any(seen.startswith(line) for seen in self.lines[after:]) and not self._reader.done():
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            pass  # what is missing is said below
        if not any(seen.startswith(line) for seen in self.lines[after:]):
            raise Unexpected(f"no line {line!r} from the program, but: {self.lines[after:]}")

    def untold(self) -> list[str]:
        lines = self.lines[self._told :]
        self._told = len(self.lines)
        return lines

    async def stop(self) -> int:
        """Send SIGTERM and see it end; SIGKILL when it does not."""
        if self.process.returncode is None:
            self.process.terminate()
        try:
            async with asyncio.timeout(WITHIN_S):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        await self._reader
        return await self.process.wait()


class Stage:
    """All that a step works with."""

    def __init__(self, kubelet: FakeKubelet, directory: Path, story: Story) -> None:
        self.kubelet = kubelet
        self.directory = directory
        self.story = story
        self.programs: list[Program] = []

    async def run(self, module: str, *arguments: str) -> Program:
        """Start a module with the kubelet's directory, and say so."""
        self.story.command(f"python -m {module} --kubelet-dir DIR {' '.join(arguments)}".rstrip())
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "-m", module, "--kubelet-dir", str(self.directory), *arguments),
            cwd=ROOT,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,  # Ctrl-C is the demo's, which then ends it
        )
        program = Program(process)
        self.programs.append(program)
        return program

    async def run_plugin(self) -> Program:
        plugin = await self.run("examples.sample_device", "-vv")
        await plugin.prints(START_OF_PLUGIN[-1])
        await self.kubelet.allocatable(RESOURCE, 4)
        self.story.says("plugin", *plugin.untold())
        self.node()
        return plugin

    def node(self) -> None:
        seen = self.kubelet.resources[RESOURCE]
        self.story.says("node", f"{RESOURCE}: capacity {seen.capacity}, allocatable {seen.allocatable}")

    def apply(self, file: str, name: str, count: int) -> Pod:
        """Create a pod with one container, which is a real process that does nothing."""
        self.story.command(f"kubectl apply -f {file}    # {name}, {RESOURCE}: {count}")
        container = Container("nginx", {RESOURCE: count}, command=["sleep", "infinity"])
        return self.kubelet.create_pod(name, containers=[container])

    async def stop_container(self, pod: Pod) -> None:
        """Stop the pod's container, and wait until the kubelet has tried to start it again."""
        self.story.command(f"crictl stop nginx    # of {pod.name}")
        container = pod.containers["nginx"]
        running = container.state
        pod.stop_container()
        await self.kubelet.until(lambda: container.state is not running and container.reason != "Error", "The restart")

    async def pass_time(self, seconds: float, why: str) -> None:
        self.story.says("clock", f"{seconds:g} s go by {why}")
        self.kubelet.clock.advance(seconds)


async def registers(stage: Stage) -> Program:
    stage.story.begin(
        "The plugin service starts.",
        "It listens on a socket, registers with the kubelet, which calls it back, and announces its devices.",
    )
    plugin = await stage.run_plugin()
    stage.story.verdict(
        plugin.lines == START_OF_PLUGIN, "It printed its six events in order; the node has four devices."
    )
    return plugin


async def two_devices(stage: Stage, plugin: Program) -> Pod:
    stage.story.begin(
        "A pod asks for two devices.",
        "The kubelet asks the plugin what to give its container. What the pod prints comes from a real process.",
    )
    pod = await stage.apply("pod.yaml", "demo-dp", 2).running()
    await plugin.prints("DevicePlugin.allocate")
    stage.story.says("plugin", *plugin.untold())
    stage.story.pods(stage.kubelet)
    stage.story.command("kubectl exec demo-dp -- env | grep SAMPLE")
    environment = await pod.containers["nginx"].exec("env")
    granted = sorted(line for line in environment.splitlines() if "SAMPLE" in line)
    stage.story.says("demo-dp", *granted)
    stage.story.verdict(
        len(granted) == 2 and all(re.fullmatch("SAMPLE_DEVICE[1-4]=1", line) for line in granted),
        "It runs, with a variable for each of two different devices.",
    )
    return pod


async def too_many(stage: Stage) -> Pod:
    stage.story.begin("Another one asks for more than there is.", "There are four devices, and it wants five.")
    pod = stage.apply("overflow.yaml", "demo-dp-overflow", 5)
    event = await pod.event("FailedScheduling")
    stage.story.pods(stage.kubelet)
    stage.story.says("event", event.message)
    stage.story.verdict(pod.status == "Pending", "It stays Pending, for as long as it lives.")
    return pod


async def plugin_away(stage: Stage, plugin: Program, pod: Pod) -> Program:
    kubelet, story = stage.kubelet, stage.story
    story.begin(
        "The plugin is down, and a container stops.",
        "For five minutes the kubelet starts containers again by what the plugin said earlier.",
        "After that it cannot start them until the plugin is back.",
    )
    printed = len(plugin.lines)
    early = await stage.apply("-", "demo-dp-early", 1).running()
    await plugin.prints("DevicePlugin.allocate", after=printed)
    stage.story.says("plugin", *plugin.untold())
    held = pod.device_ids(RESOURCE)
    story.command("kill PLUGIN")
    status = await plugin.stop()
    await kubelet.allocatable(RESOURCE, 0)
    story.says("plugin", *plugin.untold(), f"(ended with status {status})")
    stage.node()
    await stage.pass_time(60, "on the kubelet's own clock")
    await stage.stop_container(early)
    await early.running()
    story.pods(kubelet)
    story.verdict(
        early.restarts == 1 and status == 0, "One minute later: running again without the plugin, RESTARTS 1."
    )

    await stage.pass_time(300, "and the five minutes are over")
    await kubelet.capacity(RESOURCE, 0)
    stage.node()
    await stage.stop_container(pod)
    seen = [pod.status]
    story.pods(kubelet)
    story.says("event", pod.events[-1].message)
    while pod.status != "CrashLoopBackOff":
        before = pod.containers["nginx"].state
        await stage.pass_time(10, "until the kubelet tries again")
        await kubelet.until(lambda: pod.containers["nginx"].state is not before, "Another try")  # noqa: B023 - awaited
        seen.append(pod.status)
    story.pods(kubelet)
    story.verdict(
        set(seen) == {"CreateContainerConfigError", "CrashLoopBackOff"} and pod.restarts == 0 and pod.ready == "0/1",
        "CrashLoopBackOff, in turns with CreateContainerConfigError, RESTARTS 0.",
    )

    plugin = await stage.run_plugin()
    await stage.pass_time(10, "and the back-off is over")
    await pod.running()
    story.pods(kubelet)
    story.verdict(
        pod.restarts == 1 and pod.device_ids(RESOURCE) == held,
        "The plugin is back: running, RESTARTS 1, the same devices.",
    )
    return plugin


async def client_on_the_side(stage: Stage, plugin: Program) -> None:
    stage.story.begin("A client on the side.", "It connects to the plugin's socket as the kubelet would.")
    client = await stage.run("examples.sample_device.client")
    await client.prints("  4  Healthy")
    await client.stop()
    stage.story.says("plugin", *plugin.untold())
    stage.story.says("client", *client.untold())
    stage.story.verdict(
        all(f"  {device}  Healthy" in client.lines for device in range(1, 5)), "It lists the four devices, all healthy."
    )


async def kubelet_restarts(stage: Stage, plugin: Program, pod: Pod, overflow: Pod) -> None:
    kubelet, story = stage.kubelet, stage.story
    story.begin("The kubelet restarts.", "The plugin notices, and registers again. Containers are not touched.")
    printed = len(plugin.lines)
    story.command("systemctl restart kubelet")
    began_s = asyncio.get_running_loop().time()
    await kubelet.restart()
    await kubelet.allocatable(RESOURCE, 4)
    took_s = asyncio.get_running_loop().time() - began_s
    await plugin.prints(START_OF_PLUGIN[-1], after=printed)
    story.says("plugin", *plugin.untold())
    stage.node()
    story.pods(kubelet)
    story.verdict(
        pod.ready == "1/1" and pod.restarts == 1, f"Registered again {took_s * 1000:.0f} ms after, the pod untouched."
    )
    story.verdict(overflow.status == "Pending", "The pod that wants five is Pending still.")


async def play(stage: Stage) -> None:
    plugin = await registers(stage)
    pod = await two_devices(stage, plugin)
    overflow = await too_many(stage)
    plugin = await plugin_away(stage, plugin, pod)
    await client_on_the_side(stage, plugin)
    await kubelet_restarts(stage, plugin, pod, overflow)
    await plugin.stop()


@asynccontextmanager
async def stage_in(directory: Path, story: Story) -> AsyncIterator[Stage]:
    async with FakeKubelet(directory) as kubelet:
        stage = Stage(kubelet, directory, story)
        try:
            yield stage
        finally:
            await asyncio.gather(*(program.stop() for program in stage.programs))


async def demo() -> int:
    me = asyncio.current_task()
    assert me is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
    story = Story()
    with TemporaryDirectory(prefix="devplugin-demo-") as directory:
        async with stage_in(Path(directory), story) as stage:
            print(f"The sample plugin meets an embedded kubelet that behaves as that of {stage.kubelet.version}.")
            print(f"DIR is {directory}")
            try:
                await play(stage)
            except (Unexpected, ConditionNotMet, OSError, subprocess.SubprocessError) as error:
                story.verdict(False, f"It came to an end here. {type(error).__name__}: {error}")
    print(f"\n{'All of it held.' if not story.failed else f'{story.failed} of it did not hold.'}")
    return bool(story.failed)


def main() -> None:
    try:
        status = asyncio.run(demo())
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except asyncio.CancelledError:
        status = 128 + signal.SIGTERM
    sys.exit(status)


if __name__ == "__main__":
    main()
