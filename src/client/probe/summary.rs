//! The summary of many probes: numbers, and a histogram that is drawn in a terminal. Pure.

use std::fmt::Write;
use std::time::Duration;

use super::histogram::Histogram;
use super::outcome::Verdict;
use crate::client::output::{Json, Seconds, line, milliseconds};

/// Most rows of a histogram, if all times are shorter than 10^13 ns, which is more than two hours.
const ROWS_MAX: usize = 13;
/// Most columns of a bar.
const BAR_COLUMNS: u64 = 40;
/// Where rows of a histogram begin, in a decade: the finest that gives not too many rows is taken.
const STEPS: [&[u64]; 5] = [
    &[
        10, 11, 12, 13, 14, 16, 18, 20, 22, 25, 28, 32, 36, 40, 45, 50, 56, 63, 70, 80, 90,
    ],
    &[10, 12, 15, 20, 25, 30, 40, 50, 60, 80],
    &[10, 15, 20, 30, 50, 70],
    &[10, 20, 50],
    &[10],
];

/// The results of many probes.
pub struct Tally {
    healthy: u64,
    unhealthy: u64,
    lost: u64,
    invalid: u64,
    /// Probes that had neither an answer nor a timeout when a signal ended the command.
    unanswered: u64,
    /// Of answers; those that were lost have none.
    times: Histogram,
}

impl Tally {
    pub fn new() -> Self {
        Tally {
            healthy: 0,
            unhealthy: 0,
            lost: 0,
            invalid: 0,
            unanswered: 0,
            times: Histogram::new(),
        }
    }

    /// Counts a probe. `time` is how long the answer took since the probe was due.
    pub fn record(&mut self, verdict: Verdict, time: Duration) {
        *match verdict {
            Verdict::Healthy => &mut self.healthy,
            Verdict::Unhealthy => &mut self.unhealthy,
            Verdict::Lost => &mut self.lost,
            Verdict::Invalid => &mut self.invalid,
        } += 1;
        if verdict != Verdict::Lost {
            self.times.record(time);
        }
    }

    /// Counts probes that still wait. They have no result, so they do not change the exit code of the others.
    pub fn record_unanswered(&mut self, count: usize) {
        self.unanswered += count as u64;
    }

    pub fn sent(&self) -> u64 {
        self.healthy + self.unhealthy + self.lost + self.invalid + self.unanswered
    }

    /// The verdict for the exit code: healthy if every probe was, and at least one was sent.
    pub fn verdict(&self) -> Verdict {
        match self {
            Tally { unhealthy: 1.., .. } => Verdict::Unhealthy,
            Tally { lost: 1.., .. } => Verdict::Lost,
            Tally { invalid: 1.., .. } => Verdict::Invalid,
            Tally { healthy: 1.., .. } => Verdict::Healthy,
            _ => Verdict::Lost,
        }
    }

    /// The text for people. `bar` draws a column of the histogram.
    pub fn text(&self, url: &str, bar: char) -> String {
        let Tally {
            healthy,
            unhealthy,
            lost,
            invalid,
            unanswered,
            ..
        } = self;
        let sent = self.sent();
        let mut text = format!("\n--- {} ---\n", line(url, 70));
        let _ = write!(
            text,
            "{sent} sent, {healthy} healthy, {unhealthy} unhealthy, {lost} lost"
        );
        if *invalid > 0 {
            let _ = write!(text, ", {invalid} invalid");
        }
        if *unanswered > 0 {
            let _ = write!(text, ", {unanswered} not answered yet");
        }
        text.push('\n');
        if self.times.count() == 0 {
            return text;
        }
        let [min, median, p99, max] = self.figures().map(milliseconds);
        let _ = writeln!(
            text,
            "min {min} ms, median {median} ms, p99 {p99} ms, max {max} ms"
        );
        self.draw(&mut text, bar);
        text
    }

    /// One JSON object, without a line end.
    pub fn json(&self, url: &str) -> String {
        let Tally {
            healthy,
            unhealthy,
            lost,
            invalid,
            unanswered,
            ..
        } = self;
        let mut text = format!(
            "{{\"summary\":{{\"url\":{},\"sent\":{},\"healthy\":{healthy},\"unhealthy\":{unhealthy},\
             \"lost\":{lost},\"invalid\":{invalid}",
            Json(url),
            self.sent()
        );
        if *unanswered > 0 {
            let _ = write!(text, ",\"unanswered\":{unanswered}");
        }
        if self.times.count() > 0 {
            let names = ["min", "median", "p99", "max"];
            for (name, time) in names.into_iter().zip(self.figures()) {
                let _ = write!(text, ",\"{name}Seconds\":{}", Seconds(time));
            }
        }
        text.push_str("}}");
        text
    }

    fn figures(&self) -> [Duration; 4] {
        let times = &self.times;
        [
            times.min(),
            times.quantile(500),
            times.quantile(990),
            times.max(),
        ]
    }

    /// Draws a row for each range of times, from the shortest to the longest.
    fn draw(&self, text: &mut String, bar: char) {
        let rows = self.rows();
        let largest = rows.iter().map(|row| row.count).max().unwrap_or_default();
        for Row { from, to, count } in rows {
            let columns = (count * BAR_COLUMNS).div_ceil(largest.max(1));
            let drawn: String = std::iter::repeat_n(bar, columns as usize).collect();
            let [from, to] = [from, to].map(|nanos| milliseconds(Duration::from_nanos(nanos)));
            let space = if drawn.is_empty() { "" } else { " " };
            let _ = writeln!(text, "{from:>9} to {to:>9} ms  {drawn}{space}{count}");
        }
    }

    fn rows(&self) -> Vec<Row> {
        let [min, _, _, max] = self.figures().map(|time| time.as_nanos() as u64);
        let mut rows = Vec::new();
        for steps in STEPS {
            rows = rows_between(min, max, steps);
            if rows.len() <= ROWS_MAX {
                break;
            }
        }
        for (time, count) in self.times.times() {
            let nanos = time.as_nanos() as u64;
            let row = rows.iter_mut().find(|row| nanos < row.to);
            if let Some(row) = row {
                row.count += count;
            }
        }
        rows
    }
}

/// A range of times in nanoseconds, and how many are in it.
struct Row {
    from: u64,
    to: u64,
    count: u64,
}

/// The empty rows that contain `min` and `max`, and those between.
fn rows_between(min: u64, max: u64, steps: &[u64]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut from = 0;
    let mut decade: u64 = 1;
    // The decades from 10 ns up to more than 10^14 ns, which is more than a day.
    while decade < 1_000_000_000_000_000 {
        for step in steps {
            let to = step * decade;
            if to > min {
                rows.push(Row { from, to, count: 0 });
            }
            if to > max {
                return rows;
            }
            from = to;
        }
        decade *= 10;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(micros: &[u64]) -> Tally {
        let mut tally = Tally::new();
        for micros in micros {
            tally.record(Verdict::Healthy, Duration::from_micros(*micros));
        }
        tally
    }

    #[test]
    fn the_summary_has_counts_figures_and_a_histogram() {
        let mut tally = tally(&[101, 105, 150, 153, 155, 201]);
        tally.record(Verdict::Unhealthy, Duration::from_micros(300));
        tally.record(Verdict::Lost, Duration::from_secs(1));
        assert_eq!(
            tally.text("http://localhost/", '#'),
            "\n--- http://localhost/ ---\n\
             8 sent, 6 healthy, 1 unhealthy, 1 lost\n\
             min 0.101 ms, median 0.153 ms, p99 0.300 ms, max 0.300 ms\n    \
             0.100 to     0.110 ms  ########################### 2\n    \
             0.110 to     0.120 ms  0\n    \
             0.120 to     0.130 ms  0\n    \
             0.130 to     0.140 ms  0\n    \
             0.140 to     0.160 ms  ######################################## 3\n    \
             0.160 to     0.180 ms  0\n    \
             0.180 to     0.200 ms  0\n    \
             0.200 to     0.220 ms  ############## 1\n    \
             0.220 to     0.250 ms  0\n    \
             0.250 to     0.280 ms  0\n    \
             0.280 to     0.320 ms  ############## 1\n"
        );
        assert_eq!(
            tally.json("http://localhost/\""),
            "{\"summary\":{\"url\":\"http://localhost/\\\"\",\"sent\":8,\"healthy\":6,\"unhealthy\":1,\
             \"lost\":1,\"invalid\":0,\"minSeconds\":0.000101,\"medianSeconds\":0.000153,\
             \"p99Seconds\":0.000300,\"maxSeconds\":0.000300}}"
        );
    }

    #[test]
    fn without_an_answer_there_are_no_figures() {
        let mut tally = Tally::new();
        tally.record(Verdict::Lost, Duration::from_secs(1));
        let text = tally.text("unix:/x", '#');
        assert_eq!(
            text,
            "\n--- unix:/x ---\n1 sent, 0 healthy, 0 unhealthy, 1 lost\n"
        );
        assert!(!tally.json("unix:/x").contains("Seconds"));
    }

    #[test]
    fn a_histogram_fits_and_has_every_time() {
        for micros in [
            &[1][..],
            &[100, 100],
            &[99, 100],
            &[80, 95, 101, 130],
            &[100, 1_000_000],
            &[0, 3_600_000_000],
            &[50, 120, 999_999],
        ] {
            let tally = tally(micros);
            let rows = tally.rows();
            assert!(rows.len() <= ROWS_MAX, "{micros:?}: {}", rows.len());
            let counted: u64 = rows.iter().map(|row| row.count).sum();
            assert_eq!(counted, micros.len() as u64, "{micros:?}");
            for text in tally.text("u", '#').lines() {
                assert!(text.len() < 80, "{text}");
            }
            let first = rows.first().unwrap();
            assert!(first.from <= tally.times.min().as_nanos() as u64);
        }
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst_probe() {
        let verdict = |verdicts: &[Verdict]| {
            let mut tally = Tally::new();
            for verdict in verdicts {
                tally.record(*verdict, Duration::ZERO);
            }
            tally.verdict()
        };
        use Verdict::{Healthy, Invalid, Lost, Unhealthy};
        assert_eq!(verdict(&[]), Lost);
        assert_eq!(verdict(&[Healthy, Healthy]), Healthy);
        assert_eq!(verdict(&[Healthy, Invalid]), Invalid);
        assert_eq!(verdict(&[Invalid, Lost, Healthy]), Lost);
        assert_eq!(verdict(&[Lost, Unhealthy, Invalid]), Unhealthy);
    }
}
