//! From a function to a test with a name and needs.

use harness::Need;
use libtest_mimic::{Completion, Trial};

/// What a test found out that did not fail.
pub trait Outcome {
    /// In the words of the runner.
    fn completion(self) -> Completion;
}

impl Outcome for () {
    fn completion(self) -> Completion {
        Completion::Completed
    }
}

/// A test that may find only half-way that it cannot do its work here; the error says why.
impl Outcome for Result<(), String> {
    fn completion(self) -> Completion {
        self.map_or_else(Completion::ignored_with, Outcome::completion)
    }
}

/// A test that fails by panicking and is ignored where a need is not met.
pub fn trial<O: Outcome>(
    name: impl Into<String>,
    needs: &'static [Need],
    test: impl FnOnce() -> O + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Some(reason) = needs.iter().find_map(|need| need.missing()) {
            return Ok(Completion::ignored_with(reason));
        }
        Ok(test().completion())
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
