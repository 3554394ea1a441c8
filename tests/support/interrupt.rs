// Included by tests of the daemon in src/. Waits for a system call of another thread, and interrupts it.

/// The system calls of a thread that waits for events.
#[allow(dead_code, reason = "not every test uses it")]
const WAITS: [libc::c_long; 2] = [
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(not(target_arch = "x86_64"))]
    libc::SYS_epoll_pwait2,
];

/// Polls `condition` until it is true.
fn eventually(condition: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
}

/// Waits until the thread `id` is in one of these system calls.
fn await_call(id: nix::unistd::Pid, calls: &[libc::c_long]) {
    eventually(|| {
        let call = std::fs::read_to_string(format!("/proc/self/task/{id}/syscall"));
        let call = call.unwrap_or_default();
        let number = call.split(' ').next().and_then(|word| word.parse().ok());
        number.is_some_and(|number| calls.contains(&number))
    });
}

/// Waits until the thread `id` is in one of these system calls, and until it has handled a signal there. `thread` is its
/// pthread_t as a number, because with musl that is a pointer, which cannot be sent from the thread.
#[allow(dead_code, reason = "not every test uses it")]
fn interrupt(id: nix::unistd::Pid, thread: usize, calls: &[libc::c_long]) {
    use std::sync::atomic::{AtomicBool, Ordering};
    let is_handled = std::sync::Arc::new(AtomicBool::new(false));
    let signal = signal_hook::consts::SIGUSR1;
    signal_hook::flag::register(signal, is_handled.clone()).unwrap();
    await_call(id, calls);
    nix::sys::pthread::pthread_kill(thread as _, nix::sys::signal::Signal::SIGUSR1).unwrap();
    eventually(|| is_handled.load(Ordering::Relaxed));
}
