//! Counts instructions and system calls per request, with callgrind and strace.
//!
//! Each figure is the difference of two runs that differ only in the number of requests, divided by that
//! difference. So it does not include what a program does once, at its start and its end.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::server::{self, Client, Heads, ServerProcess, Setup};

/// Requests in the shorter and in the longer run with a server.
const SERVER_RUNS: [u64; 2] = [300, 1300];

/// What to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Instructions in user space, by callgrind.
    Instructions,
    /// System calls, by strace.
    SystemCalls,
}

impl Counter {
    pub fn program(self) -> &'static str {
        match self {
            Counter::Instructions => "valgrind",
            Counter::SystemCalls => "strace",
        }
    }

    /// True if the program is installed. Otherwise prints what to install.
    pub fn is_available(self) -> bool {
        let program = self.program();
        let mut version = Command::new(program);
        let version = version.arg("--version").stdout(Stdio::null());
        let is_available = version.status().is_ok_and(|status| status.success());
        if !is_available {
            let what = match self {
                Counter::Instructions => "instructions",
                Counter::SystemCalls => "system calls",
            };
            eprintln!(
                "{what} are not counted: {program} is not installed; run apt-get install {program}"
            );
        }
        is_available
    }

    /// Counts a run of the bench program itself with `arguments`. `run` must start the command and return
    /// after it has ended.
    fn of_run(self, arguments: &[String], run: impl FnOnce(Command)) -> u64 {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run_number = RUNS.fetch_add(1, Ordering::Relaxed);
        let name = format!("healthz-bench-{}-{run_number}", std::process::id());
        let file = TemporaryFile(std::env::temp_dir().join(name));
        let mut command = Command::new(self.program());
        match self {
            Counter::Instructions => command
                .args(["-q", "--tool=callgrind"])
                .arg(format!("--callgrind-out-file={}", file.0.display())),
            Counter::SystemCalls => command
                .args(["-f", "-c", "-U", "calls,name", "-o"])
                .arg(&file.0),
        };
        command
            .arg(std::env::current_exe().unwrap())
            .args(arguments);
        run(command);
        let text = std::fs::read_to_string(&file.0).unwrap_or_default();
        let total = match self {
            Counter::Instructions => text
                .lines()
                .find_map(|line| line.strip_prefix("totals: "))
                .and_then(|total| total.trim().parse().ok()),
            Counter::SystemCalls => text
                .lines()
                .find_map(|line| line.trim().strip_suffix(" total"))
                .and_then(|total| total.trim().parse().ok()),
        };
        let program = self.program();
        total.unwrap_or_else(|| {
            panic!("{program} printed no count; is it allowed to trace programs here?")
        })
    }

    /// The count per request of a program that takes the number of requests as its last argument and needs
    /// no client.
    pub fn of_requests(self, arguments: &[&str], runs: [u64; 2]) -> f64 {
        let counts = runs.map(|requests| {
            let requests = requests.to_string();
            let arguments = arguments.iter().map(|word| word.to_string());
            let arguments: Vec<String> = arguments.chain([requests]).collect();
            self.of_run(&arguments, |mut command| {
                let status = command.stdout(Stdio::null()).status().unwrap();
                assert!(status.success(), "{command:?}");
            })
        });
        per_request(counts, runs)
    }

    /// The count per request of a whole server, with one keep-alive connection and `depth` pipelined
    /// requests.
    pub fn of_server_keep_alive(self, depth: usize, heads: Heads) -> f64 {
        self.of_server(|server, requests| {
            let mut client = Client::connect(server.address, depth, heads);
            let batches = requests / depth as u64;
            for _ in 0..batches {
                client.request();
            }
            // The client is dropped here, so that the server closes the connection before it stops.
            1 + batches * depth as u64
        })
    }

    /// The count per request of a whole server, with a new connection for each request.
    pub fn of_server_close(self, heads: Heads) -> f64 {
        self.of_server(|server, requests| {
            for index in 0..requests {
                server::request_and_close(server.address, heads, index);
            }
            requests
        })
    }

    /// `send` makes about that many requests and returns how many it made.
    fn of_server(self, send: impl Fn(&ServerProcess, u64) -> u64) -> f64 {
        let mut sent = [0; 2];
        let mut runs = SERVER_RUNS.into_iter().zip(&mut sent);
        let counts = [(); 2].map(|()| {
            let (requests, sent) = runs.next().unwrap();
            self.of_run(&Setup::KUBELET.arguments(), |command| {
                let server = ServerProcess::spawn(command);
                *sent = send(&server, requests);
                assert_eq!(server.stop().answered, *sent, "requests answered");
            })
        });
        per_request(counts, sent)
    }
}

fn per_request(counts: [u64; 2], requests: [u64; 2]) -> f64 {
    let [shorter, longer] = counts;
    assert!(
        longer > shorter,
        "the longer of two runs with {requests:?} requests has no larger count: {counts:?}"
    );
    (longer - shorter) as f64 / (requests[1] - requests[0]) as f64
}

/// A file that is removed when this is dropped.
struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
