// +build plain

package main

import "github.com/vmware/govmomi/simulator"

// begin leaves the simulator as its authors made it.
func begin(_ *simulator.Service, _ string, _ []string) []interface{} {
	var all []interface{}
	for _, entity := range simulator.Map.All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		all = append(all, map[string]interface{}{
			"name": vm.Name, "moref": vm.Self.Value, "uuid": vm.Config.Uuid,
			"instance_uuid": vm.Config.InstanceUuid, "disks": []interface{}{},
		})
	}
	return all
}
