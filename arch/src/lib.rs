//! Arch.
