//! Configuration files: what is accepted means the same when it is written and read again.

use vmm::config::{Plan, VmConfig};

use super::check_complaint;

/// See the module.
pub fn run(input: &[u8]) {
    let mut config = match VmConfig::from_json(input) {
        Ok(config) => config,
        Err(error) => return check_complaint(&error),
    };
    // Only named devices can be told apart, as they are wherever a configuration is shown.
    if let Err(error) = config.name_devices() {
        return check_complaint(&error);
    }
    let shown = config.to_json();
    let again = VmConfig::from_json(shown.to_string().as_bytes()).unwrap_or_else(|error| {
        panic!("{shown} is not understood: {}", devices::event::chain(&error));
    });
    assert_eq!(again.to_json(), shown);
    match (Plan::resolve(config), Plan::resolve(again)) {
        (Ok(plan), Ok(again)) => assert_eq!(plan, again),
        (Err(error), Err(again)) => {
            check_complaint(&error);
            assert_eq!(error.to_string(), again.to_string());
        }
        (plan, again) => panic!("{plan:?} and then {again:?}"),
    }
}
