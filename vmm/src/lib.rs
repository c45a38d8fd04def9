//! Vmm.
