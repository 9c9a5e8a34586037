//! Forbidden things, tried after the lock-down: each must end its process.
//!
//! Each case runs in a process of its own: the test starts this very binary again with the case's name.

use super::*;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

const CASE: &str = "INSTAR_SANDBOX_CASE";
const PLAIN: Calls = Calls { machine: Machine::Once, copies: false };
const OUTSIDE: Calls = Calls { machine: Machine::Outside, copies: false };
/// Orders come through standard output.
const IN_TURN: Calls = Calls { machine: Machine::InTurn { orders: 1 }, copies: false };

/// Runs `attempt` after the lock-down in a child and returns the signal that ended it, or its exit code.
fn after_lock_down(test: &str, attempt: impl FnOnce()) -> Result<i32, i32> {
    after_lock_down_to(PLAIN, test, attempt)
}

fn after_lock_down_to(calls: Calls, test: &str, attempt: impl FnOnce()) -> Result<i32, i32> {
    if std::env::var_os(CASE).is_some() {
        close_doors(Some(1 << 20), 0).expect("landlock and limits");
        filter_calls(calls).expect("seccomp");
        attempt();
        // SAFETY: ends this process at once.
        unsafe { libc::_exit(0) }
    }
    let name = format!("{}::{test}", module_path!().trim_start_matches("instar::"));
    let exe = std::env::current_exe().expect("a test binary knows itself");
    let status = Command::new(exe).args([&name, "--exact"]).env(CASE, "1").output().expect("it can be started").status;
    status.signal().map_or_else(|| Err(status.code().unwrap_or(-1)), Ok)
}

/// A raw system call, whose result nobody looks at: it must not return.
fn call(number: libc::c_long, arguments: [usize; 4]) {
    let [a, b, c, d] = arguments;
    // SAFETY: pointers among the arguments point to constants that live for ever, or are null.
    unsafe { libc::syscall(number, a, b, c, d) };
}

macro_rules! forbidden {
    ($($name:ident: $number:expr, $arguments:expr;)*) => {$(
        #[test]
        fn $name() {
            assert_eq!(after_lock_down(stringify!($name), || call($number, $arguments)), Ok(libc::SIGSYS));
        }
    )*};
}

const ANYWHERE: usize = 0;

forbidden! {
    opening_a_file_is_forbidden: libc::SYS_openat, [libc::AT_FDCWD as usize, c"/etc/passwd".as_ptr().addr(), 0, 0];
    opening_by_the_old_call_is_forbidden: libc::SYS_open, [c"/etc/passwd".as_ptr().addr(), 0, 0, 0];
    a_socket_is_forbidden: libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0, 0];
    executing_a_program_is_forbidden: libc::SYS_execve, [c"/bin/sh".as_ptr().addr(), 0, 0, 0];
    a_new_process_is_forbidden: libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0];
    tracing_is_forbidden: libc::SYS_ptrace, [libc::PTRACE_TRACEME as usize, 0, 0, 0];
    executable_memory_is_forbidden:
        libc::SYS_mmap, [ANYWHERE, 4096, (libc::PROT_READ | libc::PROT_EXEC) as usize, 0x22];
    making_memory_executable_is_forbidden: libc::SYS_mprotect, [0x1000, 4096, libc::PROT_EXEC as usize, 0];
    a_terminal_ioctl_is_forbidden: libc::SYS_ioctl, [0, libc::TIOCSTI as usize, 0, 0];
    making_another_machine_is_forbidden: libc::SYS_ioctl, [0, 0xae01, 0, 0];
    unlinking_is_forbidden: libc::SYS_unlink, [c"/nowhere".as_ptr().addr(), 0, 0, 0];
    signals_to_others_are_forbidden: libc::SYS_kill, [1, 0, 0, 0];
    duplicating_a_descriptor_is_forbidden: libc::SYS_fcntl, [0, libc::F_DUPFD as usize, 0, 0];
    copying_by_the_kernel_is_forbidden: libc::SYS_copy_file_range, [0, 0, 1, 0];
    io_uring_is_forbidden: libc::SYS_io_uring_setup, [1, 0, 0, 0];
}

#[test]
fn copying_by_the_kernel_is_allowed_where_it_was_asked_for() {
    let work = || call(libc::SYS_copy_file_range, [usize::MAX, 0, usize::MAX, 0]);
    let name = "copying_by_the_kernel_is_allowed_where_it_was_asked_for";
    assert_eq!(after_lock_down_to(Calls { copies: true, ..PLAIN }, name, work), Err(0));
}

#[test]
fn what_serving_a_guest_needs_is_allowed() {
    let work = || {
        let memory = vec![1u8; 8 << 20];
        assert_eq!(memory.iter().filter(|&&byte| byte == 1).count(), memory.len());
        std::thread::yield_now();
    };
    assert_eq!(after_lock_down("what_serving_a_guest_needs_is_allowed", work), Err(0));
}

#[test]
fn landlock_alone_keeps_the_file_system_shut() {
    if let Some(path) = std::env::var_os(CASE) {
        close_doors(None, 0).expect("landlock and limits");
        // Removing takes no descriptor, so only landlock stands in the way.
        let error = std::fs::remove_file(path).expect_err("no path is left");
        // SAFETY: ends this process at once.
        unsafe { libc::_exit(if error.kind() == io::ErrorKind::PermissionDenied { 7 } else { 8 }) }
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let name = format!("{}::landlock_alone_keeps_the_file_system_shut", module_path!().trim_start_matches("instar::"));
    let exe = std::env::current_exe().expect("a test binary knows itself");
    let output = Command::new(exe).args([&name, "--exact"]).env(CASE, file.path()).output();
    assert_eq!(output.expect("it can be started").status.code(), Some(7));
}

#[test]
fn serving_a_machine_outside_takes_no_kvm() {
    let run = || call(libc::SYS_ioctl, [0, 0xae80, 0, 0]);
    assert_eq!(after_lock_down_to(OUTSIDE, "serving_a_machine_outside_takes_no_kvm", run), Ok(libc::SIGSYS));
}

#[test]
fn a_socket_is_forbidden_for_a_machine_outside_too() {
    let socket = || call(libc::SYS_socket, [libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, 0]);
    let test = "a_socket_is_forbidden_for_a_machine_outside_too";
    assert_eq!(after_lock_down_to(OUTSIDE, test, socket), Ok(libc::SIGSYS));
}

#[test]
fn orders_come_through_their_own_socket_only() {
    let receive = |fd| move || call(libc::SYS_recvmsg, [fd, ANYWHERE, 0, 0]);
    let test = "orders_come_through_their_own_socket_only";
    // Twice the same process: it ends at the second call, or came back from the first and ended well.
    let both = || {
        receive(1)();
        receive(0)();
    };
    assert_eq!(after_lock_down_to(IN_TURN, test, both), Ok(libc::SIGSYS));
}

#[test]
fn a_machine_in_turn_gets_vcpus_and_no_machine_beside_it() {
    let vcpu = || call(libc::SYS_ioctl, [0, 0xae41, 0, 0]);
    let test = "a_machine_in_turn_gets_vcpus_and_no_machine_beside_it";
    assert_eq!(
        after_lock_down_to(IN_TURN, test, || (vcpu(), call(libc::SYS_ioctl, [0, 0xae01, 0, 0])).1),
        Ok(libc::SIGSYS)
    );
}

#[test]
fn a_vcpu_more_is_forbidden_to_a_machine_that_runs_once() {
    let vcpu = || call(libc::SYS_ioctl, [0, 0xae41, 0, 0]);
    assert_eq!(after_lock_down("a_vcpu_more_is_forbidden_to_a_machine_that_runs_once", vcpu), Ok(libc::SIGSYS));
}
