package main

import (
	"fmt"
	"sort"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// podRecord is a pod that the kubelet knows.
type podRecord struct {
	pod    *v1.Pod
	active bool // false once rejected or finished: its devices may be reclaimed
	order  int
	worker sync.Mutex // a pod worker does one thing at a time
	starts int        // guarded by worker
	ids    []string   // containers started, guarded by worker
}

func (r *podRecord) container(name string) (*v1.Container, error) {
	for _, list := range [][]v1.Container{r.pod.Spec.InitContainers, r.pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i], nil
			}
		}
	}
	return nil, fmt.Errorf("pod %s has no container %q", r.pod.UID, name)
}

// podTable stands for the kubelet's pod manager and pod workers.
type podTable struct {
	mutex sync.Mutex
	byUID map[types.UID]*podRecord
	count int
}

func (t *podTable) add(pod *v1.Pod) (*podRecord, error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if _, known := t.byUID[pod.UID]; known {
		return nil, fmt.Errorf("pod %s is known already: remove it first", pod.UID)
	}
	t.count++
	record := &podRecord{pod: pod, active: true, order: t.count}
	t.byUID[pod.UID] = record
	return record, nil
}

func (t *podTable) get(uid string) (*podRecord, error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if record, known := t.byUID[types.UID(uid)]; known {
		return record, nil
	}
	return nil, fmt.Errorf("no pod has the uid %q", uid)
}

func (t *podTable) deactivate(record *podRecord) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	record.active = false
}

func (t *podTable) remove(record *podRecord) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	delete(t.byUID, record.pod.UID)
}

// list gives the pods in the order of their arrival.
func (t *podTable) list(onlyActive bool) []*v1.Pod {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	var records []*podRecord
	for _, record := range t.byUID {
		if record.active || !onlyActive {
			records = append(records, record)
		}
	}
	sort.Slice(records, func(i, j int) bool { return records[i].order < records[j].order })
	pods := make([]*v1.Pod, len(records))
	for i, record := range records {
		pods[i] = record.pod
	}
	return pods
}

func (t *podTable) others(pod *v1.Pod) []*v1.Pod {
	var others []*v1.Pod
	for _, p := range t.list(true) {
		if p.UID != pod.UID {
			others = append(others, p)
		}
	}
	return others
}

// GetPods, GetActivePods and GetPodByName make the table the pods provider of the pod resources API.
func (t *podTable) GetPods() []*v1.Pod { return t.list(false) }

func (t *podTable) GetActivePods() []*v1.Pod { return t.list(true) }

func (t *podTable) GetPodByName(namespace, name string) (*v1.Pod, bool) {
	for _, pod := range t.list(false) {
		if pod.Namespace == namespace && pod.Name == name {
			return pod, true
		}
	}
	return nil, false
}

func (s podSpec) build() (*v1.Pod, error) {
	if s.Name == "" || s.UID == "" || len(s.Containers) == 0 {
		return nil, fmt.Errorf("a pod needs a name, a uid and a container, got %+v", s)
	}
	if s.Namespace == "" {
		s.Namespace = "default"
	}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace, UID: types.UID(s.UID)}}
	for _, c := range s.InitContainers {
		container := c.build()
		if err := setRestartPolicy(&container, c.RestartPolicy); err != nil {
			return nil, err
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, container)
	}
	for _, c := range s.Containers {
		pod.Spec.Containers = append(pod.Spec.Containers, c.build())
	}
	return pod, nil
}

func (s containerSpec) build() v1.Container {
	limits := v1.ResourceList{}
	for name, n := range s.Limits {
		limits[v1.ResourceName(name)] = *resource.NewQuantity(n, resource.DecimalSI)
	}
	return v1.Container{Name: s.Name, Resources: v1.ResourceRequirements{Limits: limits, Requests: limits.DeepCopy()}}
}
