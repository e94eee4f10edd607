package main

import (
	"encoding/json"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
)

// dispatch carries a command out where the kubelet would: admissions in the sync loop, containers' starts in
// their pod's worker, and what only looks at once, so that it answers while a plugin hangs.
func (k *kubelet) dispatch(c command) {
	switch c.Op {
	case "allocate":
		k.syncLoop <- func() { k.reply(c)(k.allocate(c.Pod)) }
	case "adopt":
		k.syncLoop <- func() { k.reply(c)(k.adopt(c.Pods)) }
	case "start", "pre_start", "finish_pod", "remove_pod", "free":
		record, err := k.pods.get(c.UID)
		if err != nil {
			k.reply(c)(nil, err)
			return
		}
		go func() { k.reply(c)(k.work(c, record)) }()
	default:
		k.reply(c)(k.inspect(c))
	}
}

func (k *kubelet) reply(c command) func(result interface{}, err error) {
	return func(result interface{}, err error) {
		if err != nil {
			result = failure{Error: err.Error(), Unsupported: errors.Is(err, errUnsupported)}
		}
		k.out.answer(c, result)
	}
}

// work is a pod worker's: one thing at a time for each pod.
func (k *kubelet) work(c command, record *podRecord) (interface{}, error) {
	switch c.Op {
	case "finish_pod":
		k.forget(record, true, false)
		return struct{}{}, nil
	case "remove_pod":
		k.forget(record, false, false)
		return struct{}{}, nil
	case "free":
		k.forget(record, false, true)
		return struct{}{}, nil
	}
	record.worker.Lock()
	defer record.worker.Unlock()
	if c.Op == "pre_start" {
		return k.preStart(record, c.Container)
	}
	return k.startContainer(record, c.Container)
}

func (k *kubelet) inspect(c command) (interface{}, error) {
	switch c.Op {
	case "state":
		return k.state(c.Devices), nil
	case "hints":
		return k.hints(c.Pod)
	case "age":
		return k.age(c.Resource, c.Seconds)
	case "checkpoint":
		return k.readCheckpoint()
	case "pod_resources":
		return k.podResourcesView()
	case "status":
		record, err := k.pods.get(c.UID)
		if err != nil {
			return nil, err
		}
		return resourceHealth(k, record.pod)
	}
	return nil, fmt.Errorf("unknown command %q", c.Op)
}

func (k *kubelet) state(withDevices bool) map[string]interface{} {
	fields := k.refresh()
	fields["endpoints"] = endpointsOf(k.manager)
	fields["allocated"] = allocatedOf(k.manager)
	if withDevices {
		fields["devices"] = devicesOf(k.manager)
	}
	return fields
}

// hints asks the device manager, as the topology manager does, where this pod could go; null is "anywhere".
func (k *kubelet) hints(spec podSpec) (interface{}, error) {
	pod, err := spec.build()
	if err != nil {
		return nil, err
	}
	containers := map[string]interface{}{}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			containers[list[i].Name] = readableHints(containerHints(k.manager, pod, &list[i]))
		}
	}
	return map[string]interface{}{"pod": readableHints(podHints(k.manager, pod)), "containers": containers}, nil
}

func readableHints(hints map[string][]topologymanager.TopologyHint) map[string][]hint {
	result := map[string][]hint{}
	for resource, list := range hints {
		if list == nil {
			result[resource] = nil
			continue
		}
		result[resource] = []hint{}
		for _, h := range list {
			result[resource] = append(result[resource], hint{Nodes: h.NUMANodeAffinity.GetBits(), Preferred: h.Preferred})
		}
	}
	return result
}

func parseRunning(text string) (map[string][]string, error) {
	running := map[string][]string{}
	if text == "" {
		return running, nil
	}
	if err := json.Unmarshal([]byte(text), &running); err != nil {
		return nil, fmt.Errorf("-running: %w", err)
	}
	return running, nil
}
