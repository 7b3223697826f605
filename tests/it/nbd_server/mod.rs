//! The NBD server, seen by clients that others wrote and by clients made to harm it.
//!
//! ```text
//!  served.rs   a server inside the test, over a disk that lives
//!  clients.rs  nbdinfo, nbdcopy, qemu-img, qemu-io
//!  hostile.rs  bytes made by hand
//! ```

mod clients;
mod hostile;
mod served;
