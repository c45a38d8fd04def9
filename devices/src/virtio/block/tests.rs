//! A block device as its driver sees it, on real files and on a scripted engine.

mod durability;
mod faults;
mod model;
mod requests;
mod support;
