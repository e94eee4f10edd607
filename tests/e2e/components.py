"""The node's components: their configuration, their processes, and their start in the order that they need."""

import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from . import pki
from .api import Api
from .console import timed
from .errors import FailedError
from .images import PAUSE
from .inside import ADDRESS, NODE
from .registry import ADDRESS as REGISTRY
from .waiting import until

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"

CONTAINERD = """version = 3
root = '{state}/containerd'
state = '/run/containerd'
[grpc]
  address = '{socket}'
[plugins.'io.containerd.internal.v1.opt']
  path = '{state}/opt'
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = 'docker.io/{pause}:1'
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '{state}/etc/registries'
[plugins.'io.containerd.cri.v1.runtime']
  enable_cdi = true
  cdi_spec_dirs = ['/var/run/cdi', '/etc/cdi']
  # a root without CAP_SYS_RESOURCE cannot lower oom_score_adj, and runc would die of it
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
      BinaryName = '{bin}/runc'
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['{bin}']
    conf_dir = '{state}/etc/cni'
"""

CNI = """{{"cniVersion": "1.0.0", "name": "pods", "plugins": [{{
  "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
  "ipam": {{"type": "host-local", "dataDir": "{state}/cni",
           "ranges": [[{{"subnet": "10.78.0.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}
"""

REGISTRIES = '[host."http://{host}:{port}"]\n  capabilities = ["pull", "resolve"]\n'

KUBELET = """apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false  # machines with version 1 are refused by default since 1.35
cgroupDriver: cgroupfs
failSwapOn: false
containerRuntimeEndpoint: unix://{socket}
resolvConf: {state}/etc/resolv.conf
volumePluginDir: {state}/etc/volume-plugins
clusterDNS: []
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
enforceNodeAllocatable: [pods]
nodeStatusUpdateFrequency: 1s  # 10s by default: here the node's status is what is watched
makeIPTablesUtilChains: false
readOnlyPort: 0
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {state}/pki/ca.crt}}
authorization: {{mode: Webhook}}
"""


class Process:
    """A process with a log that is appended to."""

    def __init__(self, command: Sequence[str], log: Path, *, cwd: Path | None = None) -> None:
        self.command = command
        self.log = log
        with log.open("ab") as output:
            # A session of its own: what is meant for one must not reach its neighbours.
            self._child = subprocess.Popen(
                command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def __repr__(self) -> str:
        state = "runs" if self.alive else f"ended with status {self._child.returncode}"
        return f"<{Path(self.command[0]).name} {state}>"

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def stop(self, *, timeout_s: float = 20) -> int:
        """Ask it to end (SIGTERM) and give its exit status.

        Raises:
            FailedError: It did not end in time; it has been killed.
        """
        self._child.terminate()
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise FailedError(f"{shlex.join(self.command)} did not end within {timeout_s:g} s of SIGTERM") from error

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    def tail(self, lines: int = 10) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Components:
    """The control plane and the node's own components, by name."""

    def __init__(self, state: Path, programs: Path) -> None:
        self._state = state
        self._programs = programs
        self._running: dict[str, Process] = {}
        self.api = Api(state / "pki")

    def up(self) -> None:
        """Start everything, to a node that is Ready; the end of the namespaces ends it."""
        self._configure()
        with timed("certificates"):
            pki.write(self._state / "pki", node=NODE, address=ADDRESS)
        with timed("containerd, etcd, kube-apiserver"):
            self._start("containerd", "-c", f"{self._state}/etc/containerd.toml")
            self._start_etcd()
            self._start_apiserver()
            self._until("kube-apiserver to be ready", lambda: self.api.text("/readyz") == "ok", timeout_s=120)
            self._until("containerd's socket", Path(CONTAINERD_SOCKET).exists, timeout_s=60)
        with timed("kube-controller-manager, kube-scheduler, kubelet, to node Ready"):
            self._start_controllers()
            self.start_kubelet()
            self._until("the node to be Ready", self._node_is_ready, timeout_s=120)
            account = "/api/v1/namespaces/default/serviceaccounts/default"  # pods need it
            self._until("the default service account", lambda: self.api.find(account) is not None, timeout_s=60)

    def start_kubelet(self) -> None:
        state = self._state
        self._start(
            "kubelet",
            f"--config={state}/etc/kubelet.yaml",
            f"--kubeconfig={state}/pki/kubelet.conf",
            f"--tls-cert-file={state}/pki/kubelet-serving.crt",
            f"--tls-private-key-file={state}/pki/kubelet-serving.key",
            f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
            "--v=4",  # the device manager tells of streams and allocations from here on
        )

    def stop_kubelet(self) -> None:
        self._running.pop("kubelet").stop()

    def check(self) -> None:
        """Raise the first component that has ended by itself.

        Raises:
            FailedError: With the end of its log.
        """
        for name, process in self._running.items():
            if not process.alive:
                raise FailedError(f"{name} has ended by itself: {process!r}; its log ends:\n{process.tail()}")

    def _start(self, name: str, *arguments: str) -> None:
        command = [str(self._programs / name), *arguments]
        self._running[name] = Process(command, self._state / "log" / f"{name}.log")

    def _until(self, what: str, holds: Callable[[], bool], *, timeout_s: float) -> None:
        def look() -> bool:
            self.check()
            return holds()

        until(what, look, timeout_s=timeout_s)

    def _node_is_ready(self) -> bool:
        node = self.api.find(f"/api/v1/nodes/{NODE}")
        conditions = node["status"].get("conditions", []) if node else []
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    def _configure(self) -> None:
        host, port = REGISTRY
        values = {
            "state": self._state,
            "bin": self._programs,
            "socket": CONTAINERD_SOCKET,
            "pause": PAUSE,
            "host": host,
            "port": port,
        }
        files = {
            "containerd.toml": CONTAINERD,
            "cni/10-pods.conflist": CNI,
            "registries/_default/hosts.toml": REGISTRIES,
            "kubelet.yaml": KUBELET,
            "crictl.yaml": "runtime-endpoint: unix://{socket}\n",
        }
        for name, content in files.items():
            path = self._state / "etc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content.format_map(values))

    def _start_etcd(self) -> None:
        client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
        self._start(
            "etcd",
            f"--data-dir={self._state}/etcd/data",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            "--unsafe-no-fsync",  # nothing here outlives the run
            "--log-level=warn",
        )

    def _start_apiserver(self) -> None:
        keys = f"{self._state}/pki"
        self._start(
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            "--secure-port=6443",
            f"--advertise-address={ADDRESS}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--client-ca-file={keys}/ca.crt",
            f"--tls-cert-file={keys}/apiserver.crt",
            f"--tls-private-key-file={keys}/apiserver.key",
            f"--kubelet-client-certificate={keys}/kubelet-client.crt",
            f"--kubelet-client-key={keys}/kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys}/sa.pub",
            f"--service-account-signing-key-file={keys}/sa.key",
            "--v=1",
        )

    def _start_controllers(self) -> None:
        keys = f"{self._state}/pki"
        self._start(
            "kube-controller-manager",
            f"--kubeconfig={keys}/kube-controller-manager.conf",
            "--leader-elect=false",
            f"--root-ca-file={keys}/ca.crt",
            f"--service-account-private-key-file={keys}/sa.key",
            "--use-service-account-credentials=true",
            "--bind-address=127.0.0.1",
            "--v=1",
        )
        scheduler = ["--leader-elect=false", "--bind-address=127.0.0.1", "--v=2"]
        self._start("kube-scheduler", f"--kubeconfig={keys}/kube-scheduler.conf", *scheduler)
