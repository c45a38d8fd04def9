//! From a function to a test with a name and needs.

use harness::Need;
use libtest_mimic::{Completion, Trial};

/// A test that fails by panicking and is ignored where a need is not met.
pub fn trial(
    name: impl Into<String>,
    needs: &'static [Need],
    test: impl FnOnce() + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Some(reason) = needs.iter().find_map(|need| need.missing()) {
            return Ok(Completion::ignored_with(reason));
        }
        test();
        Ok(Completion::Completed)
    })
}

/// Whether this process runs as root, of the host or of a namespace.
pub fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Defines `tests()`, the list of a module's test functions under the name of their group.
macro_rules! tests {
    ($group:literal needs $needs:expr; $($name:ident),+ $(,)?) => {
        /// The tests of this module.
        pub fn tests() -> Vec<libtest_mimic::Trial> {
            vec![$(crate::suite::trial(concat!($group, "::", stringify!($name)), $needs, $name)),+]
        }
    };
}
pub(crate) use tests;
