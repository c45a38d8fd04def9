//! A block device as its driver sees it, on real files and on a scripted engine.

mod change;
mod durability;
mod faults;
mod limits;
mod model;
mod requests;
mod saved;
mod staying;
mod support;
mod times;
