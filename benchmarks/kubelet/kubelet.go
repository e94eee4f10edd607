package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// plugin is a registered plugin.
type plugin struct {
	connection *grpc.ClientConn
	client     api.DevicePluginClient
}

// registration is one that has just succeeded.
type registration struct {
	resource string
	ns       int64
}

type kubelet struct {
	api.UnimplementedRegistrationServer
	directory string
	out       *output
	server    *grpc.Server

	mutex   sync.Mutex
	plugins map[string]*plugin // by resource

	registered chan registration
	allocating *allocating
}

func newKubelet(directory string, out *output) *kubelet {
	return &kubelet{directory: directory, out: out, plugins: map[string]*plugin{}}
}

// start is that of the kubelet: remove all sockets of the directory, and listen. It returns when it began to.
func (k *kubelet) start() (int64, error) {
	if k.server != nil {
		return 0, errors.New("it has started already")
	}
	entries, err := os.ReadDir(k.directory)
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		if entry.Type()&os.ModeSocket != 0 {
			if err := os.Remove(filepath.Join(k.directory, entry.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				return 0, err
			}
		}
	}
	started := now()
	listener, err := net.Listen("unix", filepath.Join(k.directory, "kubelet.sock"))
	if err != nil {
		return 0, err
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // a kubelet that ends leaves its socket
	k.server = grpc.NewServer()
	api.RegisterRegistrationServer(k.server, k)
	go k.server.Serve(listener) // returns when it is stopped
	return started, nil
}

// stop ends all connections at once, as the end of the kubelet's process does.
func (k *kubelet) stop() {
	if k.server == nil {
		return
	}
	k.server.Stop()
	k.server = nil
	k.mutex.Lock()
	defer k.mutex.Unlock()
	for resource, p := range k.plugins {
		p.connection.Close()
		delete(k.plugins, resource)
	}
}

// restart stops and starts the kubelet, Count times, and returns for each resource how long after the start it was
// registered again.
func (k *kubelet) restart(c command) (map[string][]int64, error) {
	took := map[string][]int64{}
	for range c.Count {
		time.Sleep(seconds(c.PauseS)) // the last registration has been answered, the first list has come
		k.stop()
		k.mutex.Lock()
		k.registered = make(chan registration, len(c.Resources)*100)
		k.mutex.Unlock()
		time.Sleep(seconds(c.PauseS))
		started, err := k.start()
		if err != nil {
			return nil, err
		}
		missing := map[string]bool{}
		for _, resource := range c.Resources {
			missing[resource] = true
		}
		late := time.After(seconds(c.TimeoutS))
		for len(missing) > 0 {
			select {
			case r := <-k.registered:
				if missing[r.resource] {
					delete(missing, r.resource)
					took[r.resource] = append(took[r.resource], r.ns-started)
				}
			case <-late:
				return nil, fmt.Errorf("not registered again within %g s: %v", c.TimeoutS, missing)
			}
		}
	}
	return took, nil
}

// Register is that of the kubelet: dial the plugin, ask for its options, answer, watch its list.
func (k *kubelet) Register(ctx context.Context, request *api.RegisterRequest) (*api.Empty, error) {
	connection, err := dial(ctx, filepath.Join(k.directory, request.Endpoint))
	if err != nil {
		return nil, fmt.Errorf("failed to dial device plugin: %w", err)
	}
	p := &plugin{connection, api.NewDevicePluginClient(connection)}
	if _, err := p.client.GetDevicePluginOptions(ctx, &api.Empty{}); err != nil {
		connection.Close()
		return nil, fmt.Errorf("failed to get device plugin options: %w", err)
	}
	k.mutex.Lock()
	if old := k.plugins[request.ResourceName]; old != nil {
		old.connection.Close()
	}
	k.plugins[request.ResourceName] = p
	registered := now()
	if k.registered != nil {
		k.registered <- registration{request.ResourceName, registered}
	}
	k.mutex.Unlock()
	k.out.event("registered", map[string]any{"resource": request.ResourceName, "ns": registered})
	go k.run(request.ResourceName, p)
	return &api.Empty{}, nil
}

// dial is the kubelet's (pkg/kubelet/cm/devicemanager/plugin/v1beta1/client.go).
func dial(ctx context.Context, path string) (*grpc.ClientConn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return grpc.DialContext(ctx, path, //nolint:staticcheck // the kubelet uses it
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithBlock(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", addr)
		}),
	)
}

func (k *kubelet) run(resource string, p *plugin) {
	asked := now()
	stream, err := p.client.ListAndWatch(context.Background(), &api.Empty{})
	for err == nil {
		var list *api.ListAndWatchResponse
		if list, err = stream.Recv(); err == nil {
			decoded := now()
			arrived := arrivalOf(list)
			k.out.event("list", map[string]any{
				"resource": resource, "devices": len(list.Devices), "bytes": arrived.bytes,
				"asked_ns": asked, "arrived_ns": arrived.ns, "decoded_ns": decoded,
			})
		}
	}
	k.out.event("ended", map[string]any{"resource": resource, "error": err.Error()})
	p.connection.Close()
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if k.plugins[resource] == p {
		delete(k.plugins, resource)
	}
}

func (k *kubelet) client(resource string) (api.DevicePluginClient, error) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	p := k.plugins[resource]
	if p == nil {
		return nil, fmt.Errorf("%s is not registered", resource)
	}
	return p.client, nil
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second))
}
