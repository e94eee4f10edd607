// The kubelet's side of the benchmarks: it lets plugins register, dials them as the kubelet does, watches their lists,
// and measures what they answer. Commands come as lines of JSON on stdin; answers and events go as such to stdout.
//
// All times are nanoseconds of CLOCK_MONOTONIC, so that other processes' times can be compared with them.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// command is one line of stdin.
type command struct {
	Op        string   `json:"op"`
	Resource  string   `json:"resource"`
	Resources []string `json:"resources"`
	IDs       []string `json:"ids"`
	Path      string   `json:"path"`
	Count     int      `json:"count"`
	InFlight  int      `json:"in_flight"`
	Seconds   float64  `json:"seconds"`
	PauseS    float64  `json:"pause_s"`
	TimeoutS  float64  `json:"timeout_s"`
	On        bool     `json:"on"`
}

// output writes one JSON object a line.
type output struct {
	mutex   sync.Mutex
	encoder *json.Encoder
}

func (o *output) event(name string, fields map[string]any) {
	fields["event"] = name
	o.write(fields)
}

func (o *output) answer(result any, err error) {
	if err != nil {
		o.write(map[string]any{"event": "failure", "error": err.Error()})
		return
	}
	o.write(map[string]any{"event": "answer", "result": result})
}

func (o *output) write(fields map[string]any) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if err := o.encoder.Encode(fields); err != nil {
		os.Exit(1) // nobody listens any more
	}
}

func now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // Linux has it
	}
	return t.Nano()
}

func main() {
	directory := flag.String("dir", "", "the device plugin directory")
	flag.Parse()
	out := &output{encoder: json.NewEncoder(os.Stdout)}
	k := newKubelet(*directory, out)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			out.answer(nil, fmt.Errorf("no command: %w", err))
			continue
		}
		out.answer(k.carryOut(c))
	}
	k.stop()
}

func (k *kubelet) carryOut(c command) (any, error) {
	switch c.Op {
	case "start":
		return k.start()
	case "stop":
		k.stop()
		return nil, nil
	case "restart":
		return k.restart(c)
	case "decode_lists":
		decodeLists.Store(c.On)
		return nil, nil
	case "allocate":
		return k.allocate(c)
	case "flood":
		return k.flood(c)
	case "begin_allocating":
		return nil, k.beginAllocating(c)
	case "end_allocating":
		return k.endAllocating()
	case "watch":
		return k.watch(c)
	case "echo":
		return echo(c)
	}
	return nil, fmt.Errorf("no such command: %q", c.Op)
}
