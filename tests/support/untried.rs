// Included by tests of the daemon, in tests/ and in src/: a test that cannot try what it is for says so.

/// The calling test could not be tried here, or only in part. `.ci/run` lists `reason` at its end: it names
/// a file in `HEALTHZ_UNTRIED`, because the output of a test that passes is not shown.
pub fn untried(reason: &str) {
    println!("skipped: {reason}");
    let Some(path) = std::env::var_os("HEALTHZ_UNTRIED") else {
        return;
    };
    // libtest names a test's thread after it.
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("unnamed"));
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path);
    // One write a line: other tests append to the same file.
    file.and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()))
        .unwrap();
}
