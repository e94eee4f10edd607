"""The scenario: a plugin, a pod with two devices, one that asks for too many, the plugin away, a client."""

import re
import sys
import time

from .errors import FailedError, expect
from .lab import Count, Lab, Row
from .paths import ROOT
from .waiting import until

START = [
    "Starting to listen",
    "Registration.register",
    "DevicePlugin.get_device_plugin_options",
    "DevicePlugin.list_and_watch",
    "DevicePlugin.list_and_watch.start",
    "DevicePlugin.list_and_watch.send",
]
GRACE_S = 300  # the kubelet's endpointStopGracePeriod
MAX_BACK_OFF_S = 300  # the kubelet's MaxCrashLoopBackOff
POD = "examples/sample_device/pod.yaml"
OVERFLOW = "examples/sample_device/overflow.yaml"
RUNNING = Row("1/1", "Running", 0)


def start(lab: Lab) -> str:
    """The plugin logs the six events of its start in order, and its four devices are on the node."""
    lab.page.text(
        "The plugin runs on the node, as root, and needs nothing but the kubelet's directory. With `-vv` it tells of "
        "every call; a start is these six events:"
    )
    begin = time.monotonic()
    plugin = lab.start_plugin()
    lab.until_event(plugin, START[-1])
    seconds = time.monotonic() - begin
    expect(plugin.events()[:6] == START, f"the plugin's events are {plugin.events()}, expected {START}")
    lab.until_count(Count(4, 4))
    lab.page.command("python -m examples.sample_device -vv", plugin.log.read_text())
    lab.page.text("The node has the resource now:")
    shown = lab.show("kubectl get node node1 -o jsonpath='{.status.allocatable.demo/sample-device}{\"\\n\"}'")
    expect(shown.strip() == "4", f"kubectl shows {shown!r} as allocatable")
    return f"six events in order, first list sent after {seconds:.1f} s"


def two_devices(lab: Lab) -> str:
    """A pod that asks for two devices runs and has both in its environment; its nginx answers."""
    plugin = lab.start_sample()
    lab.page.text("This pod asks for two devices:")
    lab.page.output((ROOT / POD).read_text(), "yaml")
    lab.show(f"kubectl apply -f {POD}")
    lab.until_row("demo-dp", RUNNING)
    lab.until_event(plugin, "DevicePlugin.allocate")
    lab.show("kubectl get pods")
    lab.show("kubectl exec demo-dp -- env | grep SAMPLE")
    devices = lab.devices("demo-dp")
    expect(len(devices) == 2, f"demo-dp has the devices {devices}, expected two")
    allocate = [line for line in plugin.log.read_text().splitlines() if "DevicePlugin.allocate" in line]
    lab.page.text("The plugin logged the call:")
    lab.page.output("\n".join(allocate))
    address = lab.shell("kubectl get pod demo-dp -o jsonpath='{.status.podIP}'")
    answer = lab.shell(
        f"{sys.executable} -c 'import urllib.request as u; print(u.urlopen(\"http://{address}\").read())'"
    )
    expect("Welcome to nginx" in answer, f"nginx at {address} answered {answer}")
    return f"devices {' and '.join(sorted(devices))}; nginx answers"


def overflow(lab: Lab) -> str:
    """A pod that asks for five stays Pending, with the scheduler's own words."""
    lab.start_sample()
    lab.shell(f"kubectl apply -f {POD}")
    lab.until_row("demo-dp", RUNNING)
    lab.page.text("More than the node has is waited for, as long as the pod lives:")
    lab.show(f"kubectl apply -f {OVERFLOW}")
    message = lab.until(
        "the scheduler's word on demo-dp-overflow",
        lambda: _scheduled_condition(lab, "demo-dp-overflow"),
        lambda text: "Insufficient demo/sample-device" in text,
        timeout_s=30,
    )
    end = time.monotonic() + 15  # it must stay so, so there is nothing to wait for but time
    while time.monotonic() < end:
        row = lab.row("demo-dp-overflow")
        expect(row == Row("0/1", "Pending", 0), f"demo-dp-overflow is {row}, expected Pending")
        time.sleep(0.5)
    lab.show("kubectl get pods")
    lab.show("kubectl get events --field-selector=reason=FailedScheduling -o custom-columns=:.message --no-headers")
    return message


def short_absence(lab: Lab) -> str:
    """The plugin away for less than five minutes: a stopped container starts again from the kubelet's cache."""
    plugin = lab.start_sample()
    lab.shell(f"kubectl apply -f {POD}")
    lab.until_row("demo-dp", RUNNING)
    before = lab.devices("demo-dp")
    lab.page.text(
        "The plugin is stopped, and then the pod's container, through the container runtime. For five minutes the "
        "kubelet starts containers from its cache: the pod is Running again without the plugin, with the same devices."
    )
    plugin.stop()
    lab.until_count(Count(4, 0))
    lab.stop_container("demo-dp", shown=True)
    lab.until_row("demo-dp", Row("1/1", "Running", 1))
    lab.show("kubectl get pods")
    after = lab.devices("demo-dp")
    expect(after == before, f"demo-dp had the devices {before}, and has {after} after its restart")
    expect(not plugin.alive, "the plugin is back by itself")
    return "Running, RESTARTS 1, same devices, without the plugin"


def long_absence(lab: Lab) -> str:
    """The plugin away for more than five minutes: the container waits for it, and starts when it is back."""
    plugin = lab.start_sample()
    lab.shell(f"kubectl apply -f {POD}")
    lab.until_row("demo-dp", RUNNING)
    before = lab.devices("demo-dp")
    gone = time.monotonic()
    plugin.stop()
    lab.until_count(Count(4, 0))
    lab.until_count(Count(0, 0), timeout_s=GRACE_S + 60)
    grace = time.monotonic() - gone
    expect(grace >= GRACE_S - 5, f"the capacity went after {grace:.0f} s, expected {GRACE_S} s at least")
    expect(lab.row("demo-dp") == RUNNING, f"demo-dp is {lab.row('demo-dp')} although only the plugin went")
    lab.page.text(
        "After five minutes the kubelet forgets the resource. The running pod is left alone, but a container that is "
        "stopped now cannot start:"
    )
    lab.stop_container("demo-dp", shown=True)
    turns = _both_in_turns(lab)
    lab.show("kubectl get pods")
    lab.page.text(f"Its status goes back and forth. Seen first, in seconds after the stop: {turns}.")
    reason = "endpoint not found in cache for a registered resource: demo/sample-device"
    told = "kubectl get events --field-selector=reason=Failed -o custom-columns=:.message --no-headers"
    shown = lab.show(f"{told} | sort -u")
    expect(reason in shown, f"the events say {shown!r}, expected {reason!r}")
    expect(lab.row("demo-dp").restarts == 0, f"demo-dp is {lab.row('demo-dp')}, expected RESTARTS 0")
    back = time.monotonic()
    lab.start_plugin()
    lab.until_row("demo-dp", Row("1/1", "Running", 1), timeout_s=MAX_BACK_OFF_S + 60)
    seconds = time.monotonic() - back
    lab.page.text(
        "The kubelet tries again and again, but less and less often: each failure doubles the wait, up to five minutes "
        f"from the container's end. The plugin is started again, and with the next try, here {seconds:.0f} seconds later:"
    )
    lab.show("kubectl get pods")
    lab.show("kubectl exec demo-dp -- env | grep SAMPLE")
    after = lab.devices("demo-dp")
    expect(after == before, f"demo-dp had the devices {before}, and has {after} now")
    return f"capacity 0 after {grace:.0f} s; {turns}; Running {seconds:.1f} s after the plugin's start"


def side_client(lab: Lab) -> str:
    """The side client, connected as the kubelet would, prints every device, and ends with the plugin."""
    plugin = lab.start_sample()
    lab.page.text(
        "The client on the side lists and watches a plugin's socket as the kubelet does. Here the plugin was stopped after "
        "a moment:"
    )
    client = lab.start_plugin("-m", "examples.sample_device.client")
    until("the client to print four devices", client.log.read_text, _four_devices, timeout_s=20)
    lab.until_count(Count(4, 4))  # the kubelet's own stream goes on
    plugin.stop()
    lab.until("the client to end with the plugin", lambda: client.alive, lambda alive: not alive, timeout_s=20)
    lab.page.command("python -m examples.sample_device.client", client.log.read_text())
    return "four healthy devices, printed beside the kubelet's own stream"


def _four_devices(text: str) -> bool:
    return re.findall(r"^ +(\S+) +Healthy$", text, re.MULTILINE) == ["1", "2", "3", "4"]


def _both_in_turns(lab: Lab) -> str:
    """Wait until the pod has shown both states, and shows the crash loop; RESTARTS must stay. Says what came when."""
    seen: list[tuple[str, str]] = []
    changes: list[str] = []
    begin = time.monotonic()

    def look() -> Row:
        row = lab.row("demo-dp")
        if row.restarts != 0:
            raise FailedError(f"demo-dp is {row} while the plugin is away, expected RESTARTS 0")
        if not seen or seen[-1] != (row.ready, row.status):
            seen.append((row.ready, row.status))
            changes.append(f"{row.status} at {time.monotonic() - begin:.0f}")
        return row

    both = {("0/1", "CrashLoopBackOff"), ("0/1", "CreateContainerConfigError")}

    def holds(row: Row) -> bool:
        return both <= set(seen) and row.status == "CrashLoopBackOff"

    lab.until(f"demo-dp to show both of {sorted(both)}, then the crash loop", look, holds, timeout_s=180)
    return ", ".join(changes)


def _scheduled_condition(lab: Lab, pod: str) -> str:
    found = lab.components.api.find(f"/api/v1/namespaces/default/pods/{pod}")
    conditions = found["status"].get("conditions", []) if found else []
    return next((str(it["message"]) for it in conditions if it["type"] == "PodScheduled" and "message" in it), "")
