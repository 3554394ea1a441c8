//! `examples/init.rs` as an ordinary process: services, their checks, the end. As PID 1 of a machine
//! it is tested by `tests/vm.py`.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/timeout.rs"]
mod timeout;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use timeout::TIMEOUT;

#[test]
fn a_killed_service_is_logged_and_started_again() {
    let init = Init::start("killed", "sleeper /bin/sleep 1000", "127.0.0.1:0");
    init.eventually("/healthz", "ok");
    let pid = init.line("sleeper: started, PID ", 0);
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
    init.line("sleeper: killed by signal 9; restarting in 1 s", 0);
    init.line("sleeper: started, PID ", 1);
    init.eventually("/healthz", "ok");
}

#[test]
fn a_service_that_ends_again_and_again_never_passes_and_has_a_reason() {
    // The check keeps the reason while the service is tried again: nothing here depends on timing.
    let cases = [
        ("exits", "exit 3", "exited with code 3"),
        ("killed", "kill -9 $$", "killed by signal 9"),
        ("realtime", "kill -40 $$", "killed by a real-time signal"),
    ];
    let mut list = String::from("absent /no/such/program\n");
    for (name, script, _) in cases {
        let path = path(&format!("dying-{name}.sh"));
        std::fs::write(&path, script).unwrap();
        list += &format!("{name} /bin/sh {}\n", path.display());
    }
    let init = Init::start("dying", &list, "127.0.0.1:0");
    for (name, _, why) in cases {
        init.line(&format!("{name}: {why}; restarting in 1 s"), 0);
        init.line(&format!("{name}: started, PID "), 1);
        let text = init.ask(&format!("/healthz/{name}"));
        let expected = format!("internal server error: {why}; restarting in ");
        assert!(text.starts_with(&expected), "{text}");
        // Slower each time.
        init.line(&format!("{name}: {why}; restarting in 2 s"), 0);
        init.line(&format!("{name}: {why}; restarting in 4 s"), 0);
    }
    let absent = init.ask("/healthz/absent");
    assert!(
        absent.contains("cannot be started: No such file"),
        "{absent}"
    );
    assert_eq!(init.ask("/livez"), "ok");
    assert!(init.ask("/healthz").contains("[-]absent failed"));
}

#[test]
fn an_error_in_the_list_is_a_failing_check_and_the_other_services_run() {
    let list = b"# nothing\n\nsleeper /bin/sleep 1000 # fine\n".as_slice();
    let name = "not a name of A-Z a-z 0-9 . _ / - for a check";
    let cases: [(&str, &[u8], &str); 7] = [
        ("twice", b"sleeper /bin/sleep 1", "a name that is taken"),
        ("ours", b"ping /bin/sleep 1000", "a name that is taken"),
        (
            "bare",
            b"lonely # /bin/sleep 1000",
            "a name without a program",
        ),
        ("odd", b"a//b /bin/sleep 1000", name),
        ("accent", "\u{e9} /bin/sleep 1000".as_bytes(), name),
        ("latin", b"caf\xe9 /bin/sleep 1000", "not UTF-8"),
        (
            "nul",
            b"nul /bin/sleep 10\x000",
            "a NUL byte, which an argument cannot contain",
        ),
    ];
    for (name, more, why) in cases {
        let file = path(&format!("{name}.list"));
        std::fs::write(&file, [list, more].concat()).unwrap();
        let init = Init::start_with(&[file.as_os_str(), "127.0.0.1:0".as_ref()]);
        init.eventually("/healthz/sleeper", "ok");
        let told = init.ask("/healthz/list");
        assert!(told.ends_with(&format!(":4: {why}\n")), "{told}");
    }
    let file = path("encoding.list");
    std::fs::write(&file, b"# caf\xe9\nsleeper /bin/sleep 1000 # \xff\n").unwrap();
    let init = Init::start_with(&[file.as_os_str(), "127.0.0.1:0".as_ref()]);
    init.eventually("/healthz", "ok");
    let init = Init::start_with(&[path("no-such-list").as_os_str(), "127.0.0.1:0".as_ref()]);
    let why = init.ask("/healthz/list");
    assert!(why.contains("no-such-list: No such file"), "{why}");
    assert_eq!(init.ask("/livez"), "ok");
}

#[test]
fn readyz_fails_from_the_stop_until_the_last_service_has_ended() {
    let (script, go) = (path("stopping.sh"), path("stopping.go"));
    let _ = std::fs::remove_file(&go);
    let text = format!(
        "trap 'while [ ! -e {} ]; do sleep 0.05; done; exit 0' TERM\nwhile :; do sleep 0.05; done",
        go.display()
    );
    std::fs::write(&script, text).unwrap();
    let list = format!("stubborn /bin/sh {}", script.display());
    let mut init = Init::start("stopping", &list, "127.0.0.1:0");
    init.eventually("/readyz", "ok");
    init.signal(Signal::SIGTERM);
    init.eventually(
        "/readyz/shutdown",
        "internal server error: process is shutting down\n",
    );
    assert_eq!(init.ask("/livez"), "ok");
    std::fs::write(&go, "").unwrap();
    // The services are killed if this test is delayed by more than the five seconds that the init waits for them.
    init.line("; the machine stops", 0);
    assert_eq!(init.child.wait().unwrap().code(), Some(0));
}

/// A kernel passes PID 1 the parameters that it does not know, `splash` for example, in any encoding.
#[test]
fn unknown_arguments_are_ignored() {
    let list = path("words.list");
    std::fs::write(&list, "sleeper /bin/sleep 1000").unwrap();
    let odd = OsStr::from_bytes(b"\xff");
    let (first, last) = ("splash".as_ref(), "127.0.0.1:0".as_ref());
    let init = Init::start_with(&[first, odd, list.as_os_str(), last]);
    init.line("\"splash\" is neither a path nor an address", 0);
    init.line("\"\\xFF\" is neither a path nor an address", 0);
    init.eventually("/healthz", "ok");
}

#[test]
fn the_rest_of_a_group_is_killed_when_its_service_has_ended() {
    let (script, left) = (path("leaving.sh"), path("leaving.pid"));
    let _ = std::fs::remove_file(&left);
    let text = format!(
        "trap '' TERM\nsleep 1000 & echo $! >{}\nexit 1",
        left.display()
    );
    std::fs::write(&script, text).unwrap();
    let list = format!("leaving /bin/sh {}", script.display());
    let init = Init::start("leaving", &list, "127.0.0.1:0");
    init.line("leaving: exited with code 1", 0);
    let pid = pid_in(&left);
    // The init also reaps the orphan: orphans become its children even if it is not PID 1.
    until("the end of the orphan", || match kill(pid, None) {
        Err(Errno::ESRCH) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_suspended_service_is_continued_so_that_it_can_end() {
    let script = path("paused.sh");
    let text = "trap 'exit 0' TERM\nwhile :; do sleep 0.05; done";
    std::fs::write(&script, text).unwrap();
    let list = format!("paused /bin/sh {}", script.display());
    let mut init = Init::start("paused", &list, "127.0.0.1:0");
    // It passes after it has run for a second, so the trap is set.
    init.eventually("/healthz", "ok");
    let pid: i32 = init.line("paused: started, PID ", 0).parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    until("stop", || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        if state.contains(") T ") {
            Ok(())
        } else {
            Err(state)
        }
    });
    init.signal(Signal::SIGTERM);
    init.line("paused: exited with code 0; the machine stops", 0);
    assert_eq!(init.child.wait().unwrap().code(), Some(0));
}

/// The service itself ends at once. The init waits for the other processes of its group, and then kills them.
#[test]
fn the_rest_of_a_group_is_killed_at_the_end() {
    let (script, rest) = (path("rest.sh"), path("rest.pid"));
    let _ = std::fs::remove_file(&rest);
    let text = format!(
        "(trap '' TERM; while :; do sleep 0.05; done) & echo $! >{}
        trap 'exit 0' TERM; while :; do sleep 0.05; done",
        rest.display()
    );
    std::fs::write(&script, text).unwrap();
    let list = format!("rest /bin/sh {}", script.display());
    let mut init = Init::start("rest", &list, "127.0.0.1:0");
    init.eventually("/healthz", "ok");
    init.signal(Signal::SIGTERM);
    init.line("rest: exited with code 0; the machine stops", 0);
    init.line("all services have ended", 0);
    assert_eq!(init.child.wait().unwrap().code(), Some(0));
    assert_eq!(kill(pid_in(&rest), None), Err(Errno::ESRCH));
}

#[test]
fn an_init_without_a_health_server_runs_its_services() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (name, address, why) in [
        ("taken", address.as_str(), "is in use by another process"),
        ("remote", "0.0.0.0:0", "can be reached from other machines"),
        ("nowhere", "nowhere:", "expected an address"),
    ] {
        let mut init = Init::start(name, "sleeper /bin/sleep 1000", address);
        assert!(init.line("no health server: ", 0).contains(why));
        init.line("sleeper: started, PID ", 0);
        init.signal(Signal::SIGINT);
        init.line("sleeper: killed by signal 15; the machine stops", 0);
        assert_eq!(init.child.wait().unwrap().code(), Some(0));
    }
}

/// A running init. When dropped it gets a signal to stop, so that its services do not outlive it.
struct Init {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Init {
    fn start(name: &str, list: &str, address: &str) -> Self {
        let file = path(&format!("{name}.list"));
        std::fs::write(&file, list).unwrap();
        Self::start_with(&[file.as_os_str(), address.as_ref()])
    }

    fn start_with(words: &[&OsStr]) -> Self {
        // Next to the directory of this test's own program.
        let program = std::env::current_exe().unwrap();
        let program = program.ancestors().nth(2).unwrap().join("examples/init");
        let mut child = Command::new(&program)
            .args(words)
            .stdin(Stdio::null())
            // A service that outlives a failing test must not keep the test's output open.
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; cargo test builds it", program.display()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let theirs = lines.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                theirs.lock().unwrap().push(line);
            }
        });
        Init { child, lines }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for the line with index `number` (from 0) among those that contain `text`. Returns what follows the
    /// text.
    fn line(&self, text: &str, number: usize) -> String {
        until(text, || {
            let lines = self.lines.lock().unwrap();
            let mut ends = lines.iter().filter_map(|line| line.split_once(text));
            ends.nth(number)
                .map(|(_, end)| end.to_owned())
                .ok_or(lines.join("\n"))
        })
    }

    /// The body of the answer.
    fn ask(&self, path: &str) -> String {
        let address = self.line("health is answered on ", 0);
        let address: SocketAddr = address.parse().unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        body.to_owned()
    }

    fn eventually(&self, path: &str, body: &str) {
        until(&format!("{body:?} from {path}"), || {
            let answer = self.ask(path);
            if answer == body { Ok(()) } else { Err(answer) }
        });
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

fn until<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(last) => assert!(started.elapsed() < TIMEOUT, "no {what}, but:\n{last}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pid_in(file: &Path) -> Pid {
    let text = std::fs::read_to_string(file).unwrap();
    Pid::from_raw(text.trim().parse().unwrap())
}

/// The path of a file that only these tests use.
fn path(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("init");
    std::fs::create_dir_all(&directory).unwrap();
    directory.join(name)
}
