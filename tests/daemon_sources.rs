//! The processes that run the configured checks. If one of them is stopped, is killed or hangs, its checks fail and
//! nothing else does. None of them outlives the daemon. The check file can be read again while the daemon serves.
#![cfg(all(feature = "sources", target_os = "linux"))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/daemon.rs"]
mod daemon;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use daemon::{
    Daemon, TempPath, error_line, eventually, get, healthz, metric, run, shell, temp_path,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest time until checks pass again after the worker was continued or killed.
const BACK_MAX: Duration = Duration::from_secs(5);

fn children(pid: Pid) -> Vec<Pid> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .map(|pid| Pid::from_raw(pid.parse().unwrap()))
        .collect()
}

/// The supervisor and the worker.
fn sources(daemon: &Daemon) -> (Pid, Pid) {
    let only = |pid| children(pid).first().copied();
    eventually("the sources processes", || {
        let supervisor = only(daemon.pid())?;
        Some((supervisor, only(supervisor)?))
    })
}

/// Whether the process exists and is no zombie.
fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn wait_for(address: SocketAddr, path: &str, expected: &str) {
    eventually(&format!("{path} to answer {expected:?}"), || {
        get(address, path).1.contains(expected).then_some(())
    });
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// A listener for a check, and the option for it.
fn service(period: &str) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (
        listener,
        format!("web=tcp:{address},period={period},timeout=500ms"),
    )
}

#[test]
fn a_stopped_worker_fails_its_checks_and_a_continued_one_passes_them() {
    let (_listener, check) = service("1s");
    let daemon = Daemon::start(&["--check", &check]);
    let address = daemon.address();
    wait_for(address, "/healthz/web", "ok");
    let (_, worker) = sources(&daemon);
    kill(worker, Signal::SIGSTOP).unwrap();
    wait_for(address, "/healthz/web", "not checked for ");
    assert_eq!(get(address, "/livez"), (200, "ok".to_owned()));
    daemon.lines().wait("check web fails after it passed for");
    let continued = Instant::now();
    kill(worker, Signal::SIGCONT).unwrap();
    wait_for(address, "/healthz/web", "ok");
    assert!(continued.elapsed() < BACK_MAX);
}

/// The time of the wall clock.
fn unix_seconds() -> f64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.unwrap().as_secs_f64()
}

/// No probe is sent.
#[test]
fn the_metrics_show_runs_and_changes_of_a_check_without_a_probe() {
    let file = temp_path();
    write(&file, "x");
    let check = format!(
        "file=file:{},period=500ms,timeout=500ms,failure-threshold=2",
        file.display()
    );
    let began = unix_seconds().floor();
    let daemon = Daemon::start(&["--check", &check]);
    let address = daemon.address();
    let value = |sample: &str| metric(address, sample).unwrap_or(f64::NAN);
    let state = || value("kubernetes_healthcheck{name=\"file\",type=\"readyz\"}");
    let changes = || value("healthz_check_changes_total{name=\"file\"}");
    let changed = || value("healthz_check_last_change_timestamp_seconds{name=\"file\"}");
    let runs = |result: &str| {
        value(&format!(
            "healthz_check_runs_total{{name=\"file\",result=\"{result}\"}}"
        ))
    };
    let wait_for_state = |expected: f64| {
        eventually(&format!("state {expected}"), || {
            (state() == expected).then_some(())
        })
    };
    wait_for_state(1.0);
    // The check's state changes from unknown to passing.
    assert_eq!(changes(), 1.0);
    assert!(runs("success") >= 1.0);
    assert_eq!((runs("failure"), runs("timeout")), (0.0, 0.0));
    fs::remove_file(&file).unwrap();
    wait_for_state(0.0);
    assert_eq!(changes(), 2.0);
    // Two runs, because the threshold is two.
    assert!(runs("failure") >= 2.0);
    assert!((began..=unix_seconds()).contains(&changed()));
    let successes = runs("success");
    write(&file, "x");
    wait_for_state(1.0);
    assert_eq!(changes(), 3.0);
    assert!(runs("success") > successes);
    let duration = value("healthz_check_last_run_duration_seconds{name=\"file\"}");
    assert!(duration > 0.0 && duration < 10.0, "{duration}");
    let probes = "kubernetes_healthchecks_total{name=\"file\",status=\"error\",type=\"readyz\"}";
    assert_eq!(value(probes), 0.0);
}

#[test]
fn the_metrics_show_without_a_probe_that_the_worker_is_stopped() {
    let (_listener, check) = service("1s");
    let daemon = Daemon::start(&["--check", &check]);
    let address = daemon.address();
    let wait_for_state = |expected: f64| {
        let sample = "kubernetes_healthcheck{name=\"web\",type=\"healthz\"}";
        eventually(&format!("state {expected}"), || {
            (metric(address, sample) == Some(expected)).then_some(())
        });
    };
    let changes = || metric(address, "healthz_check_changes_total{name=\"web\"}");
    wait_for_state(1.0);
    let (_, worker) = sources(&daemon);
    kill(worker, Signal::SIGSTOP).unwrap();
    wait_for_state(0.0);
    assert_eq!(changes(), Some(2.0));
    kill(worker, Signal::SIGCONT).unwrap();
    wait_for_state(1.0);
    assert_eq!(changes(), Some(3.0));
}

#[test]
fn a_killed_worker_fails_its_checks_at_once_and_is_replaced() {
    let (_listener, check) = service("1s");
    let daemon = Daemon::start(&["--check", &check]);
    let address = daemon.address();
    wait_for(address, "/healthz/web", "ok");
    let (_, worker) = sources(&daemon);
    let killed = Instant::now();
    kill(worker, Signal::SIGKILL).unwrap();
    daemon
        .lines()
        .wait("the sources process has ended (killed by signal 9)");
    wait_for(address, "/readyz", "ok");
    assert!(killed.elapsed() < BACK_MAX);
    let lines = daemon.lines().all();
    let says = "check web fails after it passed for";
    let line = lines.iter().find(|line| line.contains(says)).unwrap();
    assert!(
        line.contains("not checked: the sources process has ended (killed by signal 9)"),
        "{line}"
    );
}

#[test]
fn a_worker_becomes_the_supervisor_when_its_supervisor_is_killed() {
    let (listener, check) = service("1s");
    let daemon = Daemon::start(&["--check", &check]);
    let address = daemon.address();
    wait_for(address, "/healthz/web", "ok");
    let (supervisor, worker) = sources(&daemon);
    kill(supervisor, Signal::SIGKILL).unwrap();
    daemon.lines().wait("the worker takes its place");
    let second = eventually("another worker", || children(worker).first().copied());
    // Regression: the killed supervisor stayed a zombie as long as the daemon ran.
    eventually("the supervisor to be reaped", || {
        let stat = format!("/proc/{supervisor}/stat");
        (!Path::new(&stat).exists()).then_some(())
    });
    drop(listener);
    wait_for(address, "/healthz/web", "connection refused");
    // The new supervisor starts another worker, as the first one did.
    kill(second, Signal::SIGKILL).unwrap();
    eventually("a third worker", || {
        children(worker)
            .first()
            .copied()
            .filter(|third| *third != second)
    });
    drop(daemon);
    eventually("the sources processes to end", || {
        (!runs(worker)).then_some(())
    });
}

#[test]
fn the_daemon_ends_if_both_sources_processes_are_killed() {
    let (_listener, check) = service("1s");
    let mut daemon = Daemon::start(&["--check", &check]);
    wait_for(daemon.address(), "/healthz/web", "ok");
    let (supervisor, worker) = sources(&daemon);
    kill(supervisor, Signal::SIGSTOP).unwrap();
    kill(worker, Signal::SIGKILL).unwrap();
    kill(supervisor, Signal::SIGKILL).unwrap();
    assert_eq!(daemon.wait().code(), Some(1));
    daemon
        .lines()
        .wait("the sources processes have ended; start healthz again");
}

/// Regression: a daemon that was stopping ended at once, with code 1, and answered no request in progress.
#[test]
fn a_daemon_that_stops_continues_without_the_sources_processes() {
    let (_listener, check) = service("1s");
    let mut daemon = Daemon::start(&["--check", &check, "--shutdown-delay", "3s"]);
    let address = daemon.address();
    wait_for(address, "/healthz/web", "ok");
    let (supervisor, worker) = sources(&daemon);
    kill(daemon.pid(), Signal::SIGTERM).unwrap();
    daemon.lines().wait("stopping: ");
    kill(supervisor, Signal::SIGSTOP).unwrap();
    kill(worker, Signal::SIGKILL).unwrap();
    kill(supervisor, Signal::SIGKILL).unwrap();
    daemon
        .lines()
        .wait("the sources processes have ended while healthz stops");
    assert_eq!(get(address, "/livez"), (200, "ok".to_owned()));
    assert_eq!(daemon.wait().code(), Some(0));
}

/// A program that leaves a child in its process group and one in a session of its own, and a program that hangs.
fn leaving_programs(dir: &Path) -> [String; 2] {
    fs::create_dir_all(dir).unwrap();
    let script = dir.join("leave.sh");
    let sleep = format!("sleep {}", sleep_seconds());
    write(&script, &format!("setsid {sleep} & {sleep} & exit 0\n"));
    [
        format!(
            "leaves=exec:/bin/sh {},period=1s,timeout=1s",
            script.display()
        ),
        format!("hangs=exec:/bin/{sleep},period=60s,timeout=60s"),
    ]
}

/// Different in each run, so that a run finds no process of another one.
fn sleep_seconds() -> String {
    format!("4321.{}", std::process::id())
}

fn sleepers() -> Vec<Pid> {
    let end = format!("sleep\0{}\0", sleep_seconds());
    let processes = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_sleeper = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(end.as_bytes()))
    };
    processes.filter(is_sleeper).map(Pid::from_raw).collect()
}

/// One test for all cases, because each of them searches for the same processes.
#[test]
fn no_process_is_left_however_the_daemon_ends() {
    let dir = temp_path();
    let checks = leaving_programs(&dir);
    let start = || {
        let daemon = Daemon::start(&["--check", &checks[0], "--check", &checks[1]]);
        wait_for(daemon.address(), "/healthz/leaves", "ok");
        eventually("the program that hangs", || {
            (!sleepers().is_empty()).then_some(())
        });
        let (supervisor, worker) = sources(&daemon);
        (daemon, supervisor, worker)
    };
    let assert_gone = |supervisor, worker, how: &str| {
        eventually(how, || {
            (!runs(supervisor) && !runs(worker) && sleepers().is_empty()).then_some(())
        });
    };
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT] {
        let (mut daemon, supervisor, worker) = start();
        daemon.signal(signal);
        daemon.wait();
        assert_gone(
            supervisor,
            worker,
            &format!("nothing to be left after {signal}"),
        );
    }
    // No process is left if the sources processes were stopped with SIGSTOP.
    for stopped in [[true, false], [false, true], [true, true]] {
        let (mut daemon, supervisor, worker) = start();
        for (pid, is_stopped) in [supervisor, worker].into_iter().zip(stopped) {
            if is_stopped {
                kill(pid, Signal::SIGSTOP).unwrap();
            }
        }
        daemon.signal(Signal::SIGTERM);
        daemon.wait();
        assert_gone(
            supervisor,
            worker,
            &format!("nothing to be left after a stop of {stopped:?}"),
        );
    }
    // Regression: processes that were stopped just before the daemon was killed stayed. The kernel sends a parent-death
    // signal, here SIGCONT, in the name of the parent, and Landlock forbids the daemon to signal other processes.
    // Several rounds, because in most of them the kernel continued the processes for another reason.
    for _ in 0..10 {
        let (mut daemon, supervisor, worker) = start();
        kill(worker, Signal::SIGSTOP).unwrap();
        kill(supervisor, Signal::SIGSTOP).unwrap();
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        assert_gone(
            supervisor,
            worker,
            "nothing to be left after a stop just before the end",
        );
    }
    // When the worker is killed, the supervisor ends its programs.
    let (mut daemon, supervisor, worker) = start();
    kill(worker, Signal::SIGKILL).unwrap();
    daemon.lines().wait("the sources process has ended");
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    assert_gone(
        supervisor,
        worker,
        "nothing to be left after the worker was killed",
    );
    fs::remove_dir_all(&dir).unwrap();
}

/// A service manager sends SIGTERM to every process of a service.
#[test]
fn the_sources_processes_run_while_the_server_drains() {
    let (listener, check) = service("1s");
    let check = format!("{check},failure-threshold=1");
    let mut daemon = Daemon::start(&["--check", &check, "--shutdown-delay", "6s"]);
    let address = daemon.address();
    wait_for(address, "/healthz/web", "ok");
    let (supervisor, worker) = sources(&daemon);
    for pid in [daemon.pid(), supervisor, worker] {
        kill(pid, Signal::SIGTERM).unwrap();
    }
    daemon.lines().wait("stopping: ");
    drop(listener);
    wait_for(address, "/healthz/web", "connection refused");
    assert_eq!(daemon.wait().code(), Some(0));
    eventually("the sources processes to end", || {
        (!runs(supervisor) && !runs(worker)).then_some(())
    });
}

/// A FIFO stands for a file system that does not answer: open(2) waits until a process opens its other end.
#[test]
fn a_file_that_hangs_delays_neither_other_checks_nor_the_exit() {
    let fifo = temp_path();
    nix::unistd::mkfifo(&*fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (_listener, check) = service("1s");
    let file = format!(
        "fifo=file:{},contains=x,period=1s,timeout=500ms",
        fifo.display()
    );
    let mut daemon = Daemon::start(&["--check", &file, "--check", &check]);
    let address = daemon.address();
    wait_for(address, "/healthz/web", "ok");
    assert_eq!(get(address, "/healthz/fifo").0, 500);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    let port = address.port().to_string();
    let next = Daemon::start_as(healthz(&["--listen", &format!("127.0.0.1:{port}")]));
    assert_eq!(next.address(), address);
}

/// A file system on which every path hangs, because no process reads the requests of the kernel.
struct Hanging(
    TempPath,
    #[expect(dead_code, reason = "closed on drop")] fs::File,
);

impl Hanging {
    fn mount() -> nix::Result<Hanging> {
        let mut options = fs::File::options();
        let device = options.read(true).write(true).open("/dev/fuse");
        let device = device.map_err(|_| nix::errno::Errno::ENODEV)?;
        let root = temp_path();
        fs::create_dir(&*root).unwrap();
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let mounted = mount(
            Some("hangs"),
            &*root,
            Some("fuse"),
            MsFlags::empty(),
            Some(data.as_str()),
        );
        match mounted {
            Ok(()) => Ok(Hanging(root, device)),
            Err(error) => {
                let _ = fs::remove_dir(&*root);
                Err(error)
            }
        }
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        umount2(&*self.0, MntFlags::MNT_DETACH).unwrap();
        fs::remove_dir(&*self.0).unwrap();
    }
}

/// Regression: the event loop of the worker called connect(2), which looks up the path.
#[test]
fn a_socket_path_that_hangs_delays_neither_other_checks_nor_the_exit() {
    let hanging = match Hanging::mount() {
        Ok(hanging) => hanging,
        Err(error) => return daemon::untried(&format!("cannot mount with FUSE: {error}")),
    };
    let (listener, web) = service("1s");
    let path = hanging.0.join("socket");
    let unix = format!(
        "hangs=unix:{},period=1s,timeout=500ms,failure-threshold=1",
        path.display()
    );
    let mut daemon = Daemon::start(&["--check", &unix, "--check", &web]);
    let address = daemon.address();
    let reason = format!(
        "{}: no result within 500ms (looking up its path)",
        path.display()
    );
    daemon.lines().wait(&reason);
    wait_for(address, "/healthz/web", "ok");
    drop(listener);
    wait_for(address, "/healthz/web", "connection refused");
    // One thread for all attempts, and the others of the worker.
    let (_, worker) = sources(&daemon);
    let threads = fs::read_dir(format!("/proc/{worker}/task"))
        .unwrap()
        .count();
    assert!(threads <= 3, "{threads} threads");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    eventually("the worker to end", || (!runs(worker)).then_some(()));
}

/// The first kind cannot be cancelled, and the second can.
#[test]
fn a_run_that_hangs_is_one_timeout_however_long_it_hangs() {
    let hanging = match Hanging::mount() {
        Ok(hanging) => hanging,
        Err(error) => return daemon::untried(&format!("cannot mount with FUSE: {error}")),
    };
    let often = "period=100ms,timeout=100ms";
    let file = format!("file=file:{},{often}", hanging.0.join("file").display());
    let exec = "exec=exec:/bin/sleep 1234,period=1h,timeout=100ms";
    let other = format!("other=file:/proc/self/stat,{often}");
    let daemon = Daemon::start(&["--check", &file, "--check", exec, "--check", &other]);
    let runs = |name: &str| {
        ["success", "failure", "timeout"].map(|result| {
            let sample = format!("healthz_check_runs_total{{name=\"{name}\",result=\"{result}\"}}");
            metric(daemon.address(), &sample)
        })
    };
    eventually("some periods", || {
        runs("other")[0].filter(|runs| *runs >= 10.0)
    });
    for name in ["file", "exec"] {
        assert_eq!(runs(name), [Some(0.0), Some(0.0), Some(1.0)], "{name}");
    }
    let duration = "healthz_check_last_run_duration_seconds{name=\"exec\"}";
    let duration = metric(daemon.address(), duration).unwrap();
    assert!((0.1..5.0).contains(&duration), "{duration}");
}

#[test]
fn a_service_that_accepts_and_never_answers_fails_at_the_timeout() {
    let path = temp_path();
    let listener = UnixListener::bind(&*path).unwrap();
    let check = format!(
        "silent=unix:{},send=PING,expect=+PONG,period=1s,timeout=500ms,failure-threshold=1",
        path.display()
    );
    let daemon = Daemon::start(&["--check", &check]);
    let reason = format!(
        "{}: no result within 500ms (connected, waiting for \"+PONG\")",
        path.display()
    );
    daemon.lines().wait(&reason);
    // It passes when the service answers.
    let mut peers = Vec::new();
    listener.set_nonblocking(true).unwrap();
    eventually("the check to pass", || {
        while let Ok((mut peer, _)) = listener.accept() {
            let _ = peer.write_all(b"+PONG");
            peers.push(peer);
        }
        (get(daemon.address(), "/healthz/silent").0 == 200).then_some(())
    });
}

fn beat(path: &Path) {
    let socket = UnixDatagram::unbound().unwrap();
    eventually("the socket of the heartbeat", || {
        socket.send_to(b"READY=1\nWATCHDOG=1", path).ok()
    });
}

/// Regression: the new worker did not know of beats before it, and the check failed until the next one.
#[test]
fn a_heartbeat_keeps_its_state_when_the_worker_or_the_supervisor_is_killed() {
    let socket = temp_path();
    let check = format!(
        "worker=heartbeat,limit=1h,socket={},period=1s",
        socket.display()
    );
    let mut daemon = Daemon::start(&["--check", &check]);
    let address = daemon.address();
    beat(&socket);
    wait_for(address, "/healthz/worker", "ok");
    let (supervisor, worker) = sources(&daemon);
    kill(worker, Signal::SIGKILL).unwrap();
    daemon.lines().wait("the sources process has ended");
    let is_next = |next: &Pid| *next != worker;
    let next = || children(supervisor).first().copied().filter(is_next);
    let worker = eventually("the next worker", next);
    wait_for(address, "/healthz/worker", "ok");
    kill(supervisor, Signal::SIGKILL).unwrap();
    eventually("another worker", || children(worker).first().copied());
    wait_for(address, "/healthz/worker", "ok");
    // A check without a beat has no state that a new worker could keep.
    let silent = temp_path();
    let check = format!(
        "silent=heartbeat,limit=1h,socket={},period=1s",
        silent.display()
    );
    let other = Daemon::start(&["--check", &check]);
    other.lines().wait("check silent fails: not ready yet");
    kill(sources(&other).1, Signal::SIGKILL).unwrap();
    other.lines().wait("the sources process has ended");
    wait_for(other.address(), "/healthz/silent", "not ready yet");
    // The socket's file is removed when the daemon ends.
    assert!(socket.exists());
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    eventually("the file of the socket to be removed", || {
        (!socket.exists()).then_some(())
    });
}

/// Regression: the reason was `No such file or directory (os error 2)`, without the path.
#[test]
fn a_heartbeat_whose_socket_cannot_be_made_says_which_socket() {
    let daemon = Daemon::start(&["--check", "worker=heartbeat,socket=/proc/none/worker.sock"]);
    let reason = "/proc/none/worker.sock: does not exist";
    wait_for(daemon.address(), "/healthz/worker", reason);
}

/// Regression: a socket whose file was removed failed its check until healthz was started again.
#[test]
fn a_heartbeat_whose_socket_was_removed_gets_another_one() {
    let socket = temp_path();
    let check = format!(
        "worker=heartbeat,limit=1s,socket={},period=1s",
        socket.display()
    );
    let daemon = Daemon::start(&["--check", &check]);
    let address = daemon.address();
    beat(&socket);
    wait_for(address, "/healthz/worker", "ok");
    fs::remove_file(&socket).unwrap();
    daemon.lines().wait("was removed");
    // As soon as the file is there.
    beat(&socket);
    wait_for(address, "/healthz/worker", "ok");
}

/// Regression: the daemon was ready before the sockets of heartbeats existed. A program that the service manager
/// started next lost its `READY=1`.
#[test]
fn when_the_daemon_is_ready_it_receives_heartbeats() {
    for _ in 0..5 {
        let path = temp_path();
        let daemon = Daemon::start(&[
            "--check",
            &format!("worker=heartbeat,socket={}", path.display()),
        ]);
        daemon.address();
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(b"READY=1", &path).unwrap();
        wait_for(daemon.address(), "/healthz/worker", "ok");
    }
}

/// The time of the last beat is the one at which it was sent, also after verdicts and workers that come later.
#[test]
fn the_metrics_show_when_the_last_beat_was_sent() {
    let socket = temp_path();
    let check = format!(
        "worker=heartbeat,limit=1h,socket={},period=100ms",
        socket.display()
    );
    let other = "other=file:/proc/self/stat,period=100ms,timeout=100ms";
    let daemon = Daemon::start(&["--check", &check, "--check", other]);
    let address = daemon.address();
    let last_beat = || {
        metric(
            address,
            "healthz_check_last_beat_timestamp_seconds{name=\"worker\"}",
        )
    };
    assert_eq!(last_beat(), None);
    let before = unix_seconds().floor();
    beat(&socket);
    let sent = eventually("the beat", last_beat);
    assert!((before..=unix_seconds()).contains(&sent), "{sent}");
    // More than a second, so that a time that is computed from an age would move.
    let runs = || {
        let runs = metric(
            address,
            "healthz_check_runs_total{name=\"other\",result=\"success\"}",
        );
        assert!(last_beat() == Some(sent), "{:?}, not {sent}", last_beat());
        runs
    };
    eventually("some verdicts", || runs().filter(|runs| *runs >= 20.0));
    kill(sources(&daemon).1, Signal::SIGKILL).unwrap();
    daemon.lines().wait("the sources process has ended");
    wait_for(address, "/healthz/worker", "ok");
    eventually("more verdicts", || runs().filter(|runs| *runs >= 30.0));
    // A heartbeat is not run, and the others have no beat.
    let worker = "healthz_check_runs_total{name=\"worker\",result=\"success\"}";
    assert_eq!(metric(address, worker), None);
    let other = "healthz_check_last_beat_timestamp_seconds{name=\"other\"}";
    assert_eq!(metric(address, other), None);
}

/// Regression: each restart of the worker gave a heartbeat another whole limit, so a program that had ended passed.
#[test]
fn a_heartbeat_fails_at_its_limit_however_often_the_worker_is_killed() {
    let socket = temp_path();
    let check = format!(
        "worker=heartbeat,limit=4s,socket={},period=1s",
        socket.display()
    );
    let daemon = Daemon::start(&["--check", &check]);
    let address = daemon.address();
    beat(&socket);
    wait_for(address, "/healthz/worker", "ok");
    let began = Instant::now();
    let (supervisor, mut worker) = sources(&daemon);
    while began.elapsed() < Duration::from_secs(5) {
        kill(worker, Signal::SIGKILL).unwrap();
        let is_next = |next: &Pid| *next != worker;
        let next = || children(supervisor).first().copied().filter(is_next);
        worker = eventually("the next worker", next);
        let is_reported = || !get(address, "/healthz/worker").1.contains("has ended");
        eventually("a verdict of the next worker", || {
            is_reported().then_some(())
        });
    }
    wait_for(address, "/healthz/worker", "no heartbeat for ");
    assert!(began.elapsed() < Duration::from_secs(15));
}

/// A check file, and a daemon that reads it.
fn with_file(text: &str) -> (TempPath, Daemon) {
    let file = temp_path();
    write(file.as_ref(), text);
    let daemon = Daemon::start(&["--config", file.to_str().unwrap()]);
    (file, daemon)
}

#[test]
fn a_valid_file_takes_effect_at_sighup_and_unchanged_checks_keep_their_state() {
    let socket = temp_path();
    let worker = format!(
        "[check.worker]\nheartbeat = true\nlimit = \"1h\"\nsocket = \"{}\"\n",
        socket.display()
    );
    let (listener, _) = service("1s");
    let web = format!(
        "[check.web]\ntcp = \"{}\"\n",
        listener.local_addr().unwrap()
    );
    let (file, daemon) = with_file(&format!("{worker}{web}"));
    let address = daemon.address();
    beat(&socket);
    wait_for(address, "/healthz", "ok");
    // A connection that is open meanwhile, in the middle of a request.
    let mut open = TcpStream::connect(address).unwrap();
    open.write_all(b"GET /readyz?verbose HTTP/1.1\r\n").unwrap();
    write(
        file.as_ref(),
        &format!("{web}[check.here]\nfile = \"/proc/self/stat\"\n{worker}group = \"g\"\n"),
    );
    daemon.signal(Signal::SIGHUP);
    daemon
        .lines()
        .wait("checks in use: 3 (1 added, 1 changed, 0 removed)");
    wait_for(
        address,
        "/readyz?verbose",
        "[+]web ok\n[+]here ok\n[+]worker ok\nreadyz check passed",
    );
    open.write_all(b"Host: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("[+]here ok\n"),
        "{answer}"
    );
    // Now the file has one check. The other two are removed.
    write(file.as_ref(), &worker);
    daemon.signal(Signal::SIGHUP);
    daemon
        .lines()
        .wait("checks in use: 1 (0 added, 1 changed, 2 removed)");
    wait_for(
        address,
        "/readyz?verbose",
        "[+]syncloop ok\n[+]worker ok\nreadyz check passed",
    );
    assert_eq!(get(address, "/healthz/web").0, 404);
}

/// Regression: after a reload, the daemon had no last beat of a heartbeat until its next verdict. If the worker was
/// killed before that, the check failed until the program's next beat.
#[test]
fn a_heartbeat_keeps_its_state_when_the_worker_is_killed_after_a_reload() {
    let sockets = [temp_path(), temp_path()];
    let [kept, changed] = [("kept", &sockets[0]), ("changed", &sockets[1])].map(|(name, socket)| {
        let socket = socket.display();
        format!(
            "[check.{name}]\nheartbeat = true\nlimit = \"2h\"\nperiod = \"1h\"\nsocket = \"{socket}\"\n"
        )
    });
    let (file, daemon) = with_file(&format!("{kept}{changed}"));
    let address = daemon.address();
    for socket in &sockets {
        beat(socket);
    }
    wait_for(address, "/healthz", "ok");
    write(&file, &format!("{changed}group = \"g\"\n{kept}"));
    daemon.signal(Signal::SIGHUP);
    daemon
        .lines()
        .wait("checks in use: 2 (0 added, 1 changed, 0 removed)");
    kill(sources(&daemon).1, Signal::SIGKILL).unwrap();
    daemon.lines().wait("the sources process has ended");
    for name in ["kept", "changed"] {
        wait_for(address, &format!("/healthz/{name}"), "ok");
    }
}

#[test]
fn reloads_are_counted_and_kept_checks_keep_their_counts() {
    // On a busy machine too, no three attempts in a row take this timeout.
    let here =
        "[check.here]\nfile = \"/proc/self/stat\"\nperiod = \"500ms\"\ntimeout = \"500ms\"\n";
    let (file, daemon) = with_file(here);
    let address = daemon.address();
    let value = |sample: &str| metric(address, sample);
    let runs = || value("healthz_check_runs_total{name=\"here\",result=\"success\"}");
    let counts = || {
        [
            value("healthz_config_reloads_total{result=\"success\"}"),
            value("healthz_config_reloads_total{result=\"failure\"}"),
            value("healthz_config_last_reload_success"),
        ]
        .map(|count| count.unwrap())
    };
    eventually("some runs", || runs().filter(|runs| *runs >= 3.0));
    assert_eq!(counts(), [0.0, 0.0, 1.0]);
    let mut known = runs();
    for (text, line, expected) in [
        (
            "[check.more]\nfile = \"/\"\n",
            "checks in use: 2 (",
            [1.0, 0.0, 1.0],
        ),
        (
            "[check.more]\nfiel = \"/\"\n",
            "was not used",
            [1.0, 1.0, 0.0],
        ),
        ("", "checks in use: 1 (", [2.0, 1.0, 1.0]),
    ] {
        write(&file, &format!("{here}{text}"));
        daemon.signal(Signal::SIGHUP);
        daemon.lines().wait(line);
        assert_eq!(counts(), expected, "{line}");
        let now = runs();
        assert!(known <= now, "{known:?} {now:?}");
        known = now;
    }
    assert_eq!(
        value("healthz_check_changes_total{name=\"here\"}"),
        Some(1.0)
    );
    assert_eq!(value("healthz_check_changes_total{name=\"more\"}"), None);
}

/// Regression: more checks than there was room for in an answer were refused by the server after the worker had
/// replaced its own, and then all checks failed.
#[test]
fn the_largest_file_takes_effect_at_sighup() {
    let check = |name: &str| format!("[check.{name}]\nfile = \"/proc/self/stat\"\n");
    let (file, daemon) = with_file(&check("one"));
    let address = daemon.address();
    wait_for(address, "/healthz", "ok");
    let long = "x".repeat(120);
    let checks: String = (0..256)
        .map(|number| check(&format!("{long}-{number}")))
        .collect();
    write(&file, &checks);
    daemon.signal(Signal::SIGHUP);
    daemon.lines().wait("checks in use: 256 (");
    wait_for(
        address,
        "/readyz?verbose",
        &format!("[+]{long}-255 ok\nreadyz check passed"),
    );
    let last = format!("kubernetes_healthcheck{{name=\"{long}-255\",type=\"readyz\"}}");
    assert_eq!(metric(address, &last), Some(1.0));
}

#[test]
fn an_invalid_file_changes_nothing_and_the_log_says_why() {
    let (file, daemon) = with_file("[check.here]\nfile = \"/proc/self/stat\"\n");
    let address = daemon.address();
    wait_for(address, "/healthz", "ok");
    write(
        file.as_ref(),
        "[check.here]\nfile = \"/proc/self/stat\"\nperod = \"1s\"\n",
    );
    daemon.signal(Signal::SIGHUP);
    let line = daemon.lines().wait("perod");
    assert!(
        line.contains(":3:1: ") && line.contains("did you mean period"),
        "{line}"
    );
    daemon
        .lines()
        .wait("was not used; the checks stay as they are");
    wait_for(
        address,
        "/readyz?verbose",
        "[+]syncloop ok\n[+]here ok\nreadyz check passed",
    );
    // A worker that is started again uses the file that was valid.
    let (_, worker) = sources(&daemon);
    kill(worker, Signal::SIGKILL).unwrap();
    daemon.lines().wait("the sources process has ended");
    wait_for(address, "/healthz/here", "ok");
}

#[test]
fn a_service_that_fails_is_reported_with_its_reason_and_the_duration_of_the_last_state() {
    let (listener, _) = service("1s");
    let address = listener.local_addr().unwrap();
    let check = format!("web=tcp:{address},period=1s,timeout=500ms,failure-threshold=1");
    let daemon = Daemon::start(&["--check", &check]);
    wait_for(daemon.address(), "/healthz/web", "ok");
    drop(listener);
    let line = daemon.lines().wait("check web fails");
    assert!(
        line.contains("WARN") && line.contains("after it passed for "),
        "{line}"
    );
    assert!(
        line.ends_with(&format!(" s: {address}: connection refused")),
        "{line}"
    );
}

#[test]
fn a_warning_is_logged_and_the_answer_stays_ok() {
    let check = "gone=file:/nonexistent/file,severity=warning,period=1s";
    let daemon = Daemon::start(&["--check", check]);
    daemon.lines().wait("check gone fails: /nonexistent/file");
    assert_eq!(daemon.get("/healthz"), (200, "ok".to_owned()));
    let (_, verbose) = daemon.get("/readyz?verbose");
    assert!(
        verbose.contains("[!]gone warning: reason withheld\n"),
        "{verbose}"
    );
}

/// Regression: the error was `No such file or directory`, without a path.
#[test]
fn without_proc_the_daemon_says_that_it_is_not_mounted() {
    let unshare = |command: &str| {
        let script = format!("mount -t tmpfs none /proc && exec {command}");
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["--map-root-user", "--mount", "sh", "-c", &script]);
        unshare.arg(env!("CARGO_BIN_EXE_healthz")).output()
    };
    if !unshare("true").is_ok_and(|output| output.status.success()) {
        return daemon::untried("no mount namespace");
    }
    let output = unshare("\"$0\" --listen 127.0.0.1:0 --check web=tcp:127.0.0.1:1").unwrap();
    let expected = "cannot start the sources process: /proc is not mounted";
    assert!(error_line(&output).contains(expected), "{output:?}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_mistake_in_the_configuration_is_refused_before_anything_starts() {
    let output = run(&["--check", "web=htpp:http://127.0.0.1:1/"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        error_line(&output).contains("did you mean http"),
        "{output:?}"
    );
    let output = run(&["--config", "/nonexistent/healthz.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        error_line(&output).contains("/nonexistent/healthz.toml: No such file"),
        "{output:?}"
    );
}

/// Regression: when a user ran one of these commands, the processes started each other without end.
#[test]
fn the_commands_of_the_sources_processes_end_at_once_if_a_user_runs_them() {
    for arguments in [
        &["sources"][..],
        &["sources", "supervisor", "0"],
        &["sources", "supervisor", "again"],
        &["sources", "worker", "1", "first"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(1), "{arguments:?}");
    }
}

fn status(pid: Pid, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

#[test]
fn the_sources_processes_have_no_rights_that_no_check_needs() {
    let (_listener, check) = service("1s");
    let daemon = Daemon::start(&["--check", &check]);
    wait_for(daemon.address(), "/healthz/web", "ok");
    let (supervisor, worker) = sources(&daemon);
    for pid in [supervisor, worker] {
        assert_eq!(status(pid, "NoNewPrivs"), "1");
        // CAP_DAC_READ_SEARCH, if the tests have it.
        for set in ["CapEff", "CapPrm", "CapBnd", "CapInh"] {
            let bits = u64::from_str_radix(&status(pid, set), 16).unwrap();
            let is_root = nix::unistd::geteuid().is_root();
            assert!(
                bits & !4 == 0 || (!is_root && set == "CapBnd"),
                "{set} {bits:x}"
            );
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        // The process has none of the daemon's listeners.
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        let listeners = listening_sockets(pid);
        for target in descriptors {
            let target = target.to_string_lossy().into_owned();
            let is_listener = listeners
                .iter()
                .any(|inode| target == format!("socket:[{inode}]"));
            assert!(!is_listener, "{pid} has {target}");
        }
    }
}

/// The soft limit of open files, the adjustment for the OOM killer and the nice value.
fn limits(pid: impl std::fmt::Display) -> [String; 3] {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let limits = read("limits");
    let files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    // proc_pid_stat(5): the nice value is field 19, and the second field ends in a parenthesis.
    let stat = read("stat");
    let nice = stat.rsplit(')').next().unwrap().split(' ').nth(17);
    let score = read("oom_score_adj");
    [
        files.unwrap().split_whitespace().next().unwrap(),
        score.trim(),
        nice.unwrap(),
    ]
    .map(str::to_owned)
}

#[test]
fn the_sources_processes_have_the_limits_that_the_daemon_was_started_with() {
    let daemon = Daemon::start_as(shell(
        "ulimit -S -n 256; exec \"$HEALTHZ\" --listen 127.0.0.1:0 --connections 300 --oom-score-adj 321 \
         --check 'passwd=file:/etc/passwd'",
    ));
    let (supervisor, worker) = sources(&daemon);
    wait_for(daemon.address(), "/healthz/passwd", "ok");
    let [files, score, _] = limits(daemon.pid());
    assert!(files.parse::<u32>().unwrap() > 300, "{files}");
    assert_eq!(score, "321");
    let [_, score, nice] = limits("self");
    let expected = ["256".to_owned(), score, nice];
    assert_eq!(
        (limits(supervisor), limits(worker)),
        (expected.clone(), expected)
    );
}

/// The inode numbers of all IPv4 sockets that listen.
fn listening_sockets(pid: Pid) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let sockets = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    sockets
        .filter(|fields| fields[3] == "0A")
        .map(|fields| fields[9].to_owned())
        .collect()
}

#[test]
fn a_descriptor_that_the_daemon_inherits_does_not_reach_the_sources_processes() {
    let (_listener, check) = service("1s");
    let (reader, writer) = nix::unistd::pipe().unwrap();
    // `pipe` leaves them open for programs that are started, as a careless service manager does.
    let daemon = Daemon::start(&["--check", &check]);
    drop(writer);
    wait_for(daemon.address(), "/healthz/web", "ok");
    let name = fs::read_link(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&reader)
    ))
    .unwrap();
    let has_it = |pid| {
        let mut fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        fds.any(|fd| fs::read_link(fd.unwrap().path()).is_ok_and(|link| link == name))
    };
    assert!(has_it(daemon.pid()), "the test does not pass it on");
    let (supervisor, worker) = sources(&daemon);
    assert!(!has_it(supervisor) && !has_it(worker));
}

#[test]
fn without_a_check_no_other_process_is_started() {
    let daemon = Daemon::start(&[]);
    daemon.address();
    assert_eq!(children(daemon.pid()), []);
}
