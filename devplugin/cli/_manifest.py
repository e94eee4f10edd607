"""``devplugin manifest``: the DaemonSet that brings a plugin to the nodes."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

import click
import yaml

from devplugin import ConfigurationError
from devplugin._kubelet import DEVICE_PLUGIN_DIRECTORY
from devplugin.cli._load import load_plugin, plugin_argument
from devplugin.cli._output import example, output_option, print_json
from devplugin.model import check_resource_name

__all__ = ["HostMount", "check_image", "check_label", "command", "daemonset", "kebab", "pod"]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_RULE = "it must be at most 63 lower-case letters, digits and '-', with a letter or digit first and last"
_IMAGE = re.compile(r"[!-~]+")
# A volume's name is a label too, and this one is taken.
_KUBELET_VOLUME = "device-plugins"

_DAEMONSET = """\
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {name}
  namespace: {namespace}
spec:
  minReadySeconds: 5 # an update ends the old instance only when the new one has registered
  selector:
    matchLabels: {{app: {name}}}
  updateStrategy:
    rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}} # the new instance first: see "two instances"
  template:
    metadata:
      labels: {{app: {name}}}
    spec:
      priorityClassName: system-node-critical
      automountServiceAccountToken: false # it speaks to the kubelet only
      tolerations:
      - operator: Exists
      securityContext:
        seccompProfile: {{type: RuntimeDefault}}
{selinux}      containers:
      - name: plugin
        image: {image}
{termination}        securityContext:
          runAsUser: 0 # the kubelet's directory belongs to root
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {{drop: [ALL]}}
        resources:
          requests: {{cpu: 10m, memory: 40Mi}}
          limits: {{memory: 80Mi}}
        volumeMounts:
{mounts}      volumes:
{volumes}"""

_TERMINATION = "        terminationMessagePath: /termination-log # not below /dev, which is read-only here\n"
_SELINUX = "        seLinuxOptions: {type: container_device_plugin_t}\n"
_MOUNT = """\
        - name: {name}
          mountPath: {path}
"""
_READ_ONLY = "          readOnly: true\n"
_VOLUME = """\
      - name: {name}
        hostPath:
          path: {path}
          type: {type}
"""

_POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  containers:
  - name: main
    image: {image}
    resources:
      limits:
        {resource}: 1
"""


@dataclass(frozen=True, slots=True)
class HostMount:
    """A path of the host that the plugin sees at the same place.

    Attributes:
        path: Absolute.
        writable: Whether it may write there; then it is made when it is missing.
    """

    path: str
    writable: bool = False

    @property
    def volume(self) -> str:
        """The name of its volume."""
        return re.sub(r"[^a-z0-9]+", "-", self.path.lower()).strip("-")[:63].strip("-")


def _mounts(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[HostMount, ...]:
    """The values of ``--mount``, each once."""
    mounts = tuple(dict.fromkeys(_mount(value, ctx, param) for value in values))
    places = {_KUBELET_VOLUME: DEVICE_PLUGIN_DIRECTORY}
    for mount in mounts:
        if other := places.get(mount.volume):
            raise click.BadParameter(f"{mount.path} and {other} would be one volume, {mount.volume}.", ctx, param)
        places[mount.volume] = mount.path
    return mounts


def _mount(value: str, ctx: click.Context, param: click.Parameter) -> HostMount:
    path, _, mode = value.partition(":")
    if mode not in ("", "ro", "rw"):
        raise click.BadParameter(f"{value!r}: what follows the ':' is rw or ro.", ctx, param)
    pure = PurePosixPath(path)
    mount = HostMount(str(pure), writable=mode == "rw")
    if not pure.is_absolute() or ".." in pure.parts or not mount.volume:
        raise click.BadParameter(f"{path!r} is not the absolute path of a directory below /.", ctx, param)
    if mount.path == DEVICE_PLUGIN_DIRECTORY:
        raise click.BadParameter(f"{path} is mounted in any case.", ctx, param)
    return mount


def kebab(name: str) -> str:
    """``SerialPorts`` as ``serial-ports``, ``HTTPServer_2`` as ``http-server-2``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+", "-", name)
    return words.strip("-").lower()


def check_label(what: str, name: str) -> str:
    """``name``, when Kubernetes accepts it as a DNS label.

    Raises:
        ConfigurationError: It does not.
    """
    if not _LABEL.fullmatch(name):
        raise ConfigurationError(f"the {what} {name!r} is not usable: {_LABEL_RULE}")
    return name


def check_image(image: str) -> str:
    """``image``, when it can be the name of one.

    Raises:
        ConfigurationError: It cannot.
    """
    if not _IMAGE.fullmatch(image):
        raise ConfigurationError(f"the image {image!r} is not usable: it must be printable ASCII without spaces")
    return image


def daemonset(
    name: str,
    image: str,
    *,
    namespace: str = "kube-system",
    kubelet_dir: str = DEVICE_PLUGIN_DIRECTORY,
    mounts: tuple[HostMount, ...] = (),
    selinux: bool = False,
) -> str:
    """The DaemonSet, as YAML with comments.

    Args:
        name: Of the DaemonSet, and the label of its pods.
        image: The plugin's container image.
        namespace: Which must allow the Pod Security Standard "privileged", because of the host's paths.
        kubelet_dir: Where the host has the kubelet's directory; the plugin sees it at the usual place.
        mounts: More paths of the host.
        selinux: The nodes enforce SELinux.
    """
    kubelet = HostMount(DEVICE_PLUGIN_DIRECTORY, writable=True)
    volumes = [(_KUBELET_VOLUME, kubelet, kubelet_dir, "Directory")]
    volumes += [
        (each.volume, each, each.path, "DirectoryOrCreate" if each.writable else "Directory") for each in mounts
    ]
    return _DAEMONSET.format(
        name=_text(name),
        namespace=_text(namespace),
        image=_text(image),
        selinux=_SELINUX if selinux else "",
        termination=_TERMINATION if HostMount("/dev") in mounts else "",
        mounts="".join(
            _MOUNT.format(name=volume, path=_text(mount.path)) + ("" if mount.writable else _READ_ONLY)
            for volume, mount, _, _ in volumes
        ),
        volumes="".join(_VOLUME.format(name=volume, path=_text(path), type=kind) for volume, _, path, kind in volumes),
    )


def pod(name: str, image: str, resource: str) -> str:
    """A pod that asks for one device, as YAML."""
    return _POD.format(name=_text(name), image=_text(image), resource=_text(resource))


def _text(value: str) -> str:
    """A string as YAML writes it: as it is where that is read back as the same string, otherwise in quotes."""
    return yaml.safe_dump(value, width=float("inf")).removesuffix("\n...\n").removesuffix("\n")


def _check_directory(path: str) -> None:
    if not re.fullmatch(r"/[!-~]*", path):
        raise ConfigurationError(f"the kubelet's directory {path!r} is not usable: it must be an absolute path")


@click.command(
    epilog=example(
        "devplugin manifest serial_ports.py --image registry.example.com/serial-ports:1 --mount /dev",
        "devplugin manifest serial_ports.py --image registry.example.com/serial-ports:1 | kubectl apply -f -",
    )
)
@plugin_argument()
@click.option("--image", required=True, help="The plugin's container image.")
@click.option("--name", help="The DaemonSet's name.  [default: made of the class's name]")
@click.option("--namespace", default="kube-system", show_default=True, help="Its namespace.")
@click.option("--resource", help="The resource, where the class has its name from somewhere else.")
@click.option("--pod", "with_pod", is_flag=True, help="Add a pod that asks for one device.")
@click.option(
    "--pod-image", default="registry.example.com/app:1", show_default=True, help="The image of that pod's container."
)
@click.option(
    "--mount",
    "mounts",
    metavar="PATH[:rw]",
    multiple=True,
    callback=_mounts,
    help="A path of the host that the plugin sees too, such as /dev; only for reading, unless :rw follows.",
)
@click.option(
    "--kubelet-dir",
    metavar="DIR",
    default=DEVICE_PLUGIN_DIRECTORY,
    show_default=True,
    help="Where the nodes have the kubelet's directory.",
)
@click.option("--selinux", is_flag=True, help="The nodes enforce SELinux.")
@output_option("one JSON document, a List with --pod")
def command(  # noqa: PLR0917  (click gives them by name)
    plugin: str,
    image: str,
    name: str | None,
    namespace: str,
    resource: str | None,
    pod_image: str,
    mounts: tuple[HostMount, ...],
    kubelet_dir: str,
    output: str,
    *,
    with_pod: bool,
    selinux: bool,
) -> None:
    """Write the DaemonSet that runs this plugin on every node, with no more rights and mounts than it needs.

    Why each line is there: docs/how-to/deploy.md. The image's entry point starts the plugin. The exit status is 0, or 2 when
    the plugin or an option is not usable.
    """
    found = load_plugin(plugin)
    try:
        resource = check_resource_name(resource or getattr(found, "resource_name", None))
        name = check_label("name", name or kebab(type(found).__name__))
        check_label("namespace", namespace)
        _check_directory(kubelet_dir)
        check_image(image)
        check_image(pod_image)
    except ConfigurationError as error:
        raise click.UsageError(f"{error}.") from error
    manifests = [daemonset(name, image, namespace=namespace, kubelet_dir=kubelet_dir, mounts=mounts, selinux=selinux)]
    if with_pod:
        manifests.append(pod(f"{name[:58]}-user", pod_image, resource))
    if output == "text":
        click.echo("---\n".join(manifests), nl=False)
        return
    items = [yaml.safe_load(each) for each in manifests]
    print_json(items[0] if len(items) == 1 else {"apiVersion": "v1", "kind": "List", "items": items})
