//! Files, words and requests: what comes from people and programs of the host.

use std::error::Error;

pub mod api;
pub mod cmdline;
pub mod config;
pub mod kernel;
pub mod overlay;
pub mod snapshot;

/// What a person is told is one line that a terminal can show, causes included.
fn check_complaint(error: &dyn Error) {
    let text = devices::event::chain(error);
    assert!(!text.is_empty() && !text.chars().any(char::is_control), "{text:?}");
}
