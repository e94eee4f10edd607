"""The plugin as users run it: the DaemonSet of the documentation, with this plugin's name and image."""

import re
import time

from .errors import FailedError, expect
from .images import PLUGIN
from .lab import Count, Lab
from .paths import ROOT
from .podresources import BLIP_S, sampling
from .scenario import POD, RUNNING, START
from .waiting import until

DOCS = ROOT / "docs" / "how-to" / "deploy.md"
NAME = "sample-device-plugin"
KUBECTL = "kubectl --namespace kube-system"
LOGS = f"{KUBECTL} logs daemonset/{NAME}"


def daemonset(lab: Lab) -> str:
    """The plugin as a DaemonSet: serves a pod, survives a kubelet restart, and rolls to a new instance."""
    manifest = _manifest()
    (lab.folder / "daemonset.yaml").write_text(manifest)
    lab.page.text("The manifest gives the plugin the kubelet's directory, and no privileges:")
    lab.page.output(manifest, "yaml")
    lab.show("kubectl apply -f daemonset.yaml")
    lab.show(f"{KUBECTL} rollout status daemonset/{NAME} --timeout=120s")
    lab.until_count(Count(4, 4))
    lab.show(LOGS)
    lab.shell(f"kubectl apply -f {POD}")
    lab.until_row("demo-dp", RUNNING)
    container = lab.container_id("demo-dp")
    lab.show("kubectl get pods --all-namespaces")
    expect(len(lab.devices("demo-dp")) == 2, "demo-dp has not got two devices")

    lab.restart_kubelet()
    lab.until("the plugin to register again", lambda: _log(lab), lambda log: log.count(START[-1]) > 1)
    lab.until_count(Count(4, 4))

    seen = _roll(lab)
    lab.until_count(Count(4, 4))
    expect(lab.row("demo-dp") == RUNNING, f"demo-dp is {lab.row('demo-dp')}")
    expect(lab.container_id("demo-dp") == container, "demo-dp's container is another one")
    return f"registered, allocated from, back after a kubelet restart; rolled over, {seen}"


def _roll(lab: Lab) -> str:
    """Roll the DaemonSet over to a new instance; says how long no device could be had."""
    with sampling("demo/sample-device") as samples:
        until("the first sample", samples.numbers, timeout_s=20)
        lab.page.text("A rolling update, with one instance more for a moment:")
        lab.show(f"{KUBECTL} rollout restart daemonset/{NAME}")
        lab.show(f"{KUBECTL} rollout status daemonset/{NAME} --timeout=120s")
        pods = f"{KUBECTL} get pods --selector=app={NAME} --no-headers"
        lab.until("one instance", lambda: lab.shell(pods), lambda text: len(text.splitlines()) == 1)
        lab.until("four devices", lambda: samples.changes[-1], _settled)
    blips = samples.spells_at(0)
    expect(sum(blips) < BLIP_S, f"no device could be had for {sum(blips):.1f} s: {samples.changes}")
    spell = f"{sum(blips) * 1000:.0f} ms without a device" if blips else "never without a device"
    lab.page.text(f"Asked fifty times a second meanwhile, the kubelet was {spell}.")
    return f"{spell}: {samples.numbers()}"


def _manifest() -> str:
    """The documentation's, for this plugin: another name, another image, and everything in the log."""
    found = re.search(r"```\{code-block\} yaml\n:caption: daemonset\.yaml\n\n(.*?)```", DOCS.read_text(), re.DOTALL)
    if found is None:
        raise FailedError(f"{DOCS} has no block with the caption daemonset.yaml")
    manifest, images = re.subn(r"image: \S+/serial-ports:1", f"image: {PLUGIN}:1\n        args: [-vv]", found[1])
    expect(images == 1, f"the manifest in {DOCS} has no image of the name serial-ports")
    return manifest.replace("serial-ports", NAME)


def _log(lab: Lab) -> str:
    """The plugin's log; empty while the kubelet that has it is still starting."""
    try:
        return lab.shell(LOGS)
    except FailedError:
        return ""


def _settled(last: tuple[float, int]) -> bool:
    moment, number = last
    return number == 4 and time.monotonic() - moment > 3
