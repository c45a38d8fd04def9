//! How many CPUs there are and how they are grouped.
//!
//! This module does not parse the command line and knows nothing of identifiers: how a CPU's place
//! becomes an identifier is the architecture's business.

use thiserror::Error;

/// Most CPUs a machine may have: with 8-bit APIC identifiers, 255 is the broadcast address and one
/// more is left for the I/O APIC.
pub const MAX_CPUS: u16 = 254;

/// A grouping that fits its number of CPUs exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    cpus: u16,
    threads: u16,
    cores: u16,
    sockets: u16,
}

impl Topology {
    /// Groups `cpus` CPUs into sockets of `cores` cores of `threads` threads.
    ///
    /// What is not given is derived: one thread per core; then, as many sockets as given cores
    /// leave over, or as many cores as given sockets leave over, by default all in one socket.
    ///
    /// # Errors
    ///
    /// If `cpus` is not in `1..=MAX_CPUS` or the parts do not multiply to it.
    pub fn new(
        cpus: u16,
        cores: Option<u16>,
        threads: Option<u16>,
        sockets: Option<u16>,
    ) -> Result<Self, TopologyError> {
        if cpus == 0 || cpus > MAX_CPUS {
            return Err(TopologyError::CpuCount { cpus });
        }
        let threads = threads.unwrap_or(1);
        // A zero among the given parts leaves nothing to divide by, and fails the product below.
        let share = |parts: u32| {
            let quotient = u32::from(cpus).checked_div(parts).unwrap_or(0);
            u16::try_from(quotient).unwrap_or(0)
        };
        let (cores, sockets) = match (cores, sockets) {
            (Some(cores), Some(sockets)) => (cores, sockets),
            (Some(cores), None) => (cores, share(u32::from(cores) * u32::from(threads))),
            (None, sockets) => {
                let sockets = sockets.unwrap_or(1);
                (share(u32::from(sockets) * u32::from(threads)), sockets)
            }
        };
        // Three 16-bit factors fit in 48 bits.
        let product = u64::from(sockets) * u64::from(cores) * u64::from(threads);
        if product != u64::from(cpus) {
            return Err(TopologyError::Uneven { cpus, sockets, cores, threads });
        }
        Ok(Self { cpus, threads, cores, sockets })
    }

    /// Number of CPUs, `1..=MAX_CPUS`.
    pub fn cpus(&self) -> u16 {
        self.cpus
    }

    /// Threads in each core, at least 1.
    pub fn threads_per_core(&self) -> u16 {
        self.threads
    }

    /// Cores in each socket, at least 1.
    pub fn cores_per_socket(&self) -> u16 {
        self.cores
    }

    /// Number of sockets, at least 1.
    pub fn sockets(&self) -> u16 {
        self.sockets
    }
}

/// A grouping that cannot be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TopologyError {
    /// The number of CPUs is out of range.
    #[error("{cpus} CPUs asked for, the number must be between 1 and {MAX_CPUS}")]
    CpuCount {
        /// The number asked for.
        cpus: u16,
    },
    /// The parts do not make up the whole.
    #[error(
        "{cpus} CPUs cannot be grouped exactly: {sockets} sockets x {cores} cores x {threads} \
         threads do not multiply to {cpus}"
    )]
    Uneven {
        /// Number of CPUs asked for.
        cpus: u16,
        /// Sockets, given or derived.
        sockets: u16,
        /// Cores per socket, given or derived.
        cores: u16,
        /// Threads per core, given or derived.
        threads: u16,
    },
}

#[cfg(test)]
mod tests;
