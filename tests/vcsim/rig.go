// +build !plain

package main

import (
	"path/filepath"

	"github.com/vmware/govmomi/simulator"
)

// begin lays the rig over the simulator, and tells of its VMs.
func begin(service *simulator.Service, root string, disks []string) []interface{} {
	rig, err := simulator.NewRig(service, root, disks)
	check(err)
	check(rig.Control(filepath.Join(root, "control")))
	return rig.Machines()
}
