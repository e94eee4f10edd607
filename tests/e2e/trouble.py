"""What happens to nodes: kubelets restart, plugins die, directories are wiped, versions roll, devices fail."""

import time
from pathlib import Path

from . import switched_plugin
from .errors import expect
from .lab import PLUGINS, Count, Lab, Plugin, Row
from .paths import HERE
from .podresources import BLIP_S, sampling
from .scenario import POD, RUNNING, START
from .waiting import until

COUNTS = (
    "kubectl get node node1 -o jsonpath="
    "'{.status.allocatable.demo/sample-device} of {.status.capacity.demo/sample-device}{\"\\n\"}'"
)
SECOND = HERE / "manifests" / "second.yaml"
SWITCHED = HERE / "manifests" / "switched.yaml"


def kubelet_restart(lab: Lab) -> str:
    """The kubelet restarts: the plugin registers again by itself, pods are left alone, assignments are kept."""
    plugin, container = _with_pod(lab)
    first_stream = plugin.events().count(START[-1])
    made = lab.restart_kubelet()
    until(
        "the plugin to have sent its list to the new kubelet",
        plugin.events,
        lambda events: events.count(START[-1]) > first_stream,
        timeout_s=30,
        every_s=0.005,
    )
    milliseconds = (time.time() - made) * 1000
    lab.until_count(Count(4, 4))
    lab.page.text(
        "The kubelet is restarted. The plugin notices the new socket and registers again by itself; the pod's container "
        "is the same as before, and the next pod gets the devices that are left."
    )
    _pod_is_untouched(lab, container)
    _second_pod_gets_the_rest(lab)
    lab.show("kubectl get pods")
    return f"list sent again {milliseconds:.0f} ms after the new kubelet.sock; the pod untouched"


def plugin_killed(lab: Lab) -> str:
    """The plugin is killed with -9: its devices go at once; started again, it clears up and registers."""
    plugin, container = _with_pod(lab)
    plugin.kill()
    lab.until_count(Count(4, 0))
    stale = _sockets()
    lab.page.text("Killed with -9, the plugin leaves its socket; its devices are not allocatable from that moment:")
    lab.show(COUNTS)
    lab.start_sample()
    lab.page.text("Started again, it has cleared the dead socket away, and registered:")
    lab.show(COUNTS)
    expect(not stale & _sockets(), f"the dead plugin's socket is still there: {stale & _sockets()}")
    expect(len(_sockets()) == 1, f"the sockets {_sockets()} are there, expected the new plugin's only")
    _pod_is_untouched(lab, container)
    _second_pod_gets_the_rest(lab)
    return "0 of 4 allocatable, then 4 again; the dead socket is gone; the pod untouched"


def directory_wiped(lab: Lab) -> str:
    """The plugin directory is wiped under both: nothing is lost until the kubelet restarts, and then it all comes back."""
    plugin, container = _with_pod(lab)
    lab.page.text("Everything in the plugin directory is removed, the kubelet's socket and the plugin's too:")
    lab.show(f"rm -r {PLUGINS}/* && ls {PLUGINS} | wc -l")
    end = time.monotonic() + 5  # nothing must happen, so there is nothing to wait for but time
    while time.monotonic() < end:
        expect(lab.count() == Count(4, 4), f"the devices went: {lab.count()}")
        time.sleep(0.5)
    lab.page.text(
        "The kubelet and the plugin are still connected, so the devices stay. Nobody can register any more, though, until "
        "the kubelet restarts. Then the plugin is back by itself:"
    )
    lab.restart_kubelet()
    lab.until_event(plugin, START[-1], times=2)
    lab.until_count(Count(4, 4))
    _pod_is_untouched(lab, container)
    lab.show(COUNTS)
    lab.shell(f"kubectl apply -f {SECOND}")
    lab.until_row("demo-dp-second", RUNNING)
    shared = lab.devices("demo-dp") & lab.devices("demo-dp-second")
    if shared:
        lab.page.text(
            "But the kubelet's checkpoint was in that directory too. Without it this kubelet no longer knew which devices "
            f"the running pod held, and gave {' and '.join(sorted(shared))} to the next pod as well. Never wipe that "
            "directory on a node that runs pods with devices."
        )
    given = f"given out twice by the kubelet: {', '.join(sorted(shared))}" if shared else "no device given out twice"
    return f"devices stay, and are back after the kubelet's start; the pod untouched; {given}"


def rolling_update(lab: Lab) -> str:
    """A new instance starts before the old one ends: pods run on, and the devices do not go for more than a blip."""
    old, container = _with_pod(lab)
    with sampling("demo/sample-device") as samples:
        until("the first sample", samples.numbers, timeout_s=20)
        new = lab.start_plugin()
        lab.until_event(new, START[-1])
        old.stop()
        lab.until_event(new, START[-1])
        lab.until("four devices, seen for a while", lambda: samples.changes[-1], _settled, timeout_s=60)
    lab.until_count(Count(4, 4))
    _pod_is_untouched(lab, container)
    _second_pod_gets_the_rest(lab)
    expect("DevicePlugin.allocate" in new.events(), "the second pod's devices were not asked of the new instance")
    blips = samples.spells_at(0)
    expect(sum(blips) < BLIP_S, f"no device could be had for {sum(blips):.1f} s: {samples.changes}")
    seen = f"{len(blips)} blip of {sum(blips) * 1000:.0f} ms" if blips else "never below 4"
    lab.page.text(
        "The new version is started, and when it has registered the old one is stopped. Asked fifty times a second, "
        f"the kubelet had these numbers of devices to give, one after the other: {samples.numbers()} ({seen}). The "
        "running pod is left alone, and the next one is served by the new instance."
    )
    return f"{seen}, in {samples.asked} samples: {samples.numbers()}; the pod untouched"


def unhealthy_device(lab: Lab) -> str:
    """A device fails and comes back: it is not given out meanwhile, its pod runs on, and the pod's status says so."""
    file = Path("/run/switched")
    file.write_text("".join(f"d{number} Healthy\n" for number in range(1, 4)))
    resource = switched_plugin.RESOURCE
    plugin = lab.start_plugin(str(HERE / "switched_plugin.py"), str(file))
    lab.until_count(Count(3, 3), resource=resource)
    lab.shell(f"kubectl apply -f {SWITCHED}")
    lab.until_row("switched", RUNNING)
    container = lab.container_id("switched")
    healthy = file.read_text()
    file.write_text(healthy.replace("Healthy", "Unhealthy"))
    lab.until_count(Count(3, 0), resource=resource)
    _until_reported(lab, "Unhealthy")
    lab.page.text(
        "A device fails: it is not given out any more, but its pod runs on, and the pod's status tells of it."
    )
    path = "{.status.containerStatuses[0].allocatedResourcesStatus}"
    lab.show(f"kubectl get pod switched -o jsonpath='{path}{{\"\\n\"}}'")
    file.write_text(healthy)
    lab.until_count(Count(3, 3), resource=resource)
    _until_reported(lab, "Healthy")
    lab.page.text("And back:")
    lab.show(f"kubectl get pod switched -o jsonpath='{path}{{\"\\n\"}}'")
    expect(lab.row("switched") == RUNNING, f"switched is {lab.row('switched')}")
    expect(lab.container_id("switched") == container, "switched's container is another one")
    plugin.stop()
    return "allocatable 3, 0, 3; capacity 3; the pod's status says Unhealthy, then Healthy; the pod untouched"


def _with_pod(lab: Lab) -> tuple[Plugin, str]:
    """The sample, a pod with two of its devices, and that pod's container."""
    plugin = lab.start_sample()
    lab.shell(f"kubectl apply -f {POD}")
    lab.until_row("demo-dp", RUNNING)
    return plugin, lab.container_id("demo-dp")


def _pod_is_untouched(lab: Lab, container: str) -> None:
    expect(lab.row("demo-dp") == Row("1/1", "Running", 0), f"demo-dp is {lab.row('demo-dp')}, expected it untouched")
    expect(lab.container_id("demo-dp") == container, "demo-dp's container is another one")


def _second_pod_gets_the_rest(lab: Lab) -> None:
    lab.shell(f"kubectl apply -f {SECOND}")
    lab.until_row("demo-dp-second", RUNNING)
    both = lab.devices("demo-dp"), lab.devices("demo-dp-second")
    expect(both[0] | both[1] == set("1234"), f"the two pods have the devices {both}, expected all four between them")


def _sockets() -> set[str]:
    return {path.name for path in PLUGINS.iterdir() if path.is_socket() and path.name != "kubelet.sock"}


def _settled(last: tuple[float, int]) -> bool:
    moment, number = last
    return number == 4 and time.monotonic() - moment > 3


def _until_reported(lab: Lab, health: str) -> None:
    def look() -> list[str]:
        found = lab.components.api.find("/api/v1/namespaces/default/pods/switched")
        containers = found["status"]["containerStatuses"] if found else []
        kinds = [kind for container in containers for kind in container.get("allocatedResourcesStatus", [])]
        return [resource["health"] for kind in kinds for resource in kind["resources"]]

    lab.until(f"the pod's status to say {health}", look, lambda seen: seen == [health], timeout_s=60)
