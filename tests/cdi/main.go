// Reads a directory of CDI specs as a container runtime does, and says what it found, as JSON.
package main

import (
	"encoding/json"
	"os"

	oci "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

type found struct {
	Error    string    // why a spec was refused
	Devices  []string  // the qualified names that containers can have
	Specs    []any     // the specs as they were understood
	Minimum  []string  // the version that each needs by the library's own rule
	Injected *oci.Spec // a container with the devices that were asked for
}

func main() {
	directory, wanted := os.Args[1], os.Args[2:]
	cache, err := cdi.NewCache(cdi.WithSpecDirs(directory), cdi.WithAutoRefresh(false))
	if err != nil {
		panic(err)
	}
	var said found
	if err := cache.Refresh(); err != nil {
		said.Error = err.Error()
	}
	said.Devices = cache.ListDevices()
	for _, vendor := range cache.ListVendors() {
		for _, spec := range cache.GetVendorSpecs(vendor) {
			minimum, err := cdi.MinimumRequiredVersion(spec.Spec)
			if err != nil {
				panic(err)
			}
			said.Specs = append(said.Specs, spec.Spec)
			said.Minimum = append(said.Minimum, minimum)
		}
	}
	if len(wanted) > 0 {
		said.Injected = &oci.Spec{}
		if _, err := cache.InjectDevices(said.Injected, wanted...); err != nil {
			said.Error = err.Error()
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		panic(err)
	}
}
