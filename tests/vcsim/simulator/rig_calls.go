// Calls that the simulator lacks, tasks that take time, and faults on demand.
//
// The build renames four methods of the simulator (tests/vmware) so that the ones here stand before
// them.

package simulator

import (
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// plannedFault is how the next calls of a method end.
type plannedFault struct {
	times int
	kind  string
}

func newFault(kind string) (types.BaseMethodFault, bool) {
	denied := types.NoPermission{
		Object: Map.content().RootFolder, PrivilegeId: "VirtualMachine.State.CreateSnapshot",
	}
	switch kind {
	case "TaskInProgress":
		other := types.ManagedObjectReference{Type: "Task", Value: "task-0"}
		return &types.TaskInProgress{Task: other}, true
	case "GenericVmConfigFault":
		return &types.GenericVmConfigFault{Reason: "msg.snapshot.error-QUIESCINGERROR"}, true
	case "NoPermission":
		return &denied, true
	case "NotAuthenticated":
		return &types.NotAuthenticated{NoPermission: denied}, true
	case "FileFault":
		return &types.FileFault{File: "[LocalDS_0] disk.vmdk"}, true
	case "SystemError":
		return &types.SystemError{Reason: "vix error"}, true
	case "InvalidState":
		return &types.InvalidState{}, true
	case "SnapshotFault":
		return &types.SnapshotFault{}, true
	case "ApplicationQuiesceFault":
		return &types.ApplicationQuiesceFault{}, true
	}
	return nil, false
}

// plain is a method's name without the mark of a task, in lower case.
func plain(method string) string {
	return strings.ToLower(strings.TrimSuffix(method, vTaskSuffix))
}

// takeFault gives the fault that is planned for a call, once.
func (r *Rig) takeFault(method string) types.BaseMethodFault {
	r.mu.Lock()
	defer r.mu.Unlock()
	planned := r.faults[plain(method)]
	if planned == nil || planned.times == 0 {
		return nil
	}
	planned.times--
	fault, _ := newFault(planned.kind)
	return fault
}

// call stands before the simulator's own.
func (s *Service) call(ctx *Context, method *Method) soap.HasFault {
	if theRig == nil || ctx == nil || ctx.req == nil {
		return s.callNow(ctx, method)
	}
	r := theRig
	r.mu.Lock()
	r.calls[plain(method.Name)]++
	busy := r.busy[r.owner(method.This)]
	r.mu.Unlock()
	if ctx.Session == nil && strings.HasPrefix(method.Name, "RetrieveProperties") {
		fault := &types.NotAuthenticated{}
		fault.Object, fault.PrivilegeId = method.This, "System.View"
		return &serverFaultBody{Reason: Fault("", fault)}
	}
	isTask := strings.HasSuffix(method.Name, vTaskSuffix)
	if isTask && busy.Value != "" {
		text := "Another task is already in progress."
		return &serverFaultBody{Reason: Fault(text, &types.TaskInProgress{Task: busy})}
	}
	if !isTask {
		if fault := r.takeFault(method.Name); fault != nil {
			return &serverFaultBody{Reason: Fault("injected", fault)}
		}
	}
	return s.callNow(ctx, method)
}

// owner is the VM that a call on an object keeps busy.
func (r *Rig) owner(ref types.ManagedObjectReference) string {
	if snapshot, ok := Map.Get(ref).(*VirtualMachineSnapshot); ok {
		return snapshot.Vm.Value
	}
	return ref.Value
}

// Run stands before the simulator's own, which ends a task within the call.
func (t *Task) Run() types.ManagedObjectReference {
	if theRig == nil {
		return t.runNow()
	}
	r := theRig
	runs := *t.Info.Entity
	if snapshot, ok := Map.Get(runs).(*VirtualMachineSnapshot); ok {
		// Clients that know the types expect a managed entity here.
		t.Info.Entity = &snapshot.Vm
	}
	if fault := r.takeFault(t.Info.Name); fault != nil {
		t.Execute = func(*Task) (types.AnyType, types.BaseMethodFault) { return nil, fault }
	}
	r.mu.Lock()
	delay := r.delays[plain(t.Info.Name)]
	owner := t.Info.Entity.Value
	if delay > 0 {
		r.busy[owner] = t.Self
	}
	r.mu.Unlock()
	if delay == 0 {
		return t.runNow()
	}
	Map.Update(t, []types.PropertyChange{{Name: "info.state", Val: types.TaskInfoStateRunning}})
	go func() {
		time.Sleep(time.Duration(delay) * time.Millisecond)
		Map.WithLock(runs, func() { t.runNow() })
		r.mu.Lock()
		delete(r.busy, owner)
		r.mu.Unlock()
	}()
	return t.Self
}

// CreateSnapshotExTask is CreateSnapshotTask with more to say about quiescing.
func (vm *VirtualMachine) CreateSnapshotExTask(req *types.CreateSnapshotEx_Task) soap.HasFault {
	res := vm.CreateSnapshotTask(&types.CreateSnapshot_Task{
		This: req.This, Name: req.Name, Description: req.Description, Memory: req.Memory,
		Quiesce: req.QuiesceSpec != nil,
	})
	return &methods.CreateSnapshotEx_TaskBody{Res: &types.CreateSnapshotEx_TaskResponse{
		Returnval: res.(*methods.CreateSnapshot_TaskBody).Res.Returnval,
	}}
}

// ConsolidateVMDisksTask has nothing to do but to say so.
func (vm *VirtualMachine) ConsolidateVMDisksTask(_ *types.ConsolidateVMDisks_Task) soap.HasFault {
	task := CreateTask(vm, "consolidateVMDisks", func(*Task) (types.AnyType, types.BaseMethodFault) {
		Map.Update(vm, []types.PropertyChange{{Name: "runtime.consolidationNeeded", Val: false}})
		return nil, nil
	})
	return &methods.ConsolidateVMDisks_TaskBody{
		Res: &types.ConsolidateVMDisks_TaskResponse{Returnval: task.Run()},
	}
}

// FindAllByUuid is FindByUuid for those who want to know of duplicates.
func (s *SearchIndex) FindAllByUuid(req *types.FindAllByUuid) soap.HasFault {
	body := &methods.FindAllByUuidBody{Res: new(types.FindAllByUuidResponse)}
	for _, vm := range theRig.virtualMachines() {
		id := vm.Config.Uuid
		if req.InstanceUuid != nil && *req.InstanceUuid {
			id = vm.Config.InstanceUuid
		}
		if req.VmSearch && strings.EqualFold(id, req.Uuid) {
			body.Res.Returnval = append(body.Res.Returnval, vm.Self)
		}
	}
	return body
}

// ShutdownGuest stands before the simulator's own, which powers off within the call.
func (vm *VirtualMachine) ShutdownGuest(ctx *Context, req *types.ShutdownGuest) soap.HasFault {
	if theRig == nil || theRig.shutdown == 0 ||
		vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff {
		return vm.shutdownGuestNow(ctx, req)
	}
	if wait := theRig.shutdown; wait > 0 {
		go func() {
			time.Sleep(time.Duration(wait) * time.Millisecond)
			Map.WithLock(vm, func() { vm.shutdownGuestNow(ctx, req) })
		}()
	}
	return &methods.ShutdownGuestBody{Res: new(types.ShutdownGuestResponse)}
}

// RetrievePropertiesEx stands before the simulator's own, which never pages.
func (pc *PropertyCollector) RetrievePropertiesEx(ctx *Context, r *types.RetrievePropertiesEx) soap.HasFault {
	res := pc.retrievePropertiesExNow(ctx, r)
	if theRig == nil || ctx.req == nil || theRig.pageSize == 0 || res.Fault() != nil {
		return res
	}
	body := res.(*methods.RetrievePropertiesExBody)
	body.Res.Returnval = theRig.nextPage(body.Res.Returnval.Objects)
	return body
}

// ContinueRetrievePropertiesEx gives the next page.
func (pc *PropertyCollector) ContinueRetrievePropertiesEx(_ *Context, r *types.ContinueRetrievePropertiesEx) soap.HasFault {
	body := new(methods.ContinueRetrievePropertiesExBody)
	theRig.mu.Lock()
	rest, ok := theRig.pages[r.Token].([]types.ObjectContent)
	delete(theRig.pages, r.Token)
	theRig.mu.Unlock()
	if !ok {
		body.Fault_ = Fault("", &types.InvalidArgument{InvalidProperty: "token"})
		return body
	}
	body.Res = &types.ContinueRetrievePropertiesExResponse{Returnval: *theRig.nextPage(rest)}
	return body
}

func (r *Rig) nextPage(objects []types.ObjectContent) *types.RetrieveResult {
	if len(objects) <= r.pageSize {
		return &types.RetrieveResult{Objects: objects}
	}
	token := uuid.New().String()
	r.mu.Lock()
	r.pages[token] = objects[r.pageSize:]
	r.mu.Unlock()
	return &types.RetrieveResult{Token: token, Objects: objects[:r.pageSize]}
}

var _ mo.Reference = (*Rig)(nil)
