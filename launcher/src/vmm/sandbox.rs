//! What a process gives up before its guest runs, for good: files, network, descriptors to come,
//! and every system call that serving a guest does not need.
//!
//! The order of a locked-down run: open everything, prepare the machine, [`close_doors`], start the other
//! lanes' threads, [`filter_calls`] on all of them, boot. No image byte has been read before.

use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::io;
use std::os::fd::RawFd;

/// The newest landlock whose rights are known here.
const NEWEST: ABI = ABI::V6;

/// What stands between the guest's host process and the rest of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// No path can be opened any more.
    pub files: Layer,
}

/// One layer of isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// All of it.
    Full,
    /// What this kernel knows of it.
    Partial,
    /// This kernel has nothing of the kind.
    Missing,
}

/// Why a process could not lock itself down.
#[derive(Debug)]
pub enum SandboxError {
    /// A resource limit was refused.
    Limit(io::Error),
    /// Landlock is there and refused.
    Landlock(landlock::RulesetError),
    /// The system-call filter was refused.
    Seccomp(seccompiler::Error),
    /// The system-call filter could not be put together.
    Filter(seccompiler::BackendError),
}

/// Gives up files, network, core dumps, and descriptors from number `descriptors` on: 0 where no new one is to come.
/// Threads started later inherit it.
///
/// `largest_file` bounds what any file may grow to, in bytes.
///
/// # Errors
/// A layer that this kernel has refused.
pub fn close_doors(largest_file: Option<u64>, descriptors: u64) -> Result<Layers, SandboxError> {
    limit(libc::RLIMIT_CORE, 0)?;
    if let Some(len) = largest_file {
        limit(libc::RLIMIT_FSIZE, len)?;
    }
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(SandboxError::Landlock)?;
    let files = match status.ruleset {
        RulesetStatus::FullyEnforced => Layer::Full,
        RulesetStatus::PartiallyEnforced => Layer::Partial,
        RulesetStatus::NotEnforced => Layer::Missing,
    };
    // Last: the rule set itself was a descriptor.
    limit(libc::RLIMIT_NOFILE, descriptors)?;
    Ok(Layers { files })
}

/// What this kernel has of landlock: asked, not done.
#[must_use]
pub fn available() -> Layers {
    const VERSION: libc::c_uint = 1; // LANDLOCK_CREATE_RULESET_VERSION
    // SAFETY: with this flag the call takes no memory and only returns a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION) };
    let files = match abi {
        ..1 => Layer::Missing,
        known if known < NEWEST as libc::c_long => Layer::Partial,
        _ => Layer::Full,
    };
    Layers { files }
}

/// Lowers a resource limit, never raises it.
fn limit(resource: libc::__rlimit_resource_t, value: u64) -> Result<(), SandboxError> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `now` is a valid rlimit for the call to fill in.
    if unsafe { libc::getrlimit(resource, &raw mut now) } != 0 {
        return Err(SandboxError::Limit(io::Error::last_os_error()));
    }
    let value = value.min(now.rlim_max);
    let new = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `new` is a valid rlimit; the call reads it only.
    if unsafe { libc::setrlimit(resource, &raw const new) } != 0 {
        return Err(SandboxError::Limit(io::Error::last_os_error()));
    }
    Ok(())
}

/// KVM's calls on a running machine (`linux/kvm.h`): run, and the registers of a lane that starts.
mod kvm_call {
    pub const RUN: u64 = 0xae80;
    pub const GET_REGS: u64 = 0x8090_ae81;
    pub const SET_REGS: u64 = 0x4090_ae82;
    pub const GET_SREGS: u64 = 0x8138_ae83;
    pub const SET_SREGS: u64 = 0x4138_ae84;
    pub const SET_MP_STATE: u64 = 0x4004_ae99;
    pub const ALL: [u64; 6] = [RUN, GET_REGS, SET_REGS, GET_SREGS, SET_SREGS, SET_MP_STATE];
    pub const CREATE_VCPU: u64 = 0xae41;
    pub const SET_CPUID2: u64 = 0x4008_ae90;
}

/// Calls that are allowed whatever their arguments: I/O on open descriptors, memory, waiting, ending.
const ALLOWED: [libc::c_long; 23] = [
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What serving a machine outside takes as well: sockets that are open, and what comes through them.
const ALLOWED_OUTSIDE: [libc::c_long; 6] =
    [libc::SYS_accept4, libc::SYS_lseek, libc::SYS_ppoll, libc::SYS_read, libc::SYS_recvmsg, libc::SYS_sendmsg];

/// What serving a guest takes beside reading and writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    /// Whose devices they are.
    pub machine: Machine,
    /// Copies from file to file by the kernel.
    pub copies: bool,
}

/// Whose devices a process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// The built-in machine's, for one guest.
    Once,
    /// The same, for one guest after another: what the next needs comes through this socket.
    InTurn {
        /// The socket.
        orders: RawFd,
    },
    /// Those of a machine outside: sockets, and no KVM.
    Outside,
}

/// The filter: [`ALLOWED`], KVM's ioctls, and mappings that are not executable; all else ends the process.
fn filter(calls: Calls) -> Result<BpfProgram, seccompiler::BackendError> {
    let condition = |argument, op, value| SeccompCondition::new(argument, SeccompCmpArgLen::Qword, op, value);
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    if calls.copies {
        rules.insert(libc::SYS_copy_file_range, Vec::new());
    }
    let mut ioctls = kvm_call::ALL.to_vec();
    match calls.machine {
        Machine::Once => {}
        Machine::InTurn { orders } => {
            let only = condition(0, SeccompCmpOp::Eq, orders.try_into().unwrap_or(u64::MAX))?;
            rules.insert(libc::SYS_recvmsg, vec![SeccompRule::new(vec![only])?]);
            rules.insert(libc::SYS_mincore, Vec::new());
            ioctls.extend([kvm_call::CREATE_VCPU, kvm_call::SET_CPUID2]);
        }
        Machine::Outside => {
            rules.extend(ALLOWED_OUTSIDE.iter().map(|&call| (call, Vec::new())));
            ioctls.clear();
        }
    }
    if !ioctls.is_empty() {
        let rule = |call| SeccompRule::new(vec![condition(1, SeccompCmpOp::Eq, call)?]);
        rules.insert(libc::SYS_ioctl, ioctls.into_iter().map(rule).collect::<Result<_, _>>()?);
    }
    // std asks whether a descriptor is open before it closes it, in builds with debug assertions.
    let is_open = condition(1, SeccompCmpOp::Eq, libc::F_GETFD as u64)?;
    rules.insert(libc::SYS_fcntl, vec![SeccompRule::new(vec![is_open])?]);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let no_exec = condition(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![no_exec])?]);
    }
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?
        .try_into()
}

/// Filters the system calls of every thread of this process.
///
/// # Errors
/// The kernel has no seccomp, or a thread could not take the filter.
pub fn filter_calls(calls: Calls) -> Result<(), SandboxError> {
    let program = filter(calls).map_err(SandboxError::Filter)?;
    seccompiler::apply_filter_all_threads(&program).map_err(SandboxError::Seccomp)
}

#[cfg(test)]
#[path = "sandbox_tests.rs"]
mod tests;
