// The driver runs the kubelet's own device manager (pkg/kubelet/cm/devicemanager.ManagerImpl), topology
// manager and admission handlers in a directory of choice, without root, containers or a cluster.
// Commands come as JSON lines on stdin; answers and events go as JSON lines to stdout (protocol.go).
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"k8s.io/klog/v2"
)

// kubernetesVersion is set by the linker (-X main.kubernetesVersion=1.36.3).
var kubernetesVersion = "unknown"

type options struct {
	directory      string
	numaNodes      int
	topologyPolicy string
	topologyScope  string
	running        string
	podResources   string
	registry       string
	featureGates   string
}

func main() {
	var o options
	flag.StringVar(&o.directory, "dir", "", "the device plugin directory: kubelet.sock and the checkpoint are made here")
	flag.IntVar(&o.numaNodes, "numa", 1, "how many NUMA nodes the machine is said to have")
	flag.StringVar(&o.topologyPolicy, "topology-policy", "none", "none, best-effort, restricted or single-numa-node")
	flag.StringVar(&o.topologyScope, "topology-scope", "container", "container or pod")
	flag.StringVar(&o.running, "running", "", `a restart of the kubelet: the containers that the runtime reports as running, `+
		`{"POD UID": ["CONTAINER", ...]}; the configuration sources are then not ready until the command "adopt"`)
	flag.StringVar(&o.podResources, "pod-resources", "", "serve the pod resources API on this socket")
	flag.StringVar(&o.registry, "plugins-registry", "", "watch this directory for plugins, as <root-dir>/plugins_registry")
	flag.StringVar(&o.featureGates, "feature-gates", "", "Name=true,Other=false, as the kubelet's flag of this name")
	klog.InitFlags(nil) // -v N: the kubelet's own log, on stderr
	flag.Parse()
	if err := run(o, os.Stdin, &output{writer: os.Stdout, start: time.Now()}); err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
}

// run serves commands until "quit" or the end of stdin, so that a driver never outlives its client.
func run(o options, stdin io.Reader, out *output) error {
	if o.directory == "" || flag.NArg() > 0 {
		return errors.New("usage: driver -dir DIRECTORY [options]; -help lists the options")
	}
	directory, err := filepath.Abs(o.directory)
	if err != nil {
		return err
	}
	o.directory = directory
	k, err := newKubelet(o, out)
	if err != nil {
		return err
	}
	defer k.stop()
	lines := bufio.NewScanner(stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			out.answer(command{Op: "?"}, failure{Error: "not a command: " + err.Error()})
			continue
		}
		if c.Op == "quit" {
			k.stop()
			out.answer(c, struct{}{})
			return nil
		}
		k.dispatch(c)
	}
	return lines.Err()
}
