"""``devplugin manifest``: the DaemonSet, and the pod that asks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from devplugin._kubelet import DEVICE_PLUGIN_DIRECTORY
from devplugin.cli._manifest import kebab
from tests.cli.conftest import Run
from tests.support_pages import ROOT, blocks_of

IMAGE = ("--image", "registry.example.com/seats:1")


def pod_spec(text: str) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load(text)["spec"]["template"]["spec"]
    return spec


def test_it_is_the_manifest_of_the_documentation(run: Run) -> None:
    """Which ran on a real node: comments and all."""
    [page] = [
        block.text
        for block in blocks_of((ROOT / "docs" / "how-to" / "deploy.md").read_text())
        if block.file == "daemonset.yaml"
    ]
    image = ("--image", "registry.example.com/serial-ports:1")
    result = run("manifest", "seats.py", "--name", "serial-ports", *image, "--mount", "/dev")
    assert (result.exit_code, result.output) == (0, page)


def test_without_more_mounts_only_the_kubelets_directory_is_seen(run: Run) -> None:
    """The whole directory, writable; nothing else, and nothing that is only needed beside /dev."""
    result = run("manifest", "seats.py", *IMAGE)
    spec = pod_spec(result.output)
    assert [volume["hostPath"] for volume in spec["volumes"]] == [
        {"path": DEVICE_PLUGIN_DIRECTORY, "type": "Directory"}
    ]
    [container] = spec["containers"]
    assert container["volumeMounts"] == [{"name": "device-plugins", "mountPath": DEVICE_PLUGIN_DIRECTORY}]
    assert "terminationMessagePath" not in container
    assert container["image"] == "registry.example.com/seats:1"
    assert yaml.safe_load(result.output)["metadata"] == {"name": "seats", "namespace": "kube-system"}


def test_more_mounts(run: Run) -> None:
    """Read-only unless it is said otherwise; what is written to is made; each once."""
    mounts = ("--mount", "/var/run/cdi:rw", "--mount", "/opt/My_Lib/:ro", "--mount", "/opt/My_Lib")
    spec = pod_spec(run("manifest", "seats.py", *IMAGE, *mounts).output)
    assert spec["containers"][0]["volumeMounts"][1:] == [
        {"name": "var-run-cdi", "mountPath": "/var/run/cdi"},
        {"name": "opt-my-lib", "mountPath": "/opt/My_Lib", "readOnly": True},
    ]
    assert spec["volumes"][1:] == [
        {"name": "var-run-cdi", "hostPath": {"path": "/var/run/cdi", "type": "DirectoryOrCreate"}},
        {"name": "opt-my-lib", "hostPath": {"path": "/opt/My_Lib", "type": "Directory"}},
    ]


def test_another_directory_of_the_kubelet_and_selinux(run: Run) -> None:
    """The plugin sees the directory at the usual place."""
    there = "/var/snap/microk8s/common/var/lib/kubelet/device-plugins"
    spec = pod_spec(run("manifest", "seats.py", *IMAGE, "--kubelet-dir", there, "--selinux").output)
    assert spec["volumes"][0]["hostPath"]["path"] == there
    assert spec["containers"][0]["volumeMounts"][0]["mountPath"] == DEVICE_PLUGIN_DIRECTORY
    assert spec["securityContext"]["seLinuxOptions"] == {"type": "container_device_plugin_t"}


def test_a_pod_that_asks(run: Run) -> None:
    """It names the resource: the class's, or the one that is given."""
    daemonset, pod = yaml.safe_load_all(run("manifest", "seats.py", *IMAGE, "--pod").output)
    assert daemonset["kind"] == "DaemonSet"
    assert pod["metadata"] == {"name": "seats-user"}
    assert pod["spec"]["containers"][0]["resources"] == {"limits": {"example.com/seat": 1}}
    more = ("--resource", "example.com/chair", "--pod-image", "registry.example.com/desk:2")
    _, pod = yaml.safe_load_all(run("manifest", "seats.py", *IMAGE, "--pod", *more).output)
    assert pod["spec"]["containers"] == [
        {
            "name": "main",
            "image": "registry.example.com/desk:2",
            "resources": {"limits": {"example.com/chair": 1}},
        }
    ]


def test_json(run: Run) -> None:
    """One document, the same as the YAML."""
    text = run("manifest", "seats.py", *IMAGE).output
    assert json.loads(run("manifest", "seats.py", *IMAGE, "--output", "json").output) == yaml.safe_load(text)
    both = json.loads(run("manifest", "seats.py", *IMAGE, "--pod", "--output", "json").output)
    assert (both["kind"], [item["kind"] for item in both["items"]]) == ("List", ["DaemonSet", "Pod"])


@pytest.mark.parametrize("name", ["1", "yes", "null", "2024-01-01"])
def test_names_that_yaml_would_read_as_something_else(run: Run, name: str) -> None:
    """They are in quotes."""
    manifest = yaml.safe_load(run("manifest", "seats.py", *IMAGE, "--name", name, "--namespace", name).output)
    assert manifest["metadata"] == {"name": name, "namespace": name}
    assert manifest["spec"]["selector"] == {"matchLabels": {"app": name}}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Missing option '--image'"),
        (["--image", "two words"], "the image 'two words' is not usable"),
        (["--image", "x", "--pod-image", ""], "the image '' is not usable"),
        (["--image", "x", "--name", "Seats"], "the name 'Seats' is not usable: it must be at most 63 lower-case"),
        (["--image", "x", "--name", "s" * 64], "is not usable"),
        (["--image", "x", "--namespace", "-"], "the namespace '-' is not usable"),
        (["--image", "x", "--resource", "seat"], "resource name 'seat' is not usable"),
        (["--image", "x", "--mount", "dev"], "'dev' is not the absolute path of a directory below /"),
        (["--image", "x", "--mount", "/"], "'/' is not the absolute path"),
        (["--image", "x", "--mount", "/a/../etc"], "is not the absolute path"),
        (["--image", "x", "--mount", "/dev:w"], "what follows the ':' is rw or ro"),
        (["--image", "x", "--mount", f"{DEVICE_PLUGIN_DIRECTORY}/"], "is mounted in any case"),
        (["--image", "x", "--mount", "/device-plugins"], "would be one volume, device-plugins."),
        (["--image", "x", "--mount", "/dev", "--mount", "/dev:rw"], "/dev and /dev would be one volume, dev."),
        (["--image", "x", "--mount", "/a/b", "--mount", "/a-b"], "/a-b and /a/b would be one volume, a-b."),
        (["--image", "x", "--kubelet-dir", "here"], "the kubelet's directory 'here' is not usable"),
    ],
)
def test_wrong_use(run: Run, arguments: list[str], complaint: str) -> None:
    """A sentence, status 2, and no manifest."""
    result = run("manifest", "seats.py", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in re.sub(r"\s+", " ", result.stderr)


def test_a_class_without_a_resource_name(run: Run, folder: Path) -> None:
    """It can be given by the option."""
    (folder / "nameless.py").write_text(
        (folder / "seats.py").read_text().replace('    resource_name = "example.com/seat"', "")
    )
    assert "resource name None is not usable" in run("manifest", "nameless.py", *IMAGE).stderr
    assert run("manifest", "nameless.py", *IMAGE, "--resource", "a.b/c").exit_code == 0


@pytest.mark.parametrize(
    ("name", "label"),
    [("SerialPorts", "serial-ports"), ("HTTPServer_2", "http-server-2"), ("_Gpus2", "gpus2"), ("x", "x")],
)
def test_a_class_name_as_a_label(name: str, label: str) -> None:
    """Words in lower case."""
    assert kebab(name) == label
