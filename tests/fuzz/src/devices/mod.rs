//! The devices, each with what its driver may ask for and what its host may do.

pub mod balloon;
pub mod block;
pub mod console;
pub mod echo;
pub mod metadata;
pub mod net;
pub mod rng;
pub mod state;
pub mod vsock;
