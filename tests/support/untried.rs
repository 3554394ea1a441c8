// Included by tests in tests/ and in src/. A test that this machine cannot run reports it here.

/// Reports that the calling test was skipped, or ran only in part. `.ci/run` lists `reason` at its end. It
/// reads the file named by `HEALTHZ_UNTRIED`, because the output of a test that passes is not shown.
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
