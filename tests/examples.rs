//! Starts example programs as a user does, sends them requests, and ends them.
//!
//! Some are elsewhere: `init` in tests/init.rs, `profile` in tests/clients.py, `quickstart` in tests/documents.py, and
//! the server of `smoltcp` in tests/smoltcp.rs.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/timeout.rs"]
mod timeout;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use timeout::TIMEOUT;

/// A running example. It is killed when dropped.
struct Example {
    child: Child,
    path: PathBuf,
}

impl Example {
    fn start(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("healthz-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        // In the directory next to this test's. `cargo test` builds the examples first.
        let test = std::env::current_exe().unwrap();
        let target = test.parent().and_then(Path::parent).unwrap();
        let program = target.join("examples").join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples")
            .join(name);
        assert!(
            changed(&program) > changed(&source.with_extension("rs")),
            "{name} is not built, which `cargo test` does, or `cargo build --examples`"
        );
        let child = Command::new(program)
            .arg(format!("unix:{}", path.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Example { child, path }
    }

    /// Connects as soon as the example listens.
    fn connect(&mut self) -> UnixStream {
        let started = Instant::now();
        loop {
            if let Ok(stream) = UnixStream::connect(&self.path) {
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                return stream;
            }
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "the example has exited"
            );
            assert!(
                started.elapsed() < TIMEOUT,
                "nothing listens at {:?}",
                self.path
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn get(&mut self, target: &str) -> String {
        request(&mut self.connect(), target)
    }

    /// Sends requests until the answer ends with `end`: the program may not have read its input yet.
    fn wait_for(&mut self, target: &str, end: &str) {
        let started = Instant::now();
        loop {
            let answer = self.get(target);
            if answer.ends_with(end) {
                return;
            }
            assert!(
                started.elapsed() < TIMEOUT,
                "timed out; last answer: {answer}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Closes the example's input, waits for its exit, and returns the last line of its output.
    fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let mut text = String::new();
        let mut out = self.child.stdout.take().unwrap();
        out.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
        assert!(!self.path.exists(), "the socket file still exists");
        text.lines().last().unwrap_or_default().to_owned()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The time of the last change of a file; `None` if there is no file.
fn changed(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|file| file.modified()).ok()
}

fn request(stream: &mut UnixStream, target: &str) -> String {
    let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_run_example_serves() {
    assert_serves("run");
}

#[test]
fn the_statics_example_serves() {
    assert_serves("statics");
}

#[track_caller]
fn assert_serves(name: &str) {
    let mut example = Example::start(name);
    for _ in 0..20 {
        assert!(example.get("/livez").ends_with("\r\n\r\nok"));
    }
}

/// For the examples whose own work is to read lines: the check fails before the first line and passes
/// after it. The program ends when its input ends.
#[track_caller]
fn assert_serves_during_other_work(name: &str) {
    const REQUESTS: usize = 20;
    let mut example = Example::start(name);
    let unknown = "\r\n\r\ninternal server error: not reported yet\n";
    let answer = example.get("/healthz/lines");
    assert!(answer.ends_with(unknown), "{answer}");
    example
        .child
        .stdin
        .as_ref()
        .unwrap()
        .write_all(b"x\n")
        .unwrap();
    example.wait_for("/healthz/lines", "\r\n\r\nok");
    // All at once: a loop that gets one event for several connections must serve all of them.
    let mut probes: Vec<_> = (0..REQUESTS).map(|_| example.connect()).collect();
    let head = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..3 {
        for probe in &mut probes {
            probe.write_all(head).unwrap();
        }
        for probe in &mut probes {
            let mut answer = [0; 1024];
            let size = probe.read(&mut answer).unwrap();
            let answer = String::from_utf8_lossy(answer.get(..size).unwrap_or_default());
            assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
        }
    }
    // At its end the server waits for a connection with an unfinished request, and closes idle ones.
    let mut busy = example.connect();
    busy.write_all(b"GET /healthz HTTP/1.0\r\n").unwrap();
    example.get("/healthz");
    drop(example.child.stdin.take());
    let mut end = Vec::new();
    for probe in &mut probes {
        probe.read_to_end(&mut end).unwrap();
    }
    assert!(end.is_empty());
    busy.write_all(b"\r\n").unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    let last = example.end();
    let count = last.strip_suffix(" requests answered");
    let count: usize = count.and_then(|count| count.parse().ok()).unwrap();
    assert!(count >= 3 * REQUESTS + 4, "{last}");
}

#[test]
fn the_spawn_example_serves_while_the_main_thread_waits() {
    assert_serves_during_other_work("spawn");
}

#[test]
fn the_mio_example_serves_in_its_own_poll() {
    assert_serves_during_other_work("mio");
}

#[test]
fn the_poll_example_serves_from_a_loop_around_poll() {
    assert_serves_during_other_work("poll");
}

#[test]
fn the_tokio_example_serves_inside_a_runtime() {
    assert_serves_during_other_work("tokio");
}

#[test]
fn the_reload_example_adds_and_removes_checks_while_it_serves() {
    let mut example = Example::start("reload");
    let input = |example: &Example, line: &[u8]| {
        example
            .child
            .stdin
            .as_ref()
            .unwrap()
            .write_all(line)
            .unwrap();
    };
    let end = "\r\n\r\nhealthz check passed\n";
    assert!(example.get("/healthz?verbose").ends_with(end));
    input(&example, b"disk network\n");
    let end = "\r\n\r\n[+]disk ok\n[+]network ok\nhealthz check passed\n";
    example.wait_for("/healthz?verbose", end);
    // A list that is invalid changes nothing.
    input(&example, b"disk disk\n");
    input(&example, b"cpu disk\n");
    let end = "\r\n\r\n[+]cpu ok\n[+]disk ok\nhealthz check passed\n";
    example.wait_for("/healthz?verbose", end);
    assert!(example.get("/healthz/network").starts_with("HTTP/1.1 404 "));
    assert!(example.end().ends_with(" requests answered"));
}

#[test]
fn the_paths_example_answers_its_own_paths_and_those_of_healthz() {
    let mut example = Example::start("paths");
    let version = concat!("\r\n\r\npaths ", env!("CARGO_PKG_VERSION"), "\n");
    assert!(example.get("/version").ends_with(version));
    assert!(example.get("/lines").ends_with("\r\n\r\n0\n"));
    assert!(example.get("/healthz").starts_with("HTTP/1.1 500 "));
    let mut input = example.child.stdin.as_ref().unwrap();
    input.write_all(b"a\nb\n").unwrap();
    example.wait_for("/lines", "\r\n\r\n2\n");
    example.wait_for("/healthz", "\r\n\r\nok");
    assert!(example.get("/other").starts_with("HTTP/1.1 404 "));
    assert!(example.end().ends_with(" requests answered"));
}

#[test]
fn the_calloop_example_serves_from_a_loop_with_only_shared_references() {
    assert_serves_during_other_work("calloop");
}
