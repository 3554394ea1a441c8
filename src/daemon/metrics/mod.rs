//! What the daemon counts beside its checks and its server, for `/metrics`: the log, the check file, the process.
//!
//! The server's thread calls [`write`] for each scrape, inside the sandbox. So nothing here opens a file, allocates or
//! waits: what is read then is opened by [`prepare`]. Used by [`super::checks`],
//! [`super::serve`] and [`super::source_checks`].

#[cfg(target_os = "linux")]
mod process;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use healthz::answer::{MetricType, Metrics, MetricsWriter};

use super::log;

/// The metrics of the daemon.
pub const METRICS: Metrics = Metrics::new().and(write, BYTES_MAX);

/// Most bytes that [`write`] writes; a test writes the largest values.
const BYTES_MAX: usize = 1792;

static RELOADS: Reloads = Reloads {
    successes: AtomicU64::new(0),
    failures: AtomicU64::new(0),
    has_failed: AtomicBool::new(false),
};

struct Reloads {
    successes: AtomicU64,
    failures: AtomicU64,
    /// The last one.
    has_failed: AtomicBool,
}

/// Counts that the check file was read again, and whether its checks are used now.
#[cfg(all(feature = "sources", target_os = "linux"))]
pub fn count_reload(is_success: bool) {
    let count = match is_success {
        true => &RELOADS.successes,
        false => &RELOADS.failures,
    };
    count.fetch_add(1, Ordering::Relaxed);
    RELOADS.has_failed.store(!is_success, Ordering::Relaxed);
}

/// Opens what is read at a scrape. Call this before the sandbox begins, and after the limit of descriptors was raised.
pub fn prepare() {
    #[cfg(target_os = "linux")]
    process::prepare();
}

fn write(text: &mut MetricsWriter<'_, '_>) {
    let values = Values {
        records_dropped: log::dropped(),
        reload_successes: RELOADS.successes.load(Ordering::Relaxed),
        reload_failures: RELOADS.failures.load(Ordering::Relaxed),
        has_reload_failed: RELOADS.has_failed.load(Ordering::Relaxed),
    };
    values.write(text);
    #[cfg(target_os = "linux")]
    process::Values::read().write(text);
}

struct Values {
    records_dropped: u64,
    reload_successes: u64,
    reload_failures: u64,
    has_reload_failed: bool,
}

impl Values {
    fn write(&self, text: &mut MetricsWriter<'_, '_>) {
        let name = "healthz_log_records_dropped_total";
        let help = "Log records that were dropped while standard error was blocked or failed.";
        text.family(name, MetricType::Counter, help);
        text.sample(name, &[], self.records_dropped);
        let name = "healthz_config_reloads_total";
        let help = "How often the check file was read again, by result.";
        text.family(name, MetricType::Counter, help);
        text.sample(name, &[("result", "failure")], self.reload_failures);
        text.sample(name, &[("result", "success")], self.reload_successes);
        let name = "healthz_config_last_reload_success";
        let help = "1 if the check file is in use as it was last read, at the start or later.";
        text.family(name, MetricType::Gauge, help);
        text.sample(name, &[], (!self.has_reload_failed).into());
        let name = "healthz_build_info";
        text.family(name, MetricType::Gauge, "1, with the version of healthz.");
        text.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use healthz::http::{Connection, Context};
    use healthz::{Instant, Limits, Responder};

    /// The body of `/metrics` without a check.
    pub fn body(metrics: Metrics) -> String {
        let responder = Responder::new(&[]).with_metrics(metrics);
        let context = Context {
            now: Instant::ZERO,
            date: None,
            limits: &Limits::DEFAULT,
            is_last: false,
            tx_bytes_max: 64 * 1024,
        };
        let mut tx = vec![0; 64 * 1024];
        let head = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut connection = Connection::new(Instant::ZERO);
        let progress = connection.receive(&context, head, &mut tx, &mut |request, writer| {
            responder.respond(Instant::ZERO, request, writer)
        });
        tx.truncate(progress.written);
        let text = String::from_utf8(tx).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        body.to_owned()
    }

    #[test]
    fn the_largest_values_fit_in_what_is_reserved() {
        fn largest(text: &mut MetricsWriter<'_, '_>) {
            Values {
                records_dropped: u64::MAX,
                reload_successes: u64::MAX,
                reload_failures: u64::MAX,
                has_reload_failed: true,
            }
            .write(text);
            #[cfg(target_os = "linux")]
            process::Values::LARGEST.write(text);
        }
        let none = body(Metrics::new());
        let all = body(Metrics::new().and(largest, BYTES_MAX));
        assert!(all.len() - none.len() <= BYTES_MAX, "{all}");
    }

    #[test]
    fn every_family_of_the_daemon_is_written() {
        let body = body(METRICS);
        for line in [
            "# TYPE healthz_log_records_dropped_total counter\nhealthz_log_records_dropped_total ",
            "healthz_config_reloads_total{result=\"failure\"} ",
            "healthz_config_reloads_total{result=\"success\"} ",
            "# TYPE healthz_config_last_reload_success gauge\n",
            concat!(
                "healthz_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1\n"
            ),
        ] {
            assert!(body.contains(line), "{line}\n{body}");
        }
    }
}
