// The first VM's disks, and the files behind them.

package simulator

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// Rig is the simulator's other half: what it lacks, and what a test may ask of it.
type Rig struct {
	service *Service
	root    string

	mu         sync.Mutex
	disks      map[diskID]*trackedDisk
	faults     map[string]*plannedFault
	delays     map[string]int
	calls      map[string]int
	lie        string
	maxExtents int
	pageSize   int
	pages      map[string]interface{}
	busy       map[string]types.ManagedObjectReference
	shutdown   int
}

type diskID struct {
	vm  string
	key int32
}

// theRig is nil while the model is made, so that nothing of it shows there.
var theRig *Rig

// NewRig gives the first VM its disks and starts tracking.
func NewRig(service *Service, root string, sizes []string) (*Rig, error) {
	rig := &Rig{
		service: service, root: root, maxExtents: 2000,
		disks: map[diskID]*trackedDisk{}, faults: map[string]*plannedFault{},
		delays: map[string]int{}, calls: map[string]int{},
		pages: map[string]interface{}{}, busy: map[string]types.ManagedObjectReference{},
	}
	for _, entity := range Map.All("Datastore") {
		store := entity.(*Datastore)
		link := filepath.Join(root, store.Name)
		if err := os.Symlink(store.Info.GetDatastoreInfo().Url, link); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(root, ".cbt"), 0o755); err != nil {
		return nil, err
	}
	for number, size := range sizes {
		if err := rig.addDisk(rig.virtualMachines()[0], number, size); err != nil {
			return nil, err
		}
	}
	for _, vm := range rig.virtualMachines() {
		for _, disk := range disksOf(vm) {
			rig.track(vm, disk)
		}
	}
	Map.AddHandler(rig)
	theRig = rig
	return rig, nil
}

func (r *Rig) virtualMachines() []*VirtualMachine {
	var all []*VirtualMachine
	for _, entity := range Map.All("VirtualMachine") {
		all = append(all, entity.(*VirtualMachine))
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

func (r *Rig) machine(name string) *VirtualMachine {
	for _, vm := range r.virtualMachines() {
		if vm.Name == name || vm.Self.Value == name {
			return vm
		}
	}
	return nil
}

func disksOf(vm *VirtualMachine) []*types.VirtualDisk {
	var disks []*types.VirtualDisk
	for _, device := range vm.Config.Hardware.Device {
		if disk, ok := device.(*types.VirtualDisk); ok {
			disks = append(disks, disk)
		}
	}
	return disks
}

// addDisk makes disk number 0, 1, ... of a VM as large as size says.
func (r *Rig) addDisk(vm *VirtualMachine, number int, size string) error {
	bytes, err := parseSize(size)
	if err != nil {
		return err
	}
	if number > 0 {
		machine := object.NewVirtualMachine(r.service.client, vm.Self)
		devices := object.VirtualDeviceList(vm.Config.Hardware.Device)
		controller, err := devices.FindDiskController("")
		if err != nil {
			return err
		}
		name := fmt.Sprintf("[LocalDS_0] %s/disk%d.vmdk", vm.Name, number+1)
		disk := devices.CreateDisk(controller, types.ManagedObjectReference{}, name)
		disk.CapacityInKB = bytes >> 10
		if err := machine.AddDevice(context.Background(), disk); err != nil {
			return err
		}
	}
	return r.resize(disksOf(vm)[number], bytes)
}

func (r *Rig) resize(disk *types.VirtualDisk, bytes int64) error {
	disk.CapacityInBytes, disk.CapacityInKB = bytes, bytes>>10
	return os.Truncate(r.flatFile("", disk), bytes)
}

func parseSize(text string) (int64, error) {
	shift := strings.Index("KMG", text[len(text)-1:])
	number, err := strconv.ParseInt(strings.TrimRight(text, "KMG"), 10, 64)
	return number << (10 * (shift + 1)), err
}

func backing(disk *types.VirtualDisk) *types.VirtualDiskFlatVer2BackingInfo {
	return disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
}

// flatFile is where the bytes of a disk are, below a prefix such as "@snapshot-7".
func (r *Rig) flatFile(prefix string, disk *types.VirtualDisk) string {
	base := backing(disk)
	for base.Parent != nil {
		base = base.Parent
	}
	var path object.DatastorePath
	path.FromString(base.FileName)
	return filepath.Join(r.root, prefix, path.Datastore, strings.Replace(path.Path, ".vmdk", "-flat.vmdk", 1))
}

// track gives a disk what the simulator leaves out, and begins to remember it.
func (r *Rig) track(vm *VirtualMachine, disk *types.VirtualDisk) {
	if backing(disk).Uuid == "" {
		backing(disk).Uuid = uuid.New().String()
	}
	disk.DiskObjectId = fmt.Sprintf("%s-%d", strings.TrimPrefix(vm.Self.Value, "vm-"), disk.Key)
	if disk.CapacityInBytes == 0 {
		disk.CapacityInBytes = disk.CapacityInKB << 10
		_ = os.Truncate(r.flatFile("", disk), disk.CapacityInBytes)
	}
	r.disks[diskID{vm.Self.Value, disk.Key}] = &trackedDisk{
		era: newEra(), files: []string{backing(disk).FileName},
		past: map[string]string{}, compared: map[string][]types.DiskChangeExtent{},
	}
}

// Machines tells of every VM what a test cannot know beforehand.
func (r *Rig) Machines() []interface{} {
	var all []interface{}
	for _, vm := range r.virtualMachines() {
		var disks []interface{}
		for _, disk := range disksOf(vm) {
			disks = append(disks, map[string]interface{}{
				"key": disk.Key, "file": backing(disk).FileName, "capacity": disk.CapacityInBytes,
				"flat": r.flatFile("", disk), "uuid": backing(disk).Uuid,
				"object_id": disk.DiskObjectId,
			})
		}
		all = append(all, map[string]interface{}{
			"name": vm.Name, "moref": vm.Self.Value, "uuid": vm.Config.Uuid,
			"instance_uuid": vm.Config.InstanceUuid, "disks": disks,
		})
	}
	return all
}
