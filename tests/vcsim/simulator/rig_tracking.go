// Changed block tracking: snapshots that keep a copy of each disk, change ids, and
// QueryChangedDiskAreas, which compares two copies.

package simulator

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// grain is how finely changes are tracked, as on a real host.
const grain = 64 << 10

// trackedDisk is what is remembered of a disk beyond what the simulator does.
type trackedDisk struct {
	// era is the part of a change id that a reset changes.
	era    string
	serial int
	// files is the chain: base, then one delta for each snapshot that stands.
	files  []string
	deltas int
	// snapshots stand in the order in which they were made.
	snapshots []string
	// past maps each change id of this era to the copy of the disk of that moment.
	past map[string]string
	// compared keeps the answers, so that paging costs one comparison.
	compared map[string][]types.DiskChangeExtent
}

func newEra() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:])
	return fmt.Sprintf("% x-% x", raw[:8], raw[8:])
}

// Reference makes the rig a handler of the registry.
func (r *Rig) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Rig", Value: "rig"}
}

// UpdateObject is not of interest.
func (r *Rig) UpdateObject(mo.Reference, []types.PropertyChange) {}

// PutObject runs while a snapshot is being made: its disks are copied now.
func (r *Rig) PutObject(object mo.Reference) {
	snapshot, ok := object.(*VirtualMachineSnapshot)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	vm := Map.Get(snapshot.Vm).(*VirtualMachine)
	tracking := vm.Config.ChangeTrackingEnabled != nil && *vm.Config.ChangeTrackingEnabled
	snapshot.Config.Hardware.Device = r.mapDisks(vm, func(disk *types.VirtualDisk) {
		tracked := r.disks[diskID{vm.Self.Value, disk.Key}]
		tracked.snapshots = append(tracked.snapshots, snapshot.Self.Value)
		kept := r.keep(snapshot.Self.Value, disk)
		if tracking {
			tracked.serial++
			id := fmt.Sprintf("%s/%d", tracked.era, tracked.serial)
			tracked.past[id] = kept
			backing(disk).ChangeId = id
		}
	})
	for _, disk := range disksOf(vm) {
		tracked := r.disks[diskID{vm.Self.Value, disk.Key}]
		tracked.deltas++
		delta := strings.Replace(tracked.files[0], ".vmdk", fmt.Sprintf("-%06d.vmdk", tracked.deltas), 1)
		tracked.files = append(tracked.files, delta)
	}
	r.layChains(vm)
}

// RemoveObject runs when a snapshot is removed: its delta is merged into it.
func (r *Rig) RemoveObject(ref types.ManagedObjectReference) {
	if ref.Type != "VirtualMachineSnapshot" {
		return
	}
	snapshot, ok := Map.Get(ref).(*VirtualMachineSnapshot)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = os.RemoveAll(filepath.Join(r.root, "@"+ref.Value))
	vm := Map.Get(snapshot.Vm).(*VirtualMachine)
	for _, disk := range disksOf(vm) {
		tracked := r.disks[diskID{vm.Self.Value, disk.Key}]
		for i, standing := range tracked.snapshots {
			if standing == ref.Value {
				tracked.snapshots = append(tracked.snapshots[:i:i], tracked.snapshots[i+1:]...)
				tracked.files = append(tracked.files[:i+1:i+1], tracked.files[i+2:]...)
				break
			}
		}
	}
	r.layChains(vm)
}

// layChains writes the file names of all disks into the VM and its snapshots.
func (r *Rig) layChains(vm *VirtualMachine) {
	devices := r.mapDisks(vm, func(disk *types.VirtualDisk) {
		tracked := r.disks[diskID{vm.Self.Value, disk.Key}]
		chain(disk, tracked.files)
		for i, standing := range tracked.snapshots {
			ref := types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: standing}
			snapshot, ok := Map.Get(ref).(*VirtualMachineSnapshot)
			if !ok {
				continue
			}
			for _, device := range snapshot.Config.Hardware.Device {
				if its, ok := device.(*types.VirtualDisk); ok && its.Key == disk.Key {
					chain(its, tracked.files[:i+1])
				}
			}
		}
	})
	Map.Update(vm, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
}

// chain makes a disk the last of files, and the others its parents.
func chain(disk *types.VirtualDisk, files []string) {
	info := *backing(disk)
	info.Parent = nil
	for i, file := range files {
		next := info
		next.FileName = file
		if i > 0 {
			parent := info
			next.Parent = &parent
		}
		if i < len(files)-1 {
			next.ChangeId = ""
		} else {
			next.ChangeId = backing(disk).ChangeId
		}
		info = next
	}
	disk.Backing = &info
}

// mapDisks copies the VM's device list with disks changed: lists are shared with snapshots.
func (r *Rig) mapDisks(vm *VirtualMachine, change func(*types.VirtualDisk)) []types.BaseVirtualDevice {
	var devices []types.BaseVirtualDevice
	for _, device := range vm.Config.Hardware.Device {
		if disk, ok := device.(*types.VirtualDisk); ok {
			mine := *disk
			info := *backing(disk)
			mine.Backing = &info
			change(&mine)
			device = &mine
		}
		devices = append(devices, device)
	}
	return devices
}

// keep copies a disk for the life of a snapshot and for comparisons later; gives the copy.
func (r *Rig) keep(snapshot string, disk *types.VirtualDisk) string {
	now := r.flatFile("@"+snapshot, disk)
	kept := filepath.Join(r.root, ".cbt", fmt.Sprintf("%s-%d", snapshot, disk.Key))
	if err := os.MkdirAll(filepath.Dir(now), 0o755); err != nil {
		log.Panic(err)
	}
	copy := exec.Command("cp", "--sparse=always", r.flatFile("", disk), kept)
	if out, err := copy.CombinedOutput(); err != nil {
		log.Panicf("copy a disk: %s: %s", err, out)
	}
	if err := os.Link(kept, now); err != nil {
		log.Panic(err)
	}
	return kept
}

// reset forgets what was tracked, as a host does after a crash.
func (r *Rig) reset(vm *VirtualMachine) {
	for _, disk := range disksOf(vm) {
		tracked := r.disks[diskID{vm.Self.Value, disk.Key}]
		tracked.era, tracked.serial, tracked.past = newEra(), 0, map[string]string{}
	}
}

// QueryChangedDiskAreas answers as vSphere does: areas of 64 KiB, at most so many a page, and how
// far the page reaches.
func (vm *VirtualMachine) QueryChangedDiskAreas(_ *Context, req *types.QueryChangedDiskAreas) soap.HasFault {
	body := new(methods.QueryChangedDiskAreasBody)
	info, fault := theRig.query(vm, req)
	if fault != nil {
		body.Fault_ = fault
		return body
	}
	body.Res = &types.QueryChangedDiskAreasResponse{Returnval: *info}
	return body
}

func (r *Rig) query(vm *VirtualMachine, req *types.QueryChangedDiskAreas) (*types.DiskChangeInfo, *soap.Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	devices := vm.Config.Hardware.Device
	if req.Snapshot != nil {
		snapshot, ok := Map.Get(*req.Snapshot).(*VirtualMachineSnapshot)
		if !ok {
			return nil, Fault("snapshot not found", &types.ManagedObjectNotFound{Obj: *req.Snapshot})
		}
		devices = snapshot.Config.Hardware.Device
	}
	var disk *types.VirtualDisk
	for _, device := range devices {
		if its, ok := device.(*types.VirtualDisk); ok && its.Key == req.DeviceKey {
			disk = its
		}
	}
	if disk == nil || req.StartOffset < 0 || req.StartOffset >= disk.CapacityInBytes {
		return nil, Fault("A specified parameter was not correct.", &types.InvalidArgument{})
	}
	tracked := r.disks[diskID{vm.Self.Value, disk.Key}]
	now := r.flatFile("", disk)
	if req.Snapshot != nil {
		now = r.flatFile("@"+req.Snapshot.Value, disk)
	}
	then, known := tracked.past[req.ChangeId]
	if !known && req.ChangeId != "*" {
		fault := &types.FileFault{File: backing(disk).FileName}
		return nil, Fault(fmt.Sprintf("Error caused by file %s", fault.File), fault)
	}
	key := req.ChangeId + " " + now
	areas, done := tracked.compared[key]
	if !done {
		var err error
		if areas, err = differences(now, then, disk.CapacityInBytes); err != nil {
			return nil, Fault(err.Error(), &types.FileFault{File: backing(disk).FileName})
		}
		if req.Snapshot != nil {
			tracked.compared[key] = areas
		}
	}
	return page(areas, req.StartOffset, disk.CapacityInBytes, r.maxExtents, r.lie), nil
}

// differences lists the runs of grains in which two files differ; without a second file those
// that are not zero.
func differences(now, then string, size int64) ([]types.DiskChangeExtent, error) {
	left, err := os.Open(now)
	if err != nil {
		return nil, err
	}
	defer left.Close()
	var right io.ReaderAt = zeroes{}
	if then != "" {
		file, err := os.Open(then)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		right = file
	}
	areas := []types.DiskChangeExtent{}
	a, b := make([]byte, grain), make([]byte, grain)
	for at := int64(0); at < size; at += grain {
		n := size - at
		if n > grain {
			n = grain
		}
		read(left, a[:n], at)
		read(right, b[:n], at)
		if bytes.Equal(a[:n], b[:n]) {
			continue
		}
		if last := len(areas) - 1; last >= 0 && areas[last].Start+areas[last].Length == at {
			areas[last].Length += n
		} else {
			areas = append(areas, types.DiskChangeExtent{Start: at, Length: n})
		}
	}
	return areas, nil
}

type zeroes struct{}

func (zeroes) ReadAt(p []byte, _ int64) (int, error) {
	for i := range p {
		p[i] = 0
	}
	return len(p), nil
}

// read fills p; past the end of a file that has grown since there are zeroes.
func read(from io.ReaderAt, p []byte, at int64) {
	n, _ := from.ReadAt(p, at)
	_, _ = zeroes{}.ReadAt(p[n:], 0)
}

// page cuts the answer at max areas, and lies if it is told to.
func page(areas []types.DiskChangeExtent, start, size int64, max int, lie string) *types.DiskChangeInfo {
	info := &types.DiskChangeInfo{StartOffset: start, Length: size - start}
	for _, area := range areas {
		if area.Start+area.Length <= start {
			continue
		}
		if area.Start < start {
			area.Length -= start - area.Start
			area.Start = start
		}
		if len(info.ChangedArea) == max {
			last := info.ChangedArea[max-1]
			info.Length = last.Start + last.Length - start
			break
		}
		info.ChangedArea = append(info.ChangedArea, area)
	}
	tell(info, size-start, lie)
	return info
}

func tell(info *types.DiskChangeInfo, whole int64, lie string) {
	areas := info.ChangedArea
	if lie == "stuck" {
		info.Length = 0
	}
	if len(areas) == 0 {
		return
	}
	switch lie {
	case "amnesia":
		info.ChangedArea, info.Length = nil, whole
	case "unsorted":
		areas[0], areas[len(areas)-1] = areas[len(areas)-1], areas[0]
	case "overlap":
		info.ChangedArea = append(areas, areas[len(areas)-1])
	case "overrun":
		areas[len(areas)-1].Length += 1 << 40
	case "negative":
		areas[0].Length = -grain
	case "before":
		areas[0].Start = info.StartOffset - grain
	}
}
