package main

import (
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// decodeLists says whether lists are decoded. A list of 100,000 devices keeps a core busy for tens of milliseconds, which
// must not count as the plugin's when the latency of other calls is measured meanwhile.
var decodeLists atomic.Bool

// arrival is when a list had arrived, before it was decoded, and how long it was.
type arrival struct {
	ns    int64
	bytes int
}

// arrivals are those of the lists that are being decoded, by the message's address.
var arrivals sync.Map

// stampingCodec is grpc-go's own, with a clock.
type stampingCodec struct{ encoding.CodecV2 }

func init() {
	decodeLists.Store(true)
	encoding.RegisterCodecV2(stampingCodec{encoding.GetCodecV2(proto.Name)})
}

func (c stampingCodec) Unmarshal(data mem.BufferSlice, message any) error {
	if list, ok := message.(*api.ListAndWatchResponse); ok {
		arrivals.Store(list, arrival{now(), data.Len()})
		if !decodeLists.Load() {
			return nil
		}
	}
	return c.CodecV2.Unmarshal(data, message)
}

func arrivalOf(list *api.ListAndWatchResponse) arrival {
	found, _ := arrivals.LoadAndDelete(list)
	return found.(arrival)
}
