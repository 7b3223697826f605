//! Every call that is made, with its arguments. One function each, named after the API's method.

use super::Moref;
use super::request::Request;
use crate::secret::Secret;
use crate::vsphere::limits::Wait;

/// What every server has under this name.
#[must_use]
pub fn service() -> Moref {
    Moref::new("ServiceInstance", "ServiceInstance")
}

/// What the server is, and where its managers are. Needs no session.
#[must_use]
pub fn retrieve_service_content() -> Request {
    Request::new("RetrieveServiceContent", &service()).repeatable()
}

/// Begins a session. The server's list of sessions shows `user`.
#[must_use]
pub fn login(manager: &Moref, user: &str, password: &Secret) -> Request {
    Request::new("Login", manager)
        .value("userName", user)
        .secret("password", password)
}

/// Ends the session.
#[must_use]
pub fn logout(manager: &Moref) -> Request {
    Request::new("Logout", manager).within(Wait::Logout)
}

/// The server's clock: the smallest call that counts as activity.
#[must_use]
pub fn current_time() -> Request {
    Request::new("CurrentTime", &service()).repeatable()
}

/// Properties of one object.
#[must_use]
pub fn retrieve_properties(collector: &Moref, on: &Moref, paths: &[&str]) -> Request {
    let request = Request::new("RetrievePropertiesEx", collector).repeatable();
    let request = request.nested("specSet", |request| {
        let request = request.nested("propSet", |request| {
            let request = request.value("type", &on.kind);
            paths
                .iter()
                .fold(request, |request, path| request.value("pathSet", path))
        });
        request.nested("objectSet", |request| request.reference("obj", on))
    });
    request.nested("options", |request| request)
}

/// The next page of properties.
#[must_use]
pub fn continue_retrieve_properties(collector: &Moref, token: &str) -> Request {
    Request::new("ContinueRetrievePropertiesEx", collector).value("token", token)
}

/// The VM with that UUID.
#[must_use]
pub fn find_by_uuid(index: &Moref, uuid: &str, instance: bool) -> Request {
    Request::new("FindByUuid", index)
        .value("uuid", uuid)
        .value("vmSearch", true)
        .value("instanceUuid", instance)
        .repeatable()
}

/// Every VM with that UUID.
#[must_use]
pub fn find_all_by_uuid(index: &Moref, uuid: &str, instance: bool) -> Request {
    Request::new("FindAllByUuid", index)
        .value("uuid", uuid)
        .value("vmSearch", true)
        .value("instanceUuid", instance)
        .repeatable()
}

/// What is at that path.
#[must_use]
pub fn find_by_inventory_path(index: &Moref, path: &str) -> Request {
    Request::new("FindByInventoryPath", index)
        .value("inventoryPath", path)
        .repeatable()
}

/// Turns change tracking on or off; a task.
#[must_use]
pub fn set_change_tracking(vm: &Moref, on: bool) -> Request {
    Request::new("ReconfigVM_Task", vm)
        .nested("spec", |spec| spec.value("changeTrackingEnabled", on))
        .repeatable()
}

/// Makes a snapshot of the disks, not of memory; a task. Not repeatable: it would make two.
#[must_use]
pub fn create_snapshot(vm: &Moref, name: &str, description: &str, quiesce: bool) -> Request {
    Request::new("CreateSnapshot_Task", vm)
        .value("name", name)
        .value("description", description)
        .value("memory", false)
        .value("quiesce", quiesce)
}

/// Removes a snapshot, keeps those made after it, and merges its disks; a task.
#[must_use]
pub fn remove_snapshot(snapshot: &Moref) -> Request {
    Request::new("RemoveSnapshot_Task", snapshot)
        .value("removeChildren", false)
        .value("consolidate", true)
}

/// Merges disks that a removal left apart; a task.
#[must_use]
pub fn consolidate(vm: &Moref) -> Request {
    Request::new("ConsolidateVMDisks_Task", vm)
}

/// What changed on a disk between a change id and a snapshot, from an offset on.
#[must_use]
pub fn query_changed_disk_areas(
    vm: &Moref,
    snapshot: &Moref,
    disk: i32,
    start: u64,
    id: &str,
) -> Request {
    Request::new("QueryChangedDiskAreas", vm)
        .reference("snapshot", snapshot)
        .value("deviceKey", disk)
        .value("startOffset", start)
        .value("changeId", id)
        .repeatable()
        .within(Wait::Changes)
}

/// Asks the guest to shut down; returns before it has.
#[must_use]
pub fn shutdown_guest(vm: &Moref) -> Request {
    Request::new("ShutdownGuest", vm)
}

/// Starts a VM; a task.
#[must_use]
pub fn power_on(vm: &Moref) -> Request {
    Request::new("PowerOnVM_Task", vm)
}

/// Pulls the plug; a task.
#[must_use]
pub fn power_off(vm: &Moref) -> Request {
    Request::new("PowerOffVM_Task", vm)
}
