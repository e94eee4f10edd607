package main

import (
	"encoding/json"
	"io"
	"os"
	"sync"
	"time"
)

// command is one line of stdin. Seq comes back in the answer.
type command struct {
	Seq       int64     `json:"seq"`
	Op        string    `json:"op"`
	Pod       podSpec   `json:"pod"`       // allocate, hints
	Pods      []podSpec `json:"pods"`      // adopt
	UID       string    `json:"uid"`       // start, pre_start, finish_pod, remove_pod, free, status
	Container string    `json:"container"` // start, pre_start
	Resource  string    `json:"resource"`  // age
	Seconds   float64   `json:"seconds"`   // age
	Devices   bool      `json:"devices"`   // state: list the devices too
}

// podSpec is a pod as the API server would hand it over.
type podSpec struct {
	Name           string          `json:"name"`
	Namespace      string          `json:"namespace"`
	UID            string          `json:"uid"`
	InitContainers []containerSpec `json:"init_containers"`
	Containers     []containerSpec `json:"containers"`
}

type containerSpec struct {
	Name string `json:"name"`
	// Limits are also the requests, as the API server sets them for extended resources.
	Limits map[string]int64 `json:"limits"`
	// RestartPolicy "Always" on an init container makes it a sidecar.
	RestartPolicy string `json:"restart_policy"`
}

// failure is the answer to a command that the driver itself could not carry out.
type failure struct {
	Error string `json:"error"`
	// Unsupported: this version of Kubernetes does not have it.
	Unsupported bool `json:"unsupported,omitempty"`
}

// admission is what a pod's status and event say once the kubelet has decided on it.
type admission struct {
	UID      string `json:"uid"`
	Admitted bool   `json:"admitted"`
	// Phase, Reason and Message are the pod's status, EventMessage is the text of its event.
	Phase        string               `json:"phase"`
	Reason       string               `json:"reason"`
	Message      string               `json:"message"`
	EventMessage string               `json:"event_message"`
	Containers   []containerAllotment `json:"containers"`
}

// containerAllotment is what admission set aside for one container.
type containerAllotment struct {
	Container string              `json:"container"`
	Init      bool                `json:"init"`
	Devices   map[string][]string `json:"devices"`
	Affinity  *hint               `json:"affinity"` // the topology manager's choice, if it made one
}

type hint struct {
	Nodes     []int `json:"nodes"`
	Preferred bool  `json:"preferred"`
}

// containerStart is one start of a container: everything of the device manager that reaches it, or why it did not start.
type containerStart struct {
	Container string              `json:"container"`
	Started   bool                `json:"started"`
	Devices   map[string][]string `json:"devices"`
	grant
	// Reason and Message are the waiting state's; Error is the error as the device manager returned it.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Error   string `json:"error_text"`
}

// grant is the content of an AllocateResponse (or of several, merged) in the kubelet's own terms.
type grant struct {
	Envs        map[string]string `json:"envs"`
	Mounts      []mount           `json:"mounts"`
	DeviceNodes []deviceNode      `json:"device_nodes"`
	Annotations map[string]string `json:"annotations"`
	CDIDevices  []string          `json:"cdi_devices"`
}

type mount struct {
	ContainerPath string `json:"container_path"`
	HostPath      string `json:"host_path"`
	ReadOnly      bool   `json:"read_only"`
}

type deviceNode struct {
	ContainerPath string `json:"container_path"`
	HostPath      string `json:"host_path"`
	Permissions   string `json:"permissions"`
}

// device is one device as the manager holds it: Health as last reported, Healthy as it counts now
// (the end of a stream makes devices unhealthy without touching what they last reported).
type device struct {
	Health  string  `json:"health"`
	Healthy bool    `json:"healthy"`
	Nodes   []int64 `json:"nodes"` // null: no topology
}

// output writes one JSON object a line.
type output struct {
	mutex  sync.Mutex
	writer io.Writer
	start  time.Time
}

func (o *output) event(name string, fields map[string]interface{}) {
	if fields == nil {
		fields = map[string]interface{}{}
	}
	fields["event"] = name
	o.write(fields)
}

func (o *output) answer(c command, result interface{}) {
	o.write(map[string]interface{}{"event": "answer", "op": c.Op, "seq": c.Seq, "result": result})
}

func (o *output) write(fields map[string]interface{}) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	fields["t_s"] = time.Since(o.start).Seconds()
	line, err := json.Marshal(fields)
	if err != nil {
		panic(err) // only values of this package come here
	}
	if _, err := o.writer.Write(append(line, '\n')); err != nil {
		os.Exit(1) // the client has gone
	}
}
