//! What the tests of the kinds share: a directory of their own, and a process of their own.

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use super::system::System;
use crate::sources::spec::Outcome;

include!("../../../tests/support/untried.rs");

/// A directory that is removed with its contents.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("healthz-kinds-{}-{number}", process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Directory(path)
    }

    /// The path of `name`.
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file, with the directories above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// All figures of the kernel from this directory.
    pub fn system(&self) -> System<'_> {
        System {
            proc: &self.0,
            cgroup: &self.0,
            thermal: &self.0,
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file system on which every path hangs: nothing reads the requests of the kernel. They fail when it is dropped.
pub struct Hanging {
    root: PathBuf,
    _device: fs::File,
}

impl Hanging {
    /// Makes the directory `root`, and mounts it there, in the mount namespace of this process. Needs root.
    pub fn mount(root: PathBuf) -> Option<Hanging> {
        let mut options = fs::File::options();
        let Ok(device) = options.read(true).write(true).open("/dev/fuse") else {
            untried("this kernel has no FUSE");
            return None;
        };
        fs::create_dir(&root).unwrap();
        let number = device.as_raw_fd();
        let data = format!("fd={number},rootmode=40000,user_id=0,group_id=0");
        let flags = nix::mount::MsFlags::empty();
        let (source, kind) = (Some("hangs"), Some("fuse"));
        nix::mount::mount(source, &root, kind, flags, Some(data.as_str())).unwrap();
        Some(Hanging {
            root,
            _device: device,
        })
    }

    /// The path of `name`.
    pub fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        nix::mount::umount2(&self.root, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

/// The reason of a failure.
pub fn reason(outcome: Outcome) -> String {
    match outcome {
        Outcome::Fail(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// Runs the test that calls it once more, in a process of its own, which the command line `around` starts. Returns
/// true in that process, and false in the first one, after the other has passed. Returns false too if `around`
/// does not work here, which needs root for most.
pub fn in_own_process(test: &str, around: &[&str]) -> bool {
    const NAME: &str = "HEALTHZ_TEST_PROCESS";
    if env::var_os(NAME).is_some_and(|name| name == test) {
        return true;
    }
    let command = |program: &OsStr| {
        let mut words = around.iter().map(OsStr::new).chain([program]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdin(Stdio::null());
        command
    };
    let own = env::current_exe().unwrap();
    if !around.is_empty() {
        let tried = command(own.as_os_str()).arg("--list").output();
        if !tried.is_ok_and(|tried| tried.status.success()) {
            untried(&format!("{} does not work here", around.join(" ")));
            return false;
        }
    }
    let path = module_path!().split_once("::").unwrap().1;
    let test_path = format!("{}::{test}", path.rsplit_once("::").unwrap().0);
    let output = command(own.as_os_str())
        .args(["--exact", &test_path, "--nocapture"])
        .env(NAME, test)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{errors}"
    );
    false
}
