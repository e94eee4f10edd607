"""The plugin as users run it: a DaemonSet, from an image, with no more rights than it needs."""

import time

from .errors import FailedError, expect
from .lab import Count, Lab
from .paths import HERE
from .podresources import sampling
from .scenario import POD, RUNNING, START
from .waiting import until

MANIFEST = HERE / "manifests" / "daemonset.yaml"
WHERE = "tests/e2e/manifests/daemonset.yaml"
LOGS = "kubectl logs daemonset/sample-device-plugin"


def daemonset(lab: Lab) -> str:
    """The plugin as a DaemonSet: serves a pod, survives a kubelet restart, and rolls to a new instance."""
    lab.page.text("The manifest gives the plugin the kubelet's directory, and nothing else:")
    lab.page.output(MANIFEST.read_text(), "yaml")
    lab.show(f"kubectl apply -f {WHERE}")
    lab.shell("kubectl rollout status daemonset/sample-device-plugin --timeout=120s")
    lab.until_count(Count(4, 4))
    lab.show(LOGS)
    lab.shell(f"kubectl apply -f {POD}")
    lab.until_row("demo-dp", RUNNING)
    container = lab.container_id("demo-dp")
    lab.show("kubectl get pods")
    expect(len(lab.devices("demo-dp")) == 2, "demo-dp has not got two devices")

    lab.restart_kubelet()
    lab.until("the plugin to register again", lambda: _log(lab), lambda log: log.count(START[-1]) > 1, timeout_s=60)
    lab.until_count(Count(4, 4))

    with sampling("demo/sample-device") as samples:
        until("the first sample", samples.numbers, timeout_s=20)
        lab.page.text("A rolling update, with one instance more for a moment:")
        lab.show("kubectl rollout restart daemonset/sample-device-plugin")
        lab.show("kubectl rollout status daemonset/sample-device-plugin --timeout=120s")
        pods = "kubectl get pods --selector=app=sample-device-plugin --no-headers"
        lab.until("one instance", lambda: lab.shell(pods), lambda text: len(text.splitlines()) == 1, timeout_s=60)
        lab.until("four devices", lambda: samples.changes[-1], _settled, timeout_s=60)
    lab.until_count(Count(4, 4))
    blips = samples.spells_at(0)
    expect(sum(blips) < 2, f"no device could be had for {sum(blips):.1f} s: {samples.changes}")
    expect(lab.row("demo-dp") == RUNNING, f"demo-dp is {lab.row('demo-dp')}")
    expect(lab.container_id("demo-dp") == container, "demo-dp's container is another one")
    blip = f"{sum(blips) * 1000:.0f} ms without a device" if blips else "never without a device"
    return f"registered, allocated from, back after a kubelet restart; rolled over, {blip}: {samples.numbers()}"


def _log(lab: Lab) -> str:
    """The plugin's log; empty while the kubelet that has it is still starting."""
    try:
        return lab.shell(LOGS)
    except FailedError:
        return ""


def _settled(last: tuple[float, int]) -> bool:
    moment, number = last
    return number == 4 and time.monotonic() - moment > 3
