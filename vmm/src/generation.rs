//! Which machine a guest runs on: an identifier that is another one in each copy of it (`arch::layout::GENERATION_ID`), and
//! numbers for programs that look for themselves (`arch::vmclock`).
//!
//! A kernel that is told of another one knows that somebody else may go on with all that it believes to be secret and
//! unique, and makes its random numbers anew. The tables that say where it lies are `arch`'s.

use arch::{layout, vmclock};

use crate::builder::{BuildError, write};
use crate::kvm::Vm;
use crate::process;

/// An identifier that no other machine has.
///
/// # Errors
/// [`BuildError::Random`].
pub fn new_id() -> Result<[u8; 16], BuildError> {
    process::random().map_err(BuildError::Random)
}

/// Makes a machine that goes on from a snapshot one of its own, and tells its kernel so. Its memory, interrupt controllers
/// and vCPUs have their state already, and no vCPU runs yet: the kernel hears of it as soon as it hears of anything.
///
/// # Errors
/// [`BuildError`]; the machine must not run then.
pub fn renew(vm: &Vm) -> Result<(), BuildError> {
    let memory = vm.memory();
    write(memory, layout::GENERATION_ID.start, &new_id()?)?;
    // Another one, because programs may see it that are not to know what the kernel makes its numbers of.
    write(memory, layout::VMCLOCK.start, &vmclock::page(new_id()?))?;
    Ok(vm.pulse(layout::GENERATION_GSI)?)
}
