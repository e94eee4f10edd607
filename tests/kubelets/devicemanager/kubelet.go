package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
)

// kubelet is what of a kubelet surrounds its device manager.
type kubelet struct {
	options
	out      *output
	manager  *devicemanager.ManagerImpl
	topology topologymanager.Manager
	admit    []func(pod *v1.Pod, others []*v1.Pod) verdict
	pods     podTable
	node     nodeStatus
	sources  sourcesReady
	// syncLoop runs admissions one after the other, as the kubelet's: an Allocate that hangs blocks all that follow.
	syncLoop chan func()
	stopped  chan struct{}
	stopOnce sync.Once
}

// verdict is a lifecycle.PodAdmitResult.
type verdict struct {
	admit           bool
	reason, message string
}

// sourcesReady is false from a restart until the kubelet has heard of its pods ("adopt").
type sourcesReady struct {
	mutex sync.Mutex
	ready bool
}

func (s *sourcesReady) AddSource(string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.ready = true
}

func (s *sourcesReady) AllReady() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.ready
}

func newKubelet(o options, out *output) (*kubelet, error) {
	if err := utilfeature.DefaultMutableFeatureGate.Set(o.featureGates); err != nil {
		return nil, err
	}
	k := &kubelet{options: o, out: out, syncLoop: make(chan func(), 1<<16), stopped: make(chan struct{})}
	k.pods.byUID = map[types.UID]*podRecord{}
	k.node = nodeStatus{capacity: map[string]int64{}, allocatable: map[string]int64{}, deleted: map[string]bool{}}
	running, err := parseRunning(o.running)
	if err != nil {
		return nil, err
	}
	k.sources.ready = o.running == ""
	if err := k.build(); err != nil {
		return nil, err
	}
	if err := k.start(running); err != nil {
		return nil, err
	}
	out.event("started", map[string]interface{}{
		"kubernetes": kubernetesVersion, "socket": filepath.Join(o.directory, "kubelet.sock"),
	})
	k.refresh()
	go k.poll(k.stopped)
	go func() {
		for f := range k.syncLoop {
			f()
		}
	}()
	if o.podResources != "" {
		if err := k.servePodResources(o.podResources); err != nil {
			return nil, err
		}
	}
	if o.registry != "" {
		k.watchPlugins(o.registry)
	}
	return k, nil
}

// stop stops the device manager cleanly. A kubelet that is told to end does not do this: it just ends.
func (k *kubelet) stop() {
	k.stopOnce.Do(func() {
		close(k.stopped)
		if err := stopManager(k.manager); err != nil {
			k.out.event("stop_failed", map[string]interface{}{"error": err.Error()})
		}
	})
}

// decide runs the admission handlers, in the order of Kubelet.canAdmitPod, on a pod that is in the table already.
func (k *kubelet) decide(record *podRecord) admission {
	pod := record.pod
	result := admission{UID: string(pod.UID), Admitted: true, Phase: string(v1.PodPending)}
	for _, admit := range k.admit {
		if v := admit(pod, k.pods.others(pod)); !v.admit {
			k.pods.deactivate(record)
			result.Admitted, result.Phase, result.Reason = false, string(v1.PodFailed), v.reason
			result.Message, result.EventMessage = rejectedPrefix+v.message, v.message
			break
		}
	}
	result.Containers = k.allotments(pod)
	k.refresh()
	return result
}

func (k *kubelet) allotments(pod *v1.Pod) []containerAllotment {
	result := []containerAllotment{}
	for i, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			allotment := containerAllotment{Container: c.Name, Init: i == 0}
			allotment.Devices = devicesOfContainer(k.manager, string(pod.UID), c.Name)
			if h := affinity(k.topology, string(pod.UID), c.Name); h.NUMANodeAffinity != nil {
				allotment.Affinity = &hint{Nodes: h.NUMANodeAffinity.GetBits(), Preferred: h.Preferred}
			}
			result = append(result, allotment)
		}
	}
	return result
}

func (k *kubelet) allocate(spec podSpec) (interface{}, error) {
	pod, err := spec.build()
	if err != nil {
		return nil, err
	}
	record, err := k.pods.add(pod)
	if err != nil {
		return nil, err
	}
	return k.decide(record), nil
}

// adopt is the first list of pods from the API server after a restart: all are admitted anew, and only then are
// the sources ready (Kubelet.syncLoopIteration).
func (k *kubelet) adopt(specs []podSpec) (interface{}, error) {
	results := []admission{}
	for _, spec := range specs {
		result, err := k.allocate(spec)
		if err != nil {
			return nil, err
		}
		results = append(results, result.(admission))
	}
	k.sources.AddSource("api")
	return results, nil
}

// startContainer does what the kubelet does with the device manager each time it starts a container.
func (k *kubelet) startContainer(record *podRecord, name string) (interface{}, error) {
	container, err := record.container(name)
	if err != nil {
		return nil, err
	}
	result := containerStart{Container: name, Devices: map[string][]string{}, grant: grantOf(nil)}
	o, err := runOptions(k.manager, record.pod, container)
	if err != nil {
		result.refuse(err)
		return result, nil
	}
	record.starts++
	id := fmt.Sprintf("%s/%s/%d", record.pod.UID, name, record.starts)
	if err := addContainer(k.topology, record.pod, container, id); err != nil {
		return nil, err
	}
	record.ids = append(record.ids, id)
	result.Started = true
	result.Devices = devicesOfContainer(k.manager, string(record.pod.UID), name)
	result.grant = grantOf(o)
	return result, nil
}

// refuse words an error as kuberuntime.startContainer does (ErrCreateContainerConfig).
func (s *containerStart) refuse(err error) {
	s.Reason, s.Error = "CreateContainerConfigError", err.Error()
	parsed, _ := status.FromError(err)
	s.Message = parsed.Message()
}

// preStart is the PreStartContainer part of a start alone, for each of the container's resources.
func (k *kubelet) preStart(record *podRecord, name string) (interface{}, error) {
	container, err := record.container(name)
	if err != nil {
		return nil, err
	}
	result := containerStart{Container: name, Started: true, grant: grantOf(nil)}
	for resource := range container.Resources.Limits {
		if err := preStart(k.manager, string(record.pod.UID), name, string(resource)); err != nil {
			result.Started = false
			result.refuse(err)
			break
		}
	}
	result.Devices = devicesOfContainer(k.manager, string(record.pod.UID), name)
	return result, nil
}

// grantOf gives the options in the words of the protocol; nil is "nothing of the device manager's".
func grantOf(o *devicemanager.DeviceRunContainerOptions) grant {
	g := grant{
		Envs: map[string]string{}, Mounts: []mount{}, DeviceNodes: []deviceNode{}, Annotations: map[string]string{},
		CDIDevices: []string{},
	}
	if o == nil {
		return g
	}
	for _, e := range o.Envs {
		g.Envs[e.Name] = e.Value
	}
	for _, a := range o.Annotations {
		g.Annotations[a.Name] = a.Value
	}
	for _, m := range o.Mounts {
		g.Mounts = append(g.Mounts, mount{m.ContainerPath, m.HostPath, m.ReadOnly})
	}
	for _, d := range o.Devices {
		g.DeviceNodes = append(g.DeviceNodes, deviceNode{d.PathInContainer, d.PathOnHost, d.Permissions})
	}
	g.CDIDevices = append(g.CDIDevices, cdiDevices(o)...)
	return g
}

// forget ends a pod: "finish" leaves it known (Succeeded), else it is gone; its devices are reclaimed when the
// kubelet next looks (at the next admission, hint or pod resources call), or at once with reclaim.
func (k *kubelet) forget(record *podRecord, finish, reclaim bool) {
	record.worker.Lock()
	defer record.worker.Unlock()
	for _, id := range record.ids {
		if err := removeContainer(k.topology, id); err != nil {
			k.out.event("remove_failed", map[string]interface{}{"container": id, "error": err.Error()})
		}
	}
	record.ids = nil
	k.pods.deactivate(record)
	if !finish {
		k.pods.remove(record)
	}
	if reclaim {
		updateAllocatedDevices(k.manager)
	}
}

var errUnsupported = errors.New("this version of Kubernetes does not have it")
