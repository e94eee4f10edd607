//go:build !k120

// What 1.34 and later have in common.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sort"
	"time"

	_ "unsafe" // for go:linkname

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/record"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	watcherapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/features"
	apisgrpc "k8s.io/kubernetes/pkg/kubelet/apis/grpc"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	plugin "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/plugin/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager"
)

// pollInterval is for the end of the grace only, which a real kubelet notices within 10 s (its node status).
const pollInterval = 100 * time.Millisecond

// rejectedPrefix is Kubelet.rejectPod's: in the pod's status, not in its event.
const rejectedPrefix = "Pod was rejected: "

// build makes the topology manager, the device manager with an observer in its server, and the admission handlers.
func (k *kubelet) build() error {
	topology, err := newTopologyManager(k.options)
	if err != nil {
		return err
	}
	k.topology = topology
	socket := filepath.Join(k.directory, "kubelet.sock")
	if k.manager, err = newDeviceManager(socket, k.numaNodes, topology); err != nil {
		return err
	}
	addHintProvider(topology, k.manager)
	// The same server as newManagerImpl makes, but for its ClientHandler, which tells of each call it passes on.
	server, err := newPluginServer(socket, k.manager, &observer{k.manager, k})
	if err != nil {
		return err
	}
	*field[plugin.Server](k.manager, "server") = server
	globalServerOptions = append(globalServerOptions, grpc.ChainUnaryInterceptor(k.watchRegister))
	k.admit = admitHandlers(k)
	return nil
}

// observer is the device manager as its server's ClientHandler. Its methods are in the files of the versions.
type observer struct {
	*devicemanager.ManagerImpl
	k *kubelet
}

func (o *observer) connected(resource string, p plugin.DevicePlugin, err error) {
	fields := map[string]interface{}{"resource": resource, "socket": p.SocketPath()}
	name := "connected"
	if err != nil {
		name, fields["error"] = "connect_failed", err.Error()
	}
	o.k.out.event(name, fields)
	o.k.refresh()
}

func (o *observer) disconnected(resource string) {
	o.k.out.event("disconnected", map[string]interface{}{"resource": resource})
	o.k.refresh()
}

// listing comes before the device manager's own work, which writes the checkpoint first.
func (o *observer) listing(resource string, response *pluginapi.ListAndWatchResponse) {
	healthy := 0
	for _, d := range response.Devices {
		if d.Health == pluginapi.Healthy {
			healthy++
		}
	}
	o.k.out.event("list", map[string]interface{}{
		"resource": resource, "devices": len(response.Devices), "healthy": healthy,
	})
}

// globalServerOptions is grpc's own variable, used by its observability modules: options of every server made later.
//
//go:linkname globalServerOptions google.golang.org/grpc.globalServerOptions
var globalServerOptions []grpc.ServerOption

// watchRegister tells of each Register call and how it was answered.
func (k *kubelet) watchRegister(
	ctx context.Context, request interface{}, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (interface{}, error) {
	response, err := handler(ctx, request)
	if r, ok := request.(*pluginapi.RegisterRequest); ok {
		fields := map[string]interface{}{"resource": r.ResourceName, "endpoint": r.Endpoint, "version": r.Version, "error": nil}
		if err != nil {
			fields["error"] = err.Error()
		}
		k.out.event("register", fields)
	}
	return response, err
}

func (k *kubelet) start(running map[string][]string) error {
	containers, runningSet := containermap.NewContainerMap(), sets.New[string]()
	for uid, names := range running {
		for _, name := range names {
			id := uid + "/" + name + "/0"
			containers.Add(uid, name, id)
			runningSet.Insert(id)
		}
	}
	go func() {
		for update := range k.manager.Updates() {
			k.out.event("health", map[string]interface{}{"uids": update.PodUIDs})
		}
	}()
	return startManager(k, containers, runningSet)
}

func setRestartPolicy(container *v1.Container, policy string) error {
	switch policy {
	case "":
		return nil
	case string(v1.ContainerRestartPolicyAlways):
		always := v1.ContainerRestartPolicyAlways
		container.RestartPolicy = &always
		return nil
	}
	return fmt.Errorf("an init container's restart_policy is \"Always\" or absent, not %q", policy)
}

func devicesOfContainer(m *devicemanager.ManagerImpl, uid, container string) map[string][]string {
	result := map[string][]string{}
	for resource, instances := range m.GetDevices(uid, container) {
		for id := range instances {
			result[resource] = append(result[resource], id)
		}
		sort.Strings(result[resource])
	}
	return result
}

func allocatedOf(m *devicemanager.ManagerImpl) map[string][]string {
	defer locked(m)()
	result := map[string][]string{}
	for resource, ids := range *field[map[string]sets.Set[string]](m, "allocatedDevices") {
		result[resource] = sets.List(ids)
	}
	return result
}

func devicesOf(m *devicemanager.ManagerImpl) map[string]map[string]device {
	defer locked(m)()
	healthy := *field[map[string]sets.Set[string]](m, "healthyDevices")
	result := map[string]map[string]device{}
	for resource, instances := range *field[devicemanager.ResourceDeviceInstances](m, "allDevices") {
		result[resource] = map[string]device{}
		for id, d := range instances {
			result[resource][id] = readableDevice(d.Health, healthy[resource].Has(id), d.Topology)
		}
	}
	return result
}

func cdiDevices(o *devicemanager.DeviceRunContainerOptions) []string {
	names := []string{}
	for _, d := range o.CDIDevices {
		names = append(names, d.Name)
	}
	return names
}

func parseResponse(blob []byte) (*pluginapi.ContainerAllocateResponse, error) {
	response := &pluginapi.ContainerAllocateResponse{}
	return response, proto.Unmarshal(blob, response)
}

func responseCDI(r *pluginapi.ContainerAllocateResponse) []string {
	names := []string{}
	for _, d := range r.CdiDevices {
		names = append(names, d.Name)
	}
	return names
}

// resourceHealth is the device health in the pod's status, as the kubelet fills it in when the feature is enabled.
func resourceHealth(k *kubelet, pod *v1.Pod) (interface{}, error) {
	enabled := utilfeature.DefaultFeatureGate.Enabled(features.ResourceHealthStatus)
	containers := map[string]map[string]map[string]string{}
	if enabled {
		status := &v1.PodStatus{}
		for _, c := range pod.Spec.Containers {
			status.ContainerStatuses = append(status.ContainerStatuses, v1.ContainerStatus{Name: c.Name})
		}
		updateResourcesStatus(k.manager, pod, status)
		for _, c := range status.ContainerStatuses {
			containers[c.Name] = map[string]map[string]string{}
			for _, r := range c.AllocatedResourcesStatus {
				ids := map[string]string{}
				for _, d := range r.Resources {
					ids[string(d.ResourceID)] = string(d.Health)
				}
				containers[c.Name][string(r.Name)] = ids
			}
		}
	}
	return map[string]interface{}{"enabled": enabled, "containers": containers}, nil
}

// deviceLists words devices as cm.containerDevicesFromResourceDeviceInstances (unexported, in a package that needs
// all of a node): one entry for each device, or for each of its NUMA nodes.
func deviceLists(devices devicemanager.ResourceDeviceInstances) []*podresourcesapi.ContainerDevices {
	var result []*podresourcesapi.ContainerDevices
	for resource, instances := range devices {
		for id, d := range instances {
			entry := func(topology *podresourcesapi.TopologyInfo) {
				result = append(result, &podresourcesapi.ContainerDevices{
					ResourceName: resource, DeviceIds: []string{id}, Topology: topology,
				})
			}
			if d.GetTopology() == nil {
				entry(nil)
				continue
			}
			for _, node := range d.GetTopology().GetNodes() {
				entry(&podresourcesapi.TopologyInfo{Nodes: []*podresourcesapi.NUMANode{{ID: node.GetID()}}})
			}
		}
	}
	return result
}

// podDevices is the device manager as the pod resources API sees it.
type podDevices struct{ m *devicemanager.ManagerImpl }

func (p podDevices) GetDevices(uid, container string) []*podresourcesapi.ContainerDevices {
	return deviceLists(p.m.GetDevices(uid, container))
}

// elsewhere stands for the CPU, memory and DRA managers: they have nothing.
type elsewhere struct{}

func (elsewhere) GetAllocatableCPUs() []int64 { return nil }

func podResourcesServer(k *kubelet) podresourcesapi.PodResourcesListerServer {
	return podresources.NewV1PodResourcesServer(context.Background(), podresources.PodResourcesProviders{
		Pods: &k.pods, Devices: podDevices{k.manager}, Cpus: elsewhere{}, Memory: elsewhere{}, DynamicResources: elsewhere{},
	})
}

func (k *kubelet) podResourcesView() (interface{}, error) {
	server := podResourcesServer(k)
	list, err := server.List(context.Background(), &podresourcesapi.ListPodResourcesRequest{})
	if err != nil {
		return nil, err
	}
	all, err := server.GetAllocatableResources(context.Background(), &podresourcesapi.AllocatableResourcesRequest{})
	if err != nil {
		return nil, err
	}
	return map[string]interface{}{"pods": listedPods(list), "allocatable": listedDevices(all.Devices)}, nil
}

// servePodResources serves the API as server.ListenAndServePodResources does, with its rate limit.
func (k *kubelet) servePodResources(socket string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(apisgrpc.WithRateLimiter(
		context.Background(), "podresources", podresources.DefaultQPS, podresources.DefaultBurstTokens))
	podresourcesapi.RegisterPodResourcesListerServer(server, podResourcesServer(k))
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
	go runPluginManager(k, manager)
}

// passFailures is the admission failure handler of a kubelet that evicts nothing.
type passFailures struct{}

func verdictOf(r lifecycle.PodAdmitResult) verdict {
	return verdict{admit: r.Admit, reason: r.Reason, message: r.Message}
}
