//! One disk, one pass: open, check, plan, copy, record, finalize, prove.

pub mod options;
