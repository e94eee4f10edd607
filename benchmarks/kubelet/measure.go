package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

func allocateRequest(ids []string) *api.AllocateRequest {
	return &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: ids}}}
}

// allocate makes Count calls one after the other and returns how long each took.
func (k *kubelet) allocate(c command) ([]int64, error) {
	client, err := k.client(c.Resource)
	if err != nil {
		return nil, err
	}
	request := allocateRequest(c.IDs)
	took := make([]int64, 0, c.Count)
	for range c.Count {
		began := now()
		if _, err := client.Allocate(context.Background(), request); err != nil {
			return nil, err
		}
		took = append(took, now()-began)
	}
	return took, nil
}

type flooded struct {
	Calls int64 `json:"calls"`
	Ns    int64 `json:"ns"`
}

// flood keeps InFlight calls under way and counts those that were answered within Seconds.
func (k *kubelet) flood(c command) (*flooded, error) {
	client, err := k.client(c.Resource)
	if err != nil {
		return nil, err
	}
	var calls atomic.Int64
	var group sync.WaitGroup
	failures := make(chan error, c.InFlight)
	began := now()
	until := began + int64(c.Seconds*1e9)
	for range c.InFlight {
		group.Go(func() {
			request := allocateRequest(c.IDs)
			for now() < until {
				if _, err := client.Allocate(context.Background(), request); err != nil {
					failures <- err
					return
				}
				calls.Add(1)
			}
		})
	}
	group.Wait()
	select {
	case err := <-failures:
		return nil, err
	default:
		return &flooded{calls.Load(), now() - began}, nil
	}
}

// allocating is a loop of calls that runs beside other things.
type allocating struct {
	stop chan struct{}
	done chan error
	// Calls has when each began, and how long it took.
	Calls [][2]int64 `json:"calls"`
}

func (k *kubelet) beginAllocating(c command) error {
	client, err := k.client(c.Resource)
	if err != nil {
		return err
	}
	a := &allocating{stop: make(chan struct{}), done: make(chan error, 1)}
	k.allocating = a
	request := allocateRequest(c.IDs)
	go func() {
		for {
			select {
			case <-a.stop:
				a.done <- nil
				return
			default:
			}
			began := now()
			if _, err := client.Allocate(context.Background(), request); err != nil {
				a.done <- err
				return
			}
			a.Calls = append(a.Calls, [2]int64{began, now() - began})
		}
	}()
	return nil
}

func (k *kubelet) endAllocating() (*allocating, error) {
	if k.allocating == nil {
		return nil, errors.New("begin_allocating comes first")
	}
	a := k.allocating
	k.allocating = nil
	close(a.stop)
	return a, <-a.done
}

// watched is how long the lists of all resources took to arrive, and to be decoded.
type watched struct {
	ArrivedNs []int64 `json:"arrived_ns"`
	DecodedNs []int64 `json:"decoded_ns"`
}

// watch opens another stream to each resource, all at once, and waits for the first list of each; Count times.
func (k *kubelet) watch(c command) (*watched, error) {
	var clients []api.DevicePluginClient
	for _, resource := range c.Resources {
		client, err := k.client(resource)
		if err != nil {
			return nil, err
		}
		clients = append(clients, client)
	}
	result := &watched{}
	for range c.Count {
		arrived, decoded, err := watchOnce(clients)
		if err != nil {
			return nil, err
		}
		result.ArrivedNs = append(result.ArrivedNs, arrived)
		result.DecodedNs = append(result.DecodedNs, decoded)
		time.Sleep(seconds(c.PauseS)) // the plugins see that the streams have ended
	}
	return result, nil
}

func watchOnce(clients []api.DevicePluginClient) (arrived, decoded int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var group sync.WaitGroup
	var lastArrived, lastDecoded atomic.Int64
	failures := make(chan error, len(clients))
	began := now()
	for _, client := range clients {
		group.Go(func() {
			stream, err := client.ListAndWatch(ctx, &api.Empty{})
			if err != nil {
				failures <- err
				return
			}
			list, err := stream.Recv()
			if err != nil {
				failures <- err
				return
			}
			raise(&lastDecoded, now())
			raise(&lastArrived, arrivalOf(list).ns)
		})
	}
	group.Wait()
	select {
	case err := <-failures:
		return 0, 0, err
	default:
		return lastArrived.Load() - began, lastDecoded.Load() - began, nil
	}
}

func raise(highest *atomic.Int64, value int64) {
	for {
		old := highest.Load()
		if value <= old || highest.CompareAndSwap(old, value) {
			return
		}
	}
}

// echo sends Count messages of the length of an Allocate to a server that sends each back: the floor under any call.
func echo(c command) ([]int64, error) {
	connection, err := net.Dial("unix", c.Path)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	message := make([]byte, 64)
	binary.BigEndian.PutUint32(message, 60)
	took := make([]int64, 0, c.Count)
	for range c.Count {
		began := now()
		if _, err := connection.Write(message); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(connection, message); err != nil {
			return nil, fmt.Errorf("no echo: %w", err)
		}
		took = append(took, now()-began)
	}
	return took, nil
}
