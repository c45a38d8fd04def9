//! A lightweight virtual machine monitor: `vmm --kernel bzImage --disk rootfs.img`.
//!
//! Reading order: [`run`] (a life from start to end), [`builder`] (the boot story), [`kvm`] and [`vcpu`]
//! (every KVM ioctl), [`event_loop`] (everything that is not a vCPU). What the guest talks to is in the
//! `devices` crate, what its tables and registers say in `arch`.

pub mod affinity;
pub mod api;
pub mod boot;
pub mod boot_timer;
pub mod boot_trace;
pub mod builder;
mod cgroup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod consoles;
pub mod controls;
pub mod ctl;
pub mod device_manager;
pub mod doctor;
#[cfg(feature = "drill")]
mod drill;
pub mod end;
pub mod event_loop;
pub mod events;
pub mod exit_code;
pub mod generation;
pub mod inherited;
pub mod iothread;
pub mod jail;
pub mod jailer;
pub mod kvm;
pub mod life_cycle;
pub mod logger;
pub mod memory;
pub mod metadata;
pub mod metrics;
pub mod process;
pub mod provisions;
pub mod readiness;
pub mod requests;
pub mod run;
pub mod seccomp;
pub mod signals;
pub mod snapshot;
pub mod supervisor;
pub mod threads;
pub mod vcpu;
pub mod vm;

#[cfg(test)]
mod test_dir;
