package main

import (
	"reflect"
	"sort"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// nodeStatus keeps the device plugin part of the node's status by the rules of nodestatus.MachineInfo
// (pkg/kubelet/nodestatus/setters.go): a resource that the device manager drops is 0, it does not go away.
// It is the only caller of GetCapacity, which reports each dropped resource once.
type nodeStatus struct {
	mutex       sync.Mutex
	capacity    map[string]int64
	allocatable map[string]int64
	deleted     map[string]bool
	emitted     map[string]interface{}
}

// statusFields gives the status as it is sent, each time anew.
func (s *nodeStatus) statusFields() map[string]interface{} {
	deleted := []string{}
	for name := range s.deleted {
		deleted = append(deleted, name)
	}
	sort.Strings(deleted)
	return map[string]interface{}{
		"capacity": copyCounts(s.capacity), "allocatable": copyCounts(s.allocatable), "deleted": deleted,
	}
}

func copyCounts(counts map[string]int64) map[string]int64 {
	result := make(map[string]int64, len(counts))
	for name, n := range counts {
		result[name] = n
	}
	return result
}

// refresh asks the device manager for its capacity and sends an event when that has changed.
func (k *kubelet) refresh() map[string]interface{} {
	s := &k.node
	s.mutex.Lock()
	defer s.mutex.Unlock()
	capacity, allocatable, deleted := getCapacity(k.manager)
	for name, quantity := range capacity {
		s.capacity[string(name)] = quantity.Value()
		delete(s.deleted, string(name))
	}
	for name, quantity := range allocatable {
		s.allocatable[string(name)] = quantity.Value()
	}
	for _, name := range deleted {
		s.capacity[name], s.allocatable[name] = 0, 0
		s.deleted[name] = true
	}
	fields := s.statusFields()
	if !reflect.DeepEqual(fields, s.emitted) {
		s.emitted = s.statusFields()
		k.out.event("capacity", s.statusFields())
	}
	return fields
}

// poll catches the changes that only time brings: the others are seen as they happen (observer).
func (k *kubelet) poll(stop <-chan struct{}) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			k.refresh()
		}
	}
}

// nodeObject is the node as the API server would know it. Real kubelets' view lags by up to 10 s, this one does not.
func (k *kubelet) nodeObject() *v1.Node {
	k.refresh()
	s := &k.node
	s.mutex.Lock()
	defer s.mutex.Unlock()
	node := &v1.Node{}
	node.Status.Capacity, node.Status.Allocatable = v1.ResourceList{}, v1.ResourceList{}
	for _, list := range []v1.ResourceList{node.Status.Capacity, node.Status.Allocatable} {
		list[v1.ResourceCPU] = resource.MustParse("64")
		list[v1.ResourceMemory] = resource.MustParse("64Gi")
		list[v1.ResourcePods] = resource.MustParse("100000") // not the 110 of a real node: pods are not the subject here
	}
	for name, n := range s.capacity {
		node.Status.Capacity[v1.ResourceName(name)] = *resource.NewQuantity(n, resource.DecimalSI)
	}
	for name, n := range s.allocatable {
		node.Status.Allocatable[v1.ResourceName(name)] = *resource.NewQuantity(n, resource.DecimalSI)
	}
	return node
}
