//go:build k137

package main

import (
	"context"

	_ "unsafe" // for go:linkname

	cadvisorapi "github.com/google/cadvisor/lib/model"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	plugin "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/plugin/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager"
)

func machine(numaNodes int) []cadvisorapi.Node {
	nodes := make([]cadvisorapi.Node, numaNodes)
	for i := range nodes {
		nodes[i].Id = i
	}
	return nodes
}

func newTopologyManager(o options) (topologymanager.Manager, error) {
	return topologymanager.NewManager(klog.Background(), machine(o.numaNodes), o.topologyPolicy, o.topologyScope, nil)
}

func addHintProvider(t topologymanager.Manager, m *devicemanager.ManagerImpl) {
	t.AddHintProvider(klog.Background(), m)
}

// newDeviceManager is devicemanager.NewManagerImpl at a socket path of the caller's choice.
func newDeviceManager(socket string, numaNodes int, t topologymanager.Manager) (*devicemanager.ManagerImpl, error) {
	return newManagerImpl(klog.Background(), socket, machine(numaNodes), t)
}

// The linker checks no types: this must be the signature in pkg/kubelet/cm/devicemanager/manager.go.
//
//go:linkname newManagerImpl k8s.io/kubernetes/pkg/kubelet/cm/devicemanager.newManagerImpl
func newManagerImpl(klog.Logger, string, []cadvisorapi.Node, topologymanager.Store) (*devicemanager.ManagerImpl, error)

//go:linkname callPreStart k8s.io/kubernetes/pkg/kubelet/cm/devicemanager.(*ManagerImpl).callPreStartContainerIfNeeded
func callPreStart(m *devicemanager.ManagerImpl, ctx context.Context, uid, container, resource string) error

func preStart(m *devicemanager.ManagerImpl, uid, container, resource string) error {
	return callPreStart(m, context.Background(), uid, container, resource)
}

func newPluginServer(socket string, r plugin.RegistrationHandler, c plugin.ClientHandler) (plugin.Server, error) {
	return plugin.NewServer(klog.Background(), socket, r, c)
}

func (o *observer) PluginConnected(ctx context.Context, resource string, p plugin.DevicePlugin) error {
	err := o.ManagerImpl.PluginConnected(ctx, resource, p)
	o.connected(resource, p, err)
	return err
}

func (o *observer) PluginDisconnected(logger klog.Logger, resource, socket string) {
	o.ManagerImpl.PluginDisconnected(logger, resource, socket)
	o.disconnected(resource)
}

func (o *observer) PluginListAndWatchReceiver(
	logger klog.Logger, resource string, response *pluginapi.ListAndWatchResponse,
) {
	o.listing(resource, response)
	o.ManagerImpl.PluginListAndWatchReceiver(logger, resource, response)
	o.k.refresh()
}

func startManager(k *kubelet, containers containermap.ContainerMap, running sets.Set[string]) error {
	return k.manager.Start(klog.Background(), k.pods.GetActivePods, &k.sources, containers, running)
}

func stopManager(m *devicemanager.ManagerImpl) error { return m.Stop(klog.Background()) }

func admitHandlers(k *kubelet) []func(*v1.Pod, []*v1.Pod) verdict {
	node := func(context.Context, bool) (*v1.Node, error) { return k.nodeObject(), nil }
	predicates := lifecycle.NewPredicateAdmitHandler(node, passFailures{}, k.manager.UpdatePluginResources)
	var handlers []func(*v1.Pod, []*v1.Pod) verdict
	for _, handler := range []lifecycle.PodAdmitHandler{k.topology, predicates} {
		handler := handler
		handlers = append(handlers, func(pod *v1.Pod, others []*v1.Pod) verdict {
			return verdictOf(handler.Admit(context.Background(), &lifecycle.PodAdmitAttributes{
				Pod: pod, OtherPods: others, Operation: lifecycle.AddOperation,
			}))
		})
	}
	return handlers
}

func (passFailures) HandleAdmissionFailure(
	_ context.Context, _ *v1.Pod, reasons []lifecycle.PredicateFailureReason, _ lifecycle.Operation,
) ([]lifecycle.PredicateFailureReason, error) {
	return reasons, nil
}

func getCapacity(m *devicemanager.ManagerImpl) (v1.ResourceList, v1.ResourceList, []string) {
	return m.GetCapacity(klog.Background())
}

func runOptions(m *devicemanager.ManagerImpl, p *v1.Pod, c *v1.Container) (*devicemanager.DeviceRunContainerOptions, error) {
	return m.GetDeviceRunContainerOptions(context.Background(), p, c)
}

func updateAllocatedDevices(m *devicemanager.ManagerImpl) {
	m.UpdateAllocatedDevices(klog.Background())
}

func updateResourcesStatus(m *devicemanager.ManagerImpl, pod *v1.Pod, status *v1.PodStatus) {
	m.UpdateAllocatedResourcesStatus(klog.Background(), pod, status)
}

func containerHints(m *devicemanager.ManagerImpl, p *v1.Pod, c *v1.Container) map[string][]topologymanager.TopologyHint {
	return m.GetTopologyHints(klog.Background(), p, c, lifecycle.AddOperation)
}

func podHints(m *devicemanager.ManagerImpl, p *v1.Pod) map[string][]topologymanager.TopologyHint {
	return m.GetPodTopologyHints(klog.Background(), p, lifecycle.AddOperation)
}

func affinity(t topologymanager.Manager, uid, container string) topologymanager.TopologyHint {
	return t.GetAffinity(klog.Background(), uid, container)
}

func addContainer(t topologymanager.Manager, pod *v1.Pod, c *v1.Container, id string) error {
	t.AddContainer(klog.Background(), pod, c, id)
	return nil
}

func removeContainer(t topologymanager.Manager, id string) error {
	return t.RemoveContainer(klog.Background(), id)
}

func (p podDevices) UpdateAllocatedDevices(l klog.Logger) { p.m.UpdateAllocatedDevices(l) }

func (p podDevices) GetAllocatableDevices(l klog.Logger) []*podresourcesapi.ContainerDevices {
	return deviceLists(p.m.GetAllocatableDevices(l))
}

func (elsewhere) GetCPUs(*v1.Pod, *v1.Container) []int64 { return nil }

func (elsewhere) GetPodCPUs(string) []int64 { return nil }

func (elsewhere) GetMemory(klog.Logger, *v1.Pod, *v1.Container) []*podresourcesapi.ContainerMemory {
	return nil
}

func (elsewhere) GetPodMemory(klog.Logger, string) []*podresourcesapi.ContainerMemory { return nil }

func (elsewhere) GetAllocatableMemory(klog.Logger) []*podresourcesapi.ContainerMemory { return nil }

func (elsewhere) GetDynamicResources(klog.Logger, *v1.Pod, *v1.Container) []*podresourcesapi.DynamicResource {
	return nil
}

func runPluginManager(k *kubelet, manager pluginmanager.PluginManager) {
	manager.Run(context.Background(), &k.sources, k.stopped)
}
