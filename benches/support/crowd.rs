//! Attackers in a separate process: the bench's own program, started again with `--child attack`.
//!
//! For each line of its standard input, the process prints how many connections it has made. It ends when its
//! standard input ends.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::attack::{self, Attack};

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// `--child attack NAME ADDRESS COUNT AGAIN`, where AGAIN is in seconds. Prints a line when all attackers are
/// connected, and at the end how many connections they made.
pub fn serve(name: &str, address: &str, count: &str, again: &str) {
    let attack: Attack = name.parse().unwrap();
    let (address, count): (SocketAddr, usize) = (address.parse().unwrap(), count.parse().unwrap());
    let again = Duration::from_secs(again.parse().unwrap());
    let made = Arc::new(AtomicU64::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let (seen, ended) = (made.clone(), is_over.clone());
    std::thread::spawn(move || {
        while seen.load(Ordering::Relaxed) < count as u64 {
            std::thread::sleep(POLL_INTERVAL);
        }
        println!("connected");
        for _ in io::stdin().lines() {
            println!("{}", seen.load(Ordering::Relaxed));
        }
        ended.store(true, Ordering::Relaxed);
    });
    attack::run(attack, address, count, again, &made, &is_over).unwrap();
    println!("{}", made.load(Ordering::Relaxed));
}

/// The process of the attackers.
pub struct Crowd {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Crowd {
    /// Returns when all attackers are connected. After an eviction, an attacker connects again `again` seconds later.
    pub fn start(attack: Attack, address: SocketAddr, count: usize, again: u64) -> Crowd {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--child", "attack", attack.name()])
            .args([address.to_string(), count.to_string(), again.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "connected\n", "not all attackers connected");
        Crowd { child, output }
    }

    /// How many connections they have made so far.
    pub fn made(&mut self) -> u64 {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(b"\n").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }

    /// Ends the attack. Returns how many connections the attackers made.
    pub fn stop(&mut self) -> u64 {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "the attackers failed");
        text.trim().parse().unwrap()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // After stop() the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
