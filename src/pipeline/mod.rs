//! Runs the steps of a pass with bounded memory and bounded in-flight requests.

pub mod counters;
