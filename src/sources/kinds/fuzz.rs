//! The fuzz target `procfs`: the parsers of /proc, /sys and pid files, compared with what they parsed.
//!
//! Called by `fuzz/` with random bytes, and by `cargo test` with the corpus. The fuzz target compiles this file
//! and `procfs.rs` into itself, because a crate cannot depend on a program.

use super::procfs;

/// Asserts, for a text of any bytes:
/// - What a parser accepts occurs in the text, and is accepted again when it is written as the kernel does.
/// - Numbers agree with std's parser, and are within their bounds.
pub fn procfs(text: &[u8]) {
    numbers(text);
    figures(text);
    stat(text);
    mounts(text);
    users(text);
    for pid in procfs::children(text) {
        assert!((1..=procfs::PID_MAX).contains(&pid));
    }
    if let Some(path) = procfs::cgroup(text) {
        assert!(path.starts_with(b"/") && !path.contains(&b'\n'));
        let line = [b"0::", path, b"\n"].concat();
        assert_eq!(procfs::cgroup(&line), Some(path));
    }
}

fn numbers(text: &[u8]) {
    let trimmed = std::str::from_utf8(text.trim_ascii()).ok();
    // std accepts a plus sign.
    let is_plain = !text.contains(&b'+');
    let want = trimmed
        .filter(|_| is_plain)
        .and_then(|text| text.parse::<u64>().ok());
    assert_eq!(procfs::number(text), want);
    let want = trimmed
        .filter(|_| is_plain)
        .and_then(|text| text.parse::<i64>().ok());
    assert_eq!(procfs::signed(text), want);
    match procfs::limit(text) {
        Some(None) => assert_eq!(trimmed, Some("max")),
        Some(limit) => assert_eq!(limit, procfs::number(text)),
        None => assert_eq!(procfs::number(text), None),
    }
    if let Some(id) = procfs::id(text) {
        assert!(id < u32::MAX && procfs::number(text) == Some(id.into()));
    }
    if let Some(pid) = procfs::pid(text) {
        assert!((1..=procfs::PID_MAX).contains(&pid));
        assert_eq!(procfs::pid(pid.to_string().as_bytes()), Some(pid));
        let file = [pid.to_string().as_bytes(), b"\nmore"].concat();
        assert_eq!(procfs::pid_file(&file), Some(pid));
    }
    let first = text.split(|byte| *byte == b'\n').next().unwrap();
    assert_eq!(procfs::pid_file(text), procfs::pid(first));
}

fn figures(text: &[u8]) {
    if let Some((total, available)) = procfs::meminfo(text) {
        assert!(total % 1024 == 0 && available % 1024 == 0);
        let (total_kib, kib) = (total / 1024, available / 1024);
        let written = format!("MemTotal: {total_kib} kB\nMemFree: 1 kB\nMemAvailable: {kib} kB\n");
        assert_eq!(
            procfs::meminfo(written.as_bytes()),
            Some((total, available))
        );
    }
    if let Some(value) = procfs::named(text, b"inactive_file") {
        let written = format!("anon 1\ninactive_file {value}\n");
        assert_eq!(
            procfs::named(written.as_bytes(), b"inactive_file"),
            Some(value)
        );
    }
    if let Some(count) = procfs::thread_count(text) {
        let written = format!("0.00 0.01 0.05 1/{count} 4711\n");
        assert_eq!(procfs::thread_count(written.as_bytes()), Some(count));
    }
    if let Some((used, limit)) = procfs::file_nr(text) {
        let written = format!("{used}\t0\t{limit}\n");
        assert_eq!(procfs::file_nr(written.as_bytes()), Some((used, limit)));
    }
    if let Some(Some(limit)) = procfs::open_files_limit(text) {
        let written = format!("Max open files            {limit}                 1 files     \n");
        assert_eq!(
            procfs::open_files_limit(written.as_bytes()),
            Some(Some(limit))
        );
    }
}

fn stat(text: &[u8]) {
    let Some(stat) = procfs::stat(text) else {
        return;
    };
    assert!((1..=procfs::PID_MAX).contains(&stat.pid));
    assert!(stat.parent >= 0 && stat.group >= 0);
    let start = [stat.pid.to_string().as_bytes(), b" (", stat.comm, b") "].concat();
    let flags = if stat.is_kernel_thread() {
        0x20_0000
    } else {
        0
    };
    let (state, parent, group) = (char::from(stat.state), stat.parent, stat.group);
    if !state.is_ascii() {
        return;
    }
    let (threads, ticks) = (stat.threads, stat.start);
    let rest = format!(
        "{state} {parent} {group} 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 {ticks} 0\n"
    );
    let written = [start, rest.into_bytes()].concat();
    let again = procfs::stat(&written).expect("a line that was written");
    assert_eq!(
        (again.pid, again.comm, again.state),
        (stat.pid, stat.comm, stat.state)
    );
    assert_eq!((again.parent, again.group), (parent, group));
    assert_eq!((again.threads, again.start), (threads, ticks));
    assert_eq!(again.is_kernel_thread(), stat.is_kernel_thread());
    assert_eq!(again.is_dead(), stat.is_dead());
}

fn mounts(text: &[u8]) {
    for line in text.split(|byte| *byte == b'\n') {
        let Some(mount) = procfs::mount(line) else {
            continue;
        };
        assert!(mount.point.starts_with(b"/"));
        let point = escaped(&mount.point);
        let flag = if mount.is_writable { "rw" } else { "ro" };
        let end = format!(" {flag},noatime shared:1 - ext4 /dev/sda1 rw");
        let written = [b"22 1 8:1 / ", point.as_slice(), end.as_bytes()].concat();
        let again = procfs::mount(&written).expect("a line that was written");
        assert_eq!(again, mount);
    }
    // Any path is found.
    let path = [b"/", text].concat();
    let end = b" rw - tmpfs tmpfs rw".as_slice();
    let line = [b"22 1 8:1 / ", escaped(&path).as_slice(), end].concat();
    let mount = procfs::mount(&line).expect("a line that was written");
    assert_eq!(mount.point, path);
}

/// As the kernel writes a path (show_mountinfo).
fn escaped(path: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in path {
        match matches!(byte, b' ' | b'\t' | b'\n' | b'\\' | b'#') {
            true => escaped.extend(format!("\\{byte:03o}").bytes()),
            false => escaped.push(*byte),
        }
    }
    escaped
}

fn users(text: &[u8]) {
    for line in text.split(|byte| *byte == b'\n') {
        if let Some(user) = procfs::user(line) {
            assert!(!user.name.is_empty() && line.starts_with(user.name));
            let end = format!(":x:{}:{}::/:/bin/sh", user.uid, user.gid);
            let written = [user.name, end.as_bytes()].concat();
            assert_eq!(procfs::user(&written), Some(user));
        }
        if let Some(gid) = procfs::group_with(line, b"ada") {
            assert!(line.windows(3).any(|part| part == b"ada"));
            let written = format!("x:x:{gid}:eve,ada");
            assert_eq!(procfs::group_with(written.as_bytes(), b"ada"), Some(gid));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus_of_procfs_has_no_finding() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        // Cargo adds this file to a published crate, which has no corpus.
        if root.join("Cargo.toml.orig").exists() {
            println!("no corpus in a published crate");
            return;
        }
        let directory = &root.join("fuzz/corpus/procfs");
        let mut count = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            // The test prints it if it fails.
            println!("{}", path.display());
            super::procfs(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 20, "only {count} inputs in {directory:?}");
    }
}
