// What a test may ask of the simulator while it runs: one line in, one line out, on a unix socket.
//
//	sessions                    how many are open
//	expire                      forgets all sessions, as an idle time-out does
//	snapshots                   VM/NAME of each, separated by blanks
//	calls METHOD                how often it was called
//	fail METHOD TIMES FAULT     the next TIMES calls (or tasks) end with FAULT
//	delay METHOD MS             a task of that method takes so long, and the VM is busy meanwhile
//	shutdown MS                 so long after ShutdownGuest the VM is off; -1 is never
//	max-extents N               areas in one answer of QueryChangedDiskAreas
//	page-size N                 objects in one answer of RetrievePropertiesEx; 0 is all
//	lie KIND                    how QueryChangedDiskAreas lies: unsorted overlap overrun negative
//	                            before stuck amnesia none
//	reset VM                    changed block tracking starts over
//	grow VM INDEX SIZE          a disk gets larger
//	replace VM INDEX            another disk takes its place
//	consolidation VM            its disks need consolidation
//	twin VM OTHER               OTHER gets the BIOS UUID of VM, as a clone may have it

package simulator

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/types"
)

// Control listens at path.
func (r *Rig) Control(path string) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go r.converse(connection)
		}
	}()
	return nil
}

func (r *Rig) converse(connection net.Conn) {
	defer connection.Close()
	lines := bufio.NewScanner(connection)
	for lines.Scan() {
		answer, err := r.obey(strings.Fields(lines.Text()))
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Fprintln(connection, answer)
	}
}

func (r *Rig) obey(words []string) (string, error) {
	words = append(words, "", "", "", "")
	switch words[0] {
	case "sessions":
		sessionMutex.Lock()
		defer sessionMutex.Unlock()
		return strconv.Itoa(len(Map.SessionManager().sessions)), nil
	case "expire":
		sessionMutex.Lock()
		defer sessionMutex.Unlock()
		Map.SessionManager().sessions = map[string]Session{}
		return "ok", nil
	case "snapshots":
		return strings.Join(r.snapshots(), " "), nil
	case "reset", "grow", "replace", "consolidation", "twin":
		return r.change(words)
	}
	return r.set(words)
}

func (r *Rig) set(words []string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	number := func(at int) (n int, err error) { return strconv.Atoi(words[at]) }
	var err error
	switch words[0] {
	case "calls":
		return strconv.Itoa(r.calls[plain(words[1])]), nil
	case "fail":
		planned := &plannedFault{kind: words[3]}
		if _, known := newFault(words[3]); !known {
			return "", fmt.Errorf("unknown fault %q", words[3])
		}
		planned.times, err = number(2)
		r.faults[plain(words[1])] = planned
	case "delay":
		r.delays[plain(words[1])], err = number(2)
	case "shutdown":
		r.shutdown, err = number(1)
	case "max-extents":
		r.maxExtents, err = number(1)
	case "page-size":
		r.pageSize, err = number(1)
	case "lie":
		r.lie = words[1]
	default:
		err = fmt.Errorf("unknown command %q", words[0])
	}
	return "ok", err
}

func (r *Rig) change(words []string) (string, error) {
	vm := r.machine(words[1])
	if vm == nil {
		return "", fmt.Errorf("no VM %q", words[1])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch words[0] {
	case "reset":
		r.reset(vm)
	case "twin":
		other := r.machine(words[2])
		if other == nil {
			return "", fmt.Errorf("no VM %q", words[2])
		}
		other.Config.Uuid, other.Summary.Config.Uuid = vm.Config.Uuid, vm.Config.Uuid
	case "consolidation":
		Map.Update(vm, []types.PropertyChange{{Name: "runtime.consolidationNeeded", Val: true}})
	case "grow", "replace":
		index, err := strconv.Atoi(words[2])
		disks := disksOf(vm)
		if err != nil || index < 0 || index >= len(disks) {
			return "", fmt.Errorf("no disk %q", words[2])
		}
		if words[0] == "replace" {
			devices := r.mapDisks(vm, func(disk *types.VirtualDisk) {
				if disk.Key == disks[index].Key {
					backing(disk).Uuid = uuid.New().String()
				}
			})
			Map.Update(vm, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
			return "ok", nil
		}
		size, err := parseSize(words[3])
		if err != nil {
			return "", err
		}
		return "ok", r.resize(disks[index], size)
	}
	return "ok", nil
}

func (r *Rig) snapshots() []string {
	names := []string{}
	for _, vm := range r.virtualMachines() {
		if vm.Snapshot == nil {
			continue
		}
		trees := vm.Snapshot.RootSnapshotList
		for len(trees) > 0 {
			name := strings.ReplaceAll(trees[0].Name, " ", "_")
			names = append(names, vm.Name+"/"+name)
			trees = append(trees[1:], trees[0].ChildSnapshotList...)
		}
	}
	return names
}
