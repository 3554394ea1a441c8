//! The metrics of a server: its answers by path and status, how long they took, and its connections.
//!
//! Counted by [`super::driver`] and [`super::run`], and written as text when `/metrics` is scraped. Only the server's
//! thread changes them.

use super::counters::{Counter, LiveCounters};
use crate::answer::{MetricType, MetricsWriter};
use crate::http::{Answer, StatusCode};

/// The values of the label `path`, by [`Subject`](crate::answer::Subject). Any other path counts as the first value, so
/// that clients cannot create series.
const PATHS: [&str; 6] = [
    "other",
    "/healthz",
    "/livez",
    "/readyz",
    "/metrics",
    "/metrics/slis",
];
/// These paths have samples for these statuses from the beginning, so that the first failure is an increase.
const INITIAL_PATHS: [&str; 3] = ["/healthz", "/livez", "/readyz"];
const INITIAL: [StatusCode; 2] = [StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR];

/// Answers by path and status.
#[derive(Default)]
pub(super) struct Answers {
    counts: [[Counter; StatusCode::COUNT]; PATHS.len()],
}

impl Answers {
    #[inline]
    pub(super) fn count(&self, answer: Answer) {
        self.add(answer.subject(), answer.status());
    }

    /// Counts the answer to a refused head. Its path is not known here, even if it was valid.
    pub(super) fn count_refusal(&self, status: StatusCode) {
        self.add(0, status);
    }

    #[inline]
    fn add(&self, subject: u8, status: StatusCode) {
        let counts = self.counts.get(usize::from(subject));
        if let Some(counter) = counts.and_then(|counts| counts.get(status.index())) {
            counter.add(1);
        }
    }

    fn write(&self, text: &mut MetricsWriter<'_, '_>) {
        const NAME: &str = "healthz_probes_total";
        text.family(
            NAME,
            MetricType::Counter,
            "Requests answered, by path and status code.",
        );
        for (path, counts) in PATHS.iter().zip(&self.counts) {
            for (status, counter) in StatusCode::all().zip(counts) {
                let is_initial = INITIAL_PATHS.contains(path) && INITIAL.contains(&status);
                let count = counter.get();
                if count > 0 || is_initial {
                    text.sample(NAME, &[("path", path), ("code", status.digits())], count);
                }
            }
        }
    }
}

/// Upper bounds of the histogram: in nanoseconds, and as they are written, in seconds. Each is four times the one
/// before.
const BOUNDS: [(u64, &str); 9] = [
    (16_000, "0.000016"),
    (64_000, "0.000064"),
    (256_000, "0.000256"),
    (1_024_000, "0.001024"),
    (4_096_000, "0.004096"),
    (16_384_000, "0.016384"),
    (65_536_000, "0.065536"),
    (262_144_000, "0.262144"),
    (1_048_576_000, "1.048576"),
];

/// How long each iteration of the event loop took in which requests were answered.
#[derive(Default)]
pub(super) struct Durations {
    /// By the first bound that is not smaller; the last one has no bound.
    counts: [Counter; BOUNDS.len() + 1],
    nanoseconds: Counter,
}

impl Durations {
    pub(super) fn record(&self, nanoseconds: u64) {
        let smaller = BOUNDS.iter().take_while(|(bound, _)| *bound < nanoseconds);
        if let Some(counter) = self.counts.get(smaller.count()) {
            counter.add(1);
        }
        self.nanoseconds.add(nanoseconds);
    }

    fn write(&self, text: &mut MetricsWriter<'_, '_>) {
        const HELP: &str = "Duration of an iteration of the event loop in which requests were answered. Measured at most once a millisecond.";
        const BUCKET: &str = "healthz_probe_duration_seconds_bucket";
        text.family(
            "healthz_probe_duration_seconds",
            MetricType::Histogram,
            HELP,
        );
        let bounds = BOUNDS.iter().map(|(_, text)| *text).chain(["+Inf"]);
        let mut sum = 0;
        for (bound, counter) in bounds.zip(&self.counts) {
            sum += counter.get();
            text.sample(BUCKET, &[("le", bound)], sum);
        }
        text.sample_seconds(
            "healthz_probe_duration_seconds_sum",
            &[],
            self.nanoseconds.get(),
        );
        text.sample("healthz_probe_duration_seconds_count", &[], sum);
    }
}

/// Most bytes that [`write`] writes.
pub(super) const BYTES_MAX: usize = 8 * 1024;

/// Writes the families of a server.
pub(super) fn write(counters: &LiveCounters, text: &mut MetricsWriter<'_, '_>) {
    counters.answers.write(text);
    counters.durations.write(text);
    let now = counters.load();
    text.family(
        "healthz_connections_total",
        MetricType::Counter,
        "New connections, by result.",
    );
    for (result, count) in [
        ("accepted", now.accepted),
        ("aborted", now.aborted),
        ("non_loopback", now.non_loopback),
    ] {
        text.sample("healthz_connections_total", &[("result", result)], count);
    }
    text.family(
        "healthz_connections_ended_total",
        MetricType::Counter,
        "Connections that were accepted and have ended, by cause.",
    );
    for (cause, count) in [
        ("closed", now.closed),
        ("evicted", now.evicted),
        ("expired", now.expired),
        ("failed", now.failed),
    ] {
        text.sample(
            "healthz_connections_ended_total",
            &[("cause", cause)],
            count,
        );
    }
    let open =
        "Connections that wait for a request, for the rest of one or for their client to read.";
    text.family("healthz_connections_open", MetricType::Gauge, open);
    text.sample("healthz_connections_open", &[], now.open);
    let pauses = "How often accepting was paused, because descriptors or memory were short or accept(2) kept failing.";
    text.family("healthz_accept_pauses_total", MetricType::Counter, pauses);
    text.sample("healthz_accept_pauses_total", &[], now.accept_pauses);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Responder;
    use crate::answer::{Metrics, Subject};
    use crate::http::{Connection, Context};
    use crate::limits::Limits;
    use crate::time::Instant;
    use std::string::String;
    use std::vec;

    /// The families of a server as they are scraped.
    fn text(counters: &LiveCounters) -> String {
        let responder = Responder::new(&[]).with_metrics(Metrics::new());
        let context = Context {
            now: Instant::ZERO,
            date: None,
            limits: &Limits::DEFAULT,
            is_last: false,
            tx_bytes_max: 0,
        };
        let mut tx = vec![0; 64 * 1024];
        let head = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        let progress = Connection::new(Instant::ZERO).receive(
            &context,
            head,
            &mut tx,
            &mut |request, writer| {
                responder
                    .respond_elsewhere(Instant::ZERO, request, writer, |text| write(counters, text))
            },
        );
        let answer = String::from_utf8(tx[..progress.written].to_vec()).unwrap();
        let (_, own) = answer.split_once("# HELP healthz_probes_total").unwrap();
        own.into()
    }

    #[test]
    fn answers_count_by_path_and_status() {
        let counters = LiveCounters::default();
        for (subject, status) in [
            (Subject::Healthz, StatusCode::OK),
            (Subject::Other, StatusCode::OK),
            (Subject::Readyz, StatusCode::INTERNAL_SERVER_ERROR),
        ] {
            counters.answers.add(subject as u8, status);
        }
        counters.answers.count_refusal(StatusCode::BAD_REQUEST);
        let text = text(&counters);
        let probes = text
            .lines()
            .filter(|line| line.starts_with("healthz_probes_total"));
        assert_eq!(
            probes.collect::<vec::Vec<_>>().join("\n"),
            "\
healthz_probes_total{path=\"other\",code=\"200\"} 1
healthz_probes_total{path=\"other\",code=\"400\"} 1
healthz_probes_total{path=\"/healthz\",code=\"200\"} 1
healthz_probes_total{path=\"/healthz\",code=\"500\"} 0
healthz_probes_total{path=\"/livez\",code=\"200\"} 0
healthz_probes_total{path=\"/livez\",code=\"500\"} 0
healthz_probes_total{path=\"/readyz\",code=\"200\"} 0
healthz_probes_total{path=\"/readyz\",code=\"500\"} 1"
        );
    }

    #[test]
    fn a_bucket_counts_what_is_not_longer_than_its_bound() {
        let counters = LiveCounters::default();
        for micros in [0, 16, 17, 2_000_000] {
            counters.durations.record(micros * 1000);
        }
        let text = text(&counters);
        for line in [
            "healthz_probe_duration_seconds_bucket{le=\"0.000016\"} 2\n",
            "healthz_probe_duration_seconds_bucket{le=\"0.000064\"} 3\n",
            "healthz_probe_duration_seconds_bucket{le=\"1.048576\"} 3\n",
            "healthz_probe_duration_seconds_bucket{le=\"+Inf\"} 4\n",
            "healthz_probe_duration_seconds_sum 2.000033\n",
            "healthz_probe_duration_seconds_count 4\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        let all_four_times = BOUNDS.windows(2).all(|pair| pair[1].0 == 4 * pair[0].0);
        assert!(all_four_times);
        for (nanoseconds, text) in BOUNDS {
            assert_eq!(text.parse::<f64>().unwrap() * 1e9, nanoseconds as f64);
        }
    }

    #[test]
    fn the_longest_text_has_room() {
        let counters = LiveCounters::default();
        for counter in counters.answers.counts.iter().flatten() {
            counter.set(u64::MAX);
        }
        counters.durations.nanoseconds.set(u64::MAX);
        // The sum of the buckets must not overflow.
        counters.durations.counts[0].set(u64::MAX);
        for counter in [
            &counters.accepted,
            &counters.aborted,
            &counters.non_loopback,
        ] {
            counter.set(u64::MAX);
        }
        for counter in [
            &counters.closed,
            &counters.evicted,
            &counters.expired,
            &counters.failed,
        ] {
            counter.set(u64::MAX);
        }
        counters.open.set(u64::MAX);
        counters.accept_pauses.set(u64::MAX);
        let bytes = text(&counters).len();
        assert!(
            (BYTES_MAX - 1024..BYTES_MAX - 32).contains(&bytes),
            "{bytes}"
        );
    }
}
