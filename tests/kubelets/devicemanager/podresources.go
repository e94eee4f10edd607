package main

import (
	"sort"

	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// listedDevice is one ContainerDevices message.
type listedDevice struct {
	Resource string   `json:"resource"`
	IDs      []string `json:"ids"`
	Nodes    []int64  `json:"nodes"` // null: no topology
}

type listedContainer struct {
	Name    string         `json:"name"`
	Devices []listedDevice `json:"devices"`
}

type listedPod struct {
	Name       string            `json:"name"`
	Namespace  string            `json:"namespace"`
	Containers []listedContainer `json:"containers"`
}

func listedPods(response *podresourcesapi.ListPodResourcesResponse) []listedPod {
	pods := []listedPod{}
	for _, p := range response.PodResources {
		pod := listedPod{Name: p.Name, Namespace: p.Namespace, Containers: []listedContainer{}}
		for _, c := range p.Containers {
			pod.Containers = append(pod.Containers, listedContainer{Name: c.Name, Devices: listedDevices(c.Devices)})
		}
		pods = append(pods, pod)
	}
	return pods
}

// listedDevices keeps the messages as they are, in a stable order (the API's is that of Go's maps).
func listedDevices(messages []*podresourcesapi.ContainerDevices) []listedDevice {
	devices := []listedDevice{}
	for _, m := range messages {
		d := listedDevice{Resource: m.ResourceName, IDs: append([]string{}, m.DeviceIds...)}
		if m.Topology != nil {
			d.Nodes = []int64{}
			for _, node := range m.Topology.Nodes {
				d.Nodes = append(d.Nodes, node.ID)
			}
		}
		devices = append(devices, d)
	}
	sort.SliceStable(devices, func(i, j int) bool {
		a, b := devices[i], devices[j]
		if a.Resource != b.Resource {
			return a.Resource < b.Resource
		}
		return len(a.IDs) > 0 && len(b.IDs) > 0 && a.IDs[0] < b.IDs[0]
	})
	return devices
}
