package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"
	"unsafe"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/checkpoint"
)

// The device manager offers no way to look at its devices or to move its clock: the five minutes of grace are a
// const (endpointStopGracePeriod) measured from a time.Time in each endpoint. So its unexported fields are reached
// by reflection, under its own locks, and upstream's code stays as it is. A field that changes its name or type in
// another version makes these functions panic with that name.

// field points at an unexported field of the struct behind pointer.
func field[T any](pointer interface{}, name string) *T {
	return fieldOf[T](reflect.ValueOf(pointer).Elem(), name)
}

func fieldOf[T any](structure reflect.Value, name string) *T {
	f := structure.FieldByName(name)
	if want := reflect.TypeOf((*T)(nil)).Elem(); !f.IsValid() || f.Type() != want {
		panic(fmt.Sprintf("%s has no field %s of type %s", structure.Type(), name, want))
	}
	return (*T)(unsafe.Pointer(f.UnsafeAddr()))
}

func locked(m *devicemanager.ManagerImpl) func() {
	mutex := field[sync.Mutex](m, "mutex")
	mutex.Lock()
	return mutex.Unlock
}

// endpoints calls visit with each endpointImpl, under the manager's lock.
func endpoints(m *devicemanager.ManagerImpl, visit func(resource string, endpoint reflect.Value)) {
	defer locked(m)()
	byResource := reflect.ValueOf(m).Elem().FieldByName("endpoints")
	for _, resource := range byResource.MapKeys() {
		// map value endpointInfo, its field e, the interface's content, the endpointImpl it points at
		visit(resource.String(), byResource.MapIndex(resource).FieldByName("e").Elem().Elem())
	}
}

type endpointState struct {
	Stopped     bool    `json:"stopped"`
	StoppedForS float64 `json:"stopped_for_s"`
}

func endpointsOf(m *devicemanager.ManagerImpl) map[string]endpointState {
	result := map[string]endpointState{}
	endpoints(m, func(resource string, endpoint reflect.Value) {
		mutex := fieldOf[sync.Mutex](endpoint, "mutex")
		mutex.Lock()
		defer mutex.Unlock()
		state := endpointState{}
		if stopTime := *fieldOf[time.Time](endpoint, "stopTime"); !stopTime.IsZero() {
			state = endpointState{Stopped: true, StoppedForS: time.Since(stopTime).Seconds()}
		}
		result[resource] = state
	})
	return result
}

// age makes a stopped endpoint look as if it had stopped that many seconds earlier.
func (k *kubelet) age(resource string, seconds float64) (interface{}, error) {
	err := fmt.Errorf("resource %q has no endpoint", resource)
	endpoints(k.manager, func(name string, endpoint reflect.Value) {
		if name != resource {
			return
		}
		mutex := fieldOf[sync.Mutex](endpoint, "mutex")
		mutex.Lock()
		defer mutex.Unlock()
		stopTime := fieldOf[time.Time](endpoint, "stopTime")
		if stopTime.IsZero() {
			err = fmt.Errorf("the endpoint of %q has not stopped", resource)
			return
		}
		*stopTime = stopTime.Add(-time.Duration(seconds * float64(time.Second)))
		err = nil
	})
	if err != nil {
		return nil, err
	}
	return k.state(false), nil
}

type checkpointEntry struct {
	UID       string             `json:"uid"`
	Container string             `json:"container"`
	Resource  string             `json:"resource"`
	Devices   map[int64][]string `json:"devices"` // by NUMA node
	Grant     grant              `json:"grant"`
}

type checkpointView struct {
	Exists     bool                `json:"exists"`
	ChecksumOK bool                `json:"checksum_ok"`
	Registered map[string][]string `json:"registered"` // the healthy devices of each resource
	Entries    []checkpointEntry   `json:"entries"`
}

// readCheckpoint reads the file back with the kubelet's own code.
func (k *kubelet) readCheckpoint() (interface{}, error) {
	view := checkpointView{Registered: map[string][]string{}, Entries: []checkpointEntry{}}
	blob, err := os.ReadFile(filepath.Join(k.directory, "kubelet_internal_checkpoint"))
	if os.IsNotExist(err) {
		return view, nil
	}
	if err != nil {
		return nil, err
	}
	view.Exists = true
	content := checkpoint.New(nil, nil)
	if err := content.UnmarshalCheckpoint(blob); err != nil {
		return nil, err
	}
	view.ChecksumOK = content.VerifyChecksum() == nil
	entries, registered := content.GetData()
	for _, e := range entries {
		g, err := storedGrant(e.AllocResp)
		if err != nil {
			return nil, err
		}
		view.Entries = append(view.Entries, checkpointEntry{e.PodUID, e.ContainerName, e.ResourceName, e.DeviceIDs, g})
	}
	for resource, ids := range registered {
		view.Registered[resource] = append([]string{}, ids...)
	}
	return view, nil
}

// storedGrant reads the plugin's answer that the checkpoint holds.
func storedGrant(blob []byte) (grant, error) {
	r, err := parseResponse(blob)
	if err != nil {
		return grant{}, err
	}
	g := grantOf(nil)
	for name, value := range r.Envs {
		g.Envs[name] = value
	}
	for name, value := range r.Annotations {
		g.Annotations[name] = value
	}
	for _, m := range r.Mounts {
		g.Mounts = append(g.Mounts, mount{m.ContainerPath, m.HostPath, m.ReadOnly})
	}
	for _, d := range r.Devices {
		g.DeviceNodes = append(g.DeviceNodes, deviceNode{d.ContainerPath, d.HostPath, d.Permissions})
	}
	g.CDIDevices = append(g.CDIDevices, responseCDI(r)...)
	return g, nil
}

func readableDevice(health string, healthy bool, topology *pluginapi.TopologyInfo) device {
	d := device{Health: health, Healthy: healthy}
	if topology != nil {
		d.Nodes = []int64{}
		for _, node := range topology.Nodes {
			d.Nodes = append(d.Nodes, node.ID)
		}
	}
	return d
}
