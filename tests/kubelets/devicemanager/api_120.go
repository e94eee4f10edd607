//go:build k120

// Kubernetes 1.20, from before the device manager's plugin package: the manager itself is the registration server.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"sync"
	"time"
	"unsafe"

	cadvisorapi "github.com/google/cadvisor/info/v1"
	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/record"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	watcherapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager"
)

// pollInterval is short, since the end of a stream is seen by polling only.
const pollInterval = 10 * time.Millisecond

// rejectedPrefix is Kubelet.rejectPod's: in the pod's status, not in its event.
const rejectedPrefix = "Pod "

func (k *kubelet) build() error {
	machine := make([]cadvisorapi.Node, k.numaNodes)
	for i := range machine {
		machine[i].Id = i
	}
	topology, err := topologymanager.NewManager(machine, k.topologyPolicy, k.topologyScope)
	if err != nil {
		return err
	}
	k.topology = topology
	if k.manager, err = newManagerImpl(filepath.Join(k.directory, "kubelet.sock"), machine, topology); err != nil {
		return err
	}
	topology.AddHintProvider(k.manager)
	k.observeLists()
	predicates := lifecycle.NewPredicateAdmitHandler(
		func() (*v1.Node, error) { return k.nodeObject(), nil }, passFailures{}, k.manager.UpdatePluginResources)
	for _, handler := range []lifecycle.PodAdmitHandler{topology, predicates} {
		handler := handler
		k.admit = append(k.admit, func(pod *v1.Pod, others []*v1.Pod) verdict {
			r := handler.Admit(&lifecycle.PodAdmitAttributes{Pod: pod, OtherPods: others})
			return verdict{admit: r.Admit, reason: r.Reason, message: r.Message}
		})
	}
	return nil
}

// The linker checks no types: this must be the signature in pkg/kubelet/cm/devicemanager/manager.go.
//
//go:linkname newManagerImpl k8s.io/kubernetes/pkg/kubelet/cm/devicemanager.newManagerImpl
func newManagerImpl(string, []cadvisorapi.Node, topologymanager.Store) (*devicemanager.ManagerImpl, error)

//go:linkname callPreStart k8s.io/kubernetes/pkg/kubelet/cm/devicemanager.(*ManagerImpl).callPreStartContainerIfNeeded
func callPreStart(m *devicemanager.ManagerImpl, uid, container, resource string) error

func preStart(m *devicemanager.ManagerImpl, uid, container, resource string) error {
	return callPreStart(m, uid, container, resource)
}

// observeLists puts itself before the callback that endpoints hand each list to.
func (k *kubelet) observeLists() {
	// The field's type, monitorCallback, has no exported name; this is what it is.
	address := reflect.ValueOf(k.manager).Elem().FieldByName("callback").UnsafeAddr()
	callback := (*func(string, []pluginapi.Device))(unsafe.Pointer(address))
	next := *callback
	*callback = func(resource string, devices []pluginapi.Device) {
		healthy := 0
		for _, d := range devices {
			if d.Health == pluginapi.Healthy {
				healthy++
			}
		}
		k.out.event("list", map[string]interface{}{"resource": resource, "devices": len(devices), "healthy": healthy})
		next(resource, devices)
		k.refresh()
	}
}

// watchEndpoints tells of endpoints that came or stopped. There is nothing to observe, so it looks.
func (k *kubelet) watchEndpoints() {
	type seen struct {
		address uintptr
		stopped bool
	}
	known := map[string]seen{}
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		endpoints(k.manager, func(resource string, endpoint reflect.Value) {
			mutex := fieldOf[sync.Mutex](endpoint, "mutex")
			mutex.Lock()
			now := seen{endpoint.UnsafeAddr(), !fieldOf[time.Time](endpoint, "stopTime").IsZero()}
			mutex.Unlock()
			before, was := known[resource]
			known[resource] = now
			if now.address != before.address && !now.stopped {
				k.out.event("connected", map[string]interface{}{
					"resource": resource, "socket": *fieldOf[string](endpoint, "socketPath"),
				})
			}
			if now.stopped && was && (now.address != before.address || !before.stopped) {
				k.out.event("disconnected", map[string]interface{}{"resource": resource})
			}
		})
		select {
		case <-k.stopped:
			return
		case <-ticker.C:
		}
	}
}

// start has no use for what is running: 1.20 does not ask.
func (k *kubelet) start(map[string][]string) error {
	if err := k.manager.Start(k.pods.GetActivePods, &k.sources); err != nil {
		return err
	}
	go k.watchEndpoints()
	return nil
}

func stopManager(m *devicemanager.ManagerImpl) error { return m.Stop() }

// passFailures is the admission failure handler of a kubelet that evicts nothing.
type passFailures struct{}

func (passFailures) HandleAdmissionFailure(
	_ *v1.Pod, reasons []lifecycle.PredicateFailureReason,
) ([]lifecycle.PredicateFailureReason, error) {
	return reasons, nil
}

func setRestartPolicy(_ *v1.Container, policy string) error {
	if policy != "" {
		return fmt.Errorf("an init container that restarts: %w", errUnsupported)
	}
	return nil
}

func getCapacity(m *devicemanager.ManagerImpl) (v1.ResourceList, v1.ResourceList, []string) {
	return m.GetCapacity()
}

func runOptions(m *devicemanager.ManagerImpl, p *v1.Pod, c *v1.Container) (*devicemanager.DeviceRunContainerOptions, error) {
	return m.GetDeviceRunContainerOptions(p, c)
}

func updateAllocatedDevices(m *devicemanager.ManagerImpl) { m.UpdateAllocatedDevices() }

func resourceHealth(*kubelet, *v1.Pod) (interface{}, error) {
	return nil, fmt.Errorf("device health in pod status: %w", errUnsupported)
}

func containerHints(m *devicemanager.ManagerImpl, p *v1.Pod, c *v1.Container) map[string][]topologymanager.TopologyHint {
	return m.GetTopologyHints(p, c)
}

func podHints(m *devicemanager.ManagerImpl, p *v1.Pod) map[string][]topologymanager.TopologyHint {
	return m.GetPodTopologyHints(p)
}

func affinity(t topologymanager.Manager, uid, container string) topologymanager.TopologyHint {
	return t.GetAffinity(uid, container)
}

func addContainer(t topologymanager.Manager, pod *v1.Pod, _ *v1.Container, id string) error {
	return t.AddContainer(pod, id)
}

func removeContainer(t topologymanager.Manager, id string) error { return t.RemoveContainer(id) }

func devicesOfContainer(m *devicemanager.ManagerImpl, uid, container string) map[string][]string {
	unique := map[string]sets.String{}
	for _, list := range m.GetDevices(uid, container) {
		if unique[list.ResourceName] == nil {
			unique[list.ResourceName] = sets.NewString()
		}
		unique[list.ResourceName].Insert(list.DeviceIds...)
	}
	result := map[string][]string{}
	for resource, ids := range unique {
		result[resource] = ids.List()
	}
	return result
}

func allocatedOf(m *devicemanager.ManagerImpl) map[string][]string {
	defer locked(m)()
	result := map[string][]string{}
	for resource, ids := range *field[map[string]sets.String](m, "allocatedDevices") {
		result[resource] = ids.List()
	}
	return result
}

func devicesOf(m *devicemanager.ManagerImpl) map[string]map[string]device {
	defer locked(m)()
	healthy := *field[map[string]sets.String](m, "healthyDevices")
	result := map[string]map[string]device{}
	for resource, instances := range *field[map[string]map[string]pluginapi.Device](m, "allDevices") {
		result[resource] = map[string]device{}
		for id, d := range instances {
			result[resource][id] = readableDevice(d.Health, healthy[resource].Has(id), d.Topology)
		}
	}
	return result
}

// cdiDevices: 1.20 knows nothing of CDI.
func cdiDevices(*devicemanager.DeviceRunContainerOptions) []string { return nil }

func parseResponse(blob []byte) (*pluginapi.ContainerAllocateResponse, error) {
	response := &pluginapi.ContainerAllocateResponse{}
	return response, response.Unmarshal(blob)
}

func responseCDI(*pluginapi.ContainerAllocateResponse) []string { return nil }

// noCPUs stands for the CPU manager.
type noCPUs struct{}

func (noCPUs) GetCPUs(_, _ string) []int64 { return nil }

// podResourcesView has no allocatable devices: 1.20 has only List.
func (k *kubelet) podResourcesView() (interface{}, error) {
	list, err := k.podResourcesServer().List(context.Background(), &podresourcesapi.ListPodResourcesRequest{})
	if err != nil {
		return nil, err
	}
	return map[string]interface{}{"pods": listedPods(list), "allocatable": nil}, nil
}

func (k *kubelet) podResourcesServer() podresourcesapi.PodResourcesListerServer {
	return podresources.NewV1PodResourcesServer(&k.pods, k.manager, noCPUs{})
}

func (k *kubelet) servePodResources(socket string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	podresourcesapi.RegisterPodResourcesListerServer(server, k.podResourcesServer())
	go func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			k.out.event("pod_resources_failed", map[string]interface{}{"error": err.Error()})
		}
	}()
	return nil
}

// watchPlugins runs the kubelet's plugin manager over a directory.
func (k *kubelet) watchPlugins(directory string) {
	manager := pluginmanager.NewPluginManager(directory, &record.FakeRecorder{})
	manager.AddHandler(watcherapi.DevicePlugin, k.manager.GetWatcherHandler())
	go manager.Run(&k.sources, k.stopped)
}
