//! Only a mistake of the caller at construction panics. A list here names every `# Panics` section of the
//! documentation, the tests cause each of these panics, and no other value of an argument panics.
//! `.ci/panics` looks for panics that the compiler leaves on request paths.
#![cfg(test)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use healthz::http::{Connection, Context, Date, HeadCache, Next};
use healthz::limits::CHECK_NAME_BYTES_MAX;
use healthz::{Check, Endpoint, Instant, Limits, Responder};

/// Functions with a `# Panics` section. The private ones are called by public ones in this list.
const DOCUMENTED: [(&str, &[&str]); 4] = [
    ("src/check/endpoint.rs", &["new", "kubernetes"]),
    (
        "src/check/mod.rs",
        &["manual", "heartbeat", "gate", "group"],
    ),
    (
        "src/server/mod.rs",
        &["new", "with_endpoint_set", "with_memory", "register"],
    ),
    ("src/server/slots.rs", &["new", "in_memory"]),
];

/// The number of assertions that a release build has too, without those of tests and constants.
const ASSERTED: [(&str, usize); 7] = [
    // In `Family::new`, which only makes constants, so it fails when the library is compiled.
    ("src/answer/metrics.rs", 1),
    ("src/check/endpoint.rs", 3),
    ("src/check/mod.rs", 2),
    ("src/server/config.rs", 2),
    ("src/server/mod.rs", 1),
    ("src/server/slots.rs", 1),
    ("src/server/table.rs", 1),
];

static PING: Check = Check::ping();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);

/// The panic message of `make`.
#[track_caller]
fn panic_of<T>(make: impl FnOnce() -> T) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(make)) else {
        panic!("does not panic");
    };
    let text = panic.downcast_ref::<String>().cloned();
    text.unwrap_or_else(|| panic.downcast_ref::<&str>().copied().unwrap().into())
}

#[test]
fn invalid_check_and_path_names_panic_at_construction() {
    let long: &'static str = "x".repeat(CHECK_NAME_BYTES_MAX + 1).leak();
    for bad in ["", "a b", "a//b", "..", long] {
        let makers: [&dyn Fn() -> Check; 4] = [
            &|| Check::manual(bad),
            &|| Check::heartbeat(bad, Duration::MAX),
            &|| Check::gate(bad),
            &|| Check::ping().group(bad),
        ];
        for make in makers {
            let text = panic_of(make);
            assert!(text.contains("name is 1 to 127 bytes"), "{text}");
        }
        let path = format!("/{bad}");
        assert!(panic_of(|| Endpoint::new(&path, &[])).contains("path is / and then"));
    }
    assert!(panic_of(|| Endpoint::new("healthz", &[])).contains("path is / and then"));
}

#[cfg(feature = "server")]
#[test]
fn settings_out_of_bounds_panic_at_construction() {
    use healthz::limits::{CONNECTIONS_MAX, REQUEST_HEAD_BYTES_MAX, REQUEST_HEAD_BYTES_MIN};
    use healthz::server::{Config, Listeners, Memory, Server, Slot, TOKENS};

    let responder = Responder::new(&ENDPOINTS);
    let heads = |request_head_bytes| Limits {
        request_head_bytes,
        ..Limits::DEFAULT
    };
    let new = |connections, limits| {
        let config = Config {
            limits,
            connections,
            ..Config::default()
        };
        Server::new(responder, Listeners::new(), config)
    };
    for connections in [0, CONNECTIONS_MAX + 1, usize::MAX] {
        let text = panic_of(|| new(connections, Limits::DEFAULT));
        assert_eq!(text, "connections is from 1 to 65,535");
    }
    let (least, most) = (REQUEST_HEAD_BYTES_MIN, REQUEST_HEAD_BYTES_MAX);
    let (mut slots, mut bytes) = (vec![Slot::new()], vec![0; 200_000]);
    for bad in [0, least - 1, most + 1, usize::MAX] {
        let text = panic_of(|| new(1, heads(bad)));
        assert_eq!(text, "request_head_bytes is from 512 to 65,535");
        let memory = Memory {
            slots: &mut slots,
            bytes: &mut bytes,
            heads: &mut HeadCache::new(),
        };
        let listeners = Listeners::new();
        let text = panic_of(|| Server::with_memory(responder, listeners, heads(bad), memory));
        assert_eq!(text, "request_head_bytes is from 512 to 65,535");
    }
    for count in [0, CONNECTIONS_MAX + 1] {
        let mut slots: Vec<_> = (0..count).map(|_| Slot::new()).collect();
        let memory = Memory {
            slots: &mut slots,
            bytes: &mut bytes,
            heads: &mut HeadCache::new(),
        };
        let limits = Limits::DEFAULT;
        let text = panic_of(|| Server::with_memory(responder, Listeners::new(), limits, memory));
        assert_eq!(text, "connections is from 1 to 65,535");
    }
    let memory = Memory {
        slots: &mut slots,
        bytes: &mut [0; 9],
        heads: &mut HeadCache::new(),
    };
    let limits = Limits::DEFAULT;
    let text = panic_of(|| Server::with_memory(responder, Listeners::new(), limits, memory));
    assert!(text.ends_with("are needed"), "{text}");
    // The minimum and the maximum are accepted.
    for (connections, head_bytes) in [(1, least), (CONNECTIONS_MAX, least), (1, most)] {
        drop(new(connections, heads(head_bytes)));
    }

    let poll = mio::Poll::new().unwrap();
    let last = (1 << 20) - 1 - TOKENS;
    for bad in [last + 1, 1 << 20, usize::MAX] {
        let mut server = new(1, Limits::DEFAULT);
        let text = panic_of(|| server.register(poll.registry(), mio::Token(bad)));
        assert!(text.contains("leaves no room"), "{text}");
    }
    let mut server = new(1, Limits::DEFAULT);
    server.register(poll.registry(), mio::Token(last)).unwrap();
}

#[cfg(feature = "server")]
#[test]
fn memory_bytes_max_never_panics() {
    use healthz::server::Config;
    let responder = Responder::new(&ENDPOINTS);
    for connections in [0, 1, 65_535, usize::MAX] {
        for request_head_bytes in [0, 8192, usize::MAX / 2, usize::MAX] {
            let limits = Limits {
                request_head_bytes,
                ..Limits::DEFAULT
            };
            let config = Config {
                limits,
                connections,
                response_bytes_min: 0,
                long_response_bytes_min: 0,
            };
            let bytes = config.memory_bytes_max(&responder);
            assert!(bytes >= config.buffer_bytes(&responder));
            assert!(bytes >= responder.response_bytes_max(&limits));
        }
    }
}

#[test]
fn no_instant_and_no_date_panics() {
    let times = [0, 1, 2, 3, 1 << 40, u64::MAX - 2, u64::MAX - 1, u64::MAX];
    let times = times.map(Instant::from_millis);
    for limit in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let check = Check::heartbeat("loop", limit);
        for beat in times {
            check.beat(beat);
            for now in times {
                let _ = (check.health(now), check.reason(now));
                let _ = (beat.saturating_add(limit), beat.saturating_since(now));
            }
        }
    }
    for seconds in [0, 1 << 31, 1 << 32, 253_402_300_800, u64::MAX] {
        let _ = Date::from_unix_seconds(seconds);
    }
}

/// The caller passes `Limits` and buffers with each call, so no constructor of `Connection` can refuse them.
#[test]
fn no_limits_and_no_buffer_sizes_make_a_connection_panic() {
    let long = format!(
        "GET /healthz?{} HTTP/1.1\r\nHost: a\r\n\r\n",
        "x".repeat(1 << 18)
    );
    let requests = [
        "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET //healthz?verbose&exclude=a HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\nx",
        "GET /hea",
        "\r\n\r\n",
        &long,
    ];
    let durations = [Duration::ZERO, Duration::MAX];
    let responder = Responder::new(&ENDPOINTS);
    let mut closed = 0;
    for (head_bytes, drain_bytes) in [(0, 0), (1, u64::MAX), (usize::MAX, 1), (512, u64::MAX)] {
        for duration in durations {
            let limits = Limits {
                request_head_bytes: head_bytes,
                body_drain_bytes: drain_bytes,
                head_duration: duration,
                idle_duration: duration,
                drain_duration: duration,
            };
            for (size, now) in [(0, Instant::ZERO), (1, Instant::MAX), (4096, Instant::ZERO)] {
                for request in &requests {
                    let context = Context {
                        now,
                        date: None,
                        limits: &limits,
                        is_last: false,
                        tx_bytes_max: 0,
                    };
                    let (mut tx, mut heads) = (vec![0; size], HeadCache::new());
                    let mut connection = Connection::new(now);
                    let progress = connection.receive_cached(
                        &context,
                        &mut heads,
                        request.as_bytes(),
                        &mut tx,
                        &mut |request, writer| responder.respond(now, request, writer),
                    );
                    let rest = request.as_bytes().get(progress.consumed..).unwrap();
                    assert!(progress.written <= size);
                    let _ = connection.expire(&context, rest, &mut tx);
                    let end = connection.receive_end(&context, rest, &mut tx);
                    closed += usize::from(matches!(end.next, Next::Close { .. }));
                }
            }
        }
    }
    assert_eq!(closed, 4 * 2 * 3 * requests.len());
}

#[test]
fn documented_panics_and_assertions_match_the_lists() {
    let mut documented = Vec::new();
    let mut asserted = Vec::new();
    for file in library() {
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        let text = without_tests(&text);
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        let names: Vec<String> = lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.starts_with("/// # Panics"))
            .map(|(at, _)| function_after(lines.get(at..).unwrap()))
            .collect();
        let count = lines.iter().filter(|line| can_panic(line)).count();
        let file = file.to_str().unwrap().to_owned();
        if !names.is_empty() {
            documented.push((file.clone(), names));
        }
        if count > 0 {
            asserted.push((file, count));
        }
    }
    documented.sort();
    asserted.sort();
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let expected: Vec<(String, Vec<String>)> = DOCUMENTED
        .iter()
        .map(|(file, names)| ((*file).to_owned(), owned(names)))
        .collect();
    assert_eq!(documented, expected);
    let expected = ASSERTED.map(|(file, count)| (file.to_owned(), count));
    assert_eq!(asserted, expected);
    assert!(can_panic("x.unwrap();") && can_panic("assert!(") && !can_panic("debug_assert!("));
}

/// Methods of slices that panic if a length or index does not fit. Clippy only finds `[..]`.
const SLICE_METHODS: [&str; 11] = [
    ".copy_from_slice(",
    ".clone_from_slice(",
    ".copy_within(",
    ".swap_with_slice(",
    ".rotate_left(",
    ".rotate_right(",
    ".split_at(",
    ".split_at_mut(",
    ".swap(",
    ".chunks(",
    ".windows(",
];

/// The files that call these methods, the number of calls, and why the lengths fit.
const SLICE_CALLS: [(&str, usize, &str); 4] = [
    (
        "src/check/reason.rs",
        3,
        "the swap of an atomic; chunks of 8 bytes from chunks_exact",
    ),
    (
        "src/http/cache.rs",
        1,
        "the destination was cut to the length of rx",
    ),
    (
        "src/http/response.rs",
        6,
        "push, copy_parts, overwrite and head cut both slices to one length; finish rotates and moves parts of the bytes already written",
    ),
    (
        "src/server/buffers.rs",
        4,
        "every range ends within head_bytes or response_bytes, and there is one pair of buffers more than slots",
    ),
];

#[test]
fn every_slice_call_that_can_panic_is_in_the_list() {
    let calls_one = |line: &str| {
        !line.starts_with("//") && SLICE_METHODS.iter().any(|method| line.contains(method))
    };
    let mut found = Vec::new();
    for file in library() {
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        let lines = without_tests(&text).lines().map(str::trim_start);
        let count = lines.filter(|line| calls_one(line)).count();
        if count > 0 {
            found.push((file.to_str().unwrap().to_owned(), count));
        }
    }
    found.sort();
    let expected = SLICE_CALLS.map(|(file, count, why)| {
        assert!(!why.is_empty());
        (file.to_owned(), count)
    });
    assert_eq!(found, expected);
}

fn can_panic(line: &str) -> bool {
    let is_code = !line.starts_with("//") && !line.starts_with("const _: () = assert!");
    let calls = [
        "panic!(",
        "unreachable!(",
        "todo!(",
        "unimplemented!(",
        ".unwrap()",
        ".expect(",
    ];
    let asserts = ["assert!(", "assert_eq!(", "assert_ne!("];
    is_code
        && (calls.iter().any(|call| line.contains(call))
            || asserts.iter().any(|assert| line.starts_with(assert)))
}

/// The name of the first function in `lines`.
fn function_after(lines: &[&str]) -> String {
    let name = lines.iter().find_map(|line| {
        let (_, rest) = line.split_once("fn ").filter(|_| !line.starts_with("//"))?;
        rest.split(['(', '<']).next()
    });
    name.unwrap().to_owned()
}

/// The text up to the first test code, which is at the bottom of each file.
fn without_tests(text: &str) -> &str {
    let starts = [
        "\n#[cfg(test)]\nmod tests",
        "\n#[cfg(test)]\n#[cfg(not(loom))]",
        "\n#[cfg(all(test, not(loom)))]\nmod tests",
        "\n#[cfg(all(test, any(target_os = \"linux\", target_os = \"android\")))]\nmod tests",
        "\n#[cfg(test)]\nimpl",
    ];
    let end = starts.iter().filter_map(|start| text.find(start)).min();
    text.get(..end.unwrap_or(text.len())).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of the library, without the program, the simulation and its view of the table, the fuzz code,
/// and the C API, which catches panics at its boundary.
fn library() -> Vec<PathBuf> {
    let others = [
        "src/main.rs",
        "src/daemon",
        "src/sources",
        "src/client",
        "src/manual.rs",
        "src/nearest.rs",
        "src/response.rs",
        "src/units.rs",
        "src/url.rs",
        "src/usage.rs",
        "src/unneeded.rs",
        "src/server/simulation",
        "src/server/table/view.rs",
        "src/http/fuzz",
        "src/answer/fuzz",
        "src/capi",
    ];
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("src")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(root().join(&directory)).unwrap() {
            let path = directory.join(entry.unwrap().file_name());
            if others.iter().any(|other| path.starts_with(other)) {
            } else if root().join(&path).is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}
