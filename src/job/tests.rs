//! Passes over disks in memory, cut short in every way: what a manifest says is never believed of
//! a block that something may have been written to since.

mod adopt;
mod alike;
mod bench;
mod cuts;
mod digest;
mod doubts;
mod order;
mod proof;
mod together;
