//! The table that people read.
//!
//! A report in, lines out, none longer than the given number of columns. Texts of the server are printed without
//! control characters, which could change what a terminal shows.

use std::fmt::Write;
use std::time::Duration;

use super::report::{Check, Endpoint, Report, Since, Status};
use crate::client::output::{self, Colour, coloured};

/// Columns of a terminal whose width is not known.
pub const COLUMNS_DEFAULT: usize = 80;
/// Narrower terminals break lines by themselves.
pub const COLUMNS_MIN: usize = 60;

/// Before the reason of a check, which has lines of its own.
const INDENT: &str = "    ";
/// Between two columns.
const GAP: &str = "  ";
/// The index of the column with the status.
const STATE: usize = 1;
const HEADS: [&str; 5] = ["CHECK", "STATE", "SEVERITY", "SINCE", "LAST"];

/// All of it. `has_colours` adds escape sequences, which take no columns.
pub fn text(report: &Report, columns: usize, has_colours: bool) -> String {
    let mut text = String::new();
    let release = report
        .release
        .as_ref()
        .map(|release| format!(" ({release})"));
    let server = format!("{}{}", report.url, release.unwrap_or_default());
    wrap(&mut text, "", &server, columns);
    if !report.listeners.is_empty() {
        let listeners = format!("listens on {}", report.listeners.join(", "));
        wrap(&mut text, "", &listeners, columns);
    }
    text.push('\n');
    let endpoints = report.endpoints().iter().map(|endpoint| {
        let state = endpoint.status.as_str().to_owned();
        let cells = [
            visible(&endpoint.path),
            state,
            visible(&counts_text(endpoint)),
        ];
        (cells, Some(endpoint.status))
    });
    let endpoints: Vec<_> = endpoints.collect();
    let widths = widths(&endpoints);
    for (cells, status) in &endpoints {
        write_row(&mut text, cells, &widths, *status, columns, has_colours);
    }
    let checks = report.checks();
    if !checks.is_empty() {
        text.push('\n');
        write_checks(&mut text, &checks, columns, has_colours);
    }
    text
}

/// What follows the status of an endpoint: how many checks it has, and how many of them fail, or its text.
fn counts_text(endpoint: &Endpoint) -> String {
    let checks = &endpoint.checks;
    if checks.is_empty() {
        return endpoint.text.clone().unwrap_or_else(|| "no checks".into());
    }
    let count =
        |matches: &dyn Fn(&Check) -> bool| checks.iter().filter(|check| matches(check)).count();
    let counts = |check: &Check, status: Status| check.status == status && !check.is_excluded;
    let plural = if checks.len() == 1 { "" } else { "s" };
    let mut text = format!("{} check{plural}", checks.len());
    for (number, what) in [
        (count(&|check| counts(check, Status::Fail)), "failing"),
        (
            count(&|check| counts(check, Status::Warn)),
            "with a warning",
        ),
        (count(&|check| check.is_excluded), "excluded"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {number} {what}");
        }
    }
    text
}

fn write_checks(text: &mut String, checks: &[&Check], columns: usize, has_colours: bool) {
    let mut rows = vec![(HEADS.map(String::from), None)];
    rows.extend(
        checks
            .iter()
            .map(|check| (cells(check), Some(check.status))),
    );
    let mut widths = widths(&rows);
    // A column that says nothing, as all after the second do for the text of Kubernetes, is left out.
    for (column, width) in widths.iter_mut().enumerate() {
        let mut texts = rows
            .iter()
            .skip(1)
            .filter_map(|(cells, _)| cells.get(column));
        if texts.all(|text| text == "-") {
            *width = 0;
        }
    }
    // In answers of healthz, the name is the only text that can be long. If another server sends a long severity, no
    // column may be left for the name.
    let others: usize = widths
        .iter()
        .skip(1)
        .filter(|width| **width > 0)
        .map(|width| GAP.len() + width)
        .sum();
    if let Some(name) = widths.first_mut() {
        *name = columns.saturating_sub(others).min(*name);
    }
    let reasons = checks.iter().map(|check| check.reason.as_deref());
    for ((cells, status), reason) in rows.iter().zip(std::iter::once(None).chain(reasons)) {
        write_row(text, cells, &widths, *status, columns, has_colours);
        if let Some(reason) = reason {
            wrap(text, INDENT, reason, columns);
        }
    }
}

fn cells(check: &Check) -> [String; 5] {
    let since = match check.since {
        Since::Unknown => None,
        Since::Start => Some("start".into()),
        Since::Seconds(seconds) => Some(age(seconds)),
    };
    let beat = check
        .beat
        .map(|seconds| format!("beat {} ago", age(seconds)));
    let run = check
        .run
        .map(|seconds| format!("took {}", duration(seconds)));
    let severity = match check.is_excluded {
        true => Some("excluded"),
        false => check.severity.as_deref(),
    };
    let cells = [
        Some(visible(&check.name)),
        Some(check.status.as_str().into()),
        severity.map(visible),
        since,
        beat.or(run),
    ];
    cells.map(|cell| cell.unwrap_or_else(|| "-".into()))
}

/// The width of each column.
fn widths<const N: usize>(rows: &[([String; N], Option<Status>)]) -> [usize; N] {
    let mut widths = [0; N];
    for (cells, _) in rows {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = cell.chars().count().max(*width);
        }
    }
    widths
}

/// Writes one line. Columns of width 0 are left out, and each cell is cut to the width of its column.
fn write_row<const N: usize>(
    text: &mut String,
    cells: &[String; N],
    widths: &[usize; N],
    status: Option<Status>,
    columns: usize,
    has_colours: bool,
) {
    let mut line = String::new();
    let mut left = columns;
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if *width == 0 {
            continue;
        }
        let gap = if column == 0 { "" } else { GAP };
        let width = (*width).min(left.saturating_sub(gap.len()));
        left = left.saturating_sub(gap.len() + width);
        let cell = format!("{:<width$}", fitted(cell, width));
        line.push_str(gap);
        match status.filter(|_| column == STATE) {
            Some(status) => line.push_str(&coloured(&cell, colour(status), has_colours)),
            None => line.push_str(&cell),
        }
    }
    text.extend([line.trim_end(), "\n"]);
}

fn colour(status: Status) -> Colour {
    match status {
        Status::Fail => Colour::Red,
        Status::Warn => Colour::Yellow,
        Status::Pass => Colour::Green,
    }
}

/// `text` as one line without control characters.
fn visible(text: &str) -> String {
    output::line(text, usize::MAX)
}

/// `text` if it has at most `width` characters; otherwise its beginning and three dots.
fn fitted(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let start: String = text.chars().take(width.saturating_sub(3)).collect();
    start + "..."
}

/// Writes `text` in lines that begin with `indent`, broken at blanks where that is possible.
fn wrap(out: &mut String, indent: &str, text: &str, columns: usize) {
    let room = columns.saturating_sub(indent.len()).max(1);
    let mut line = String::new();
    let mut used = 0;
    for word in visible(text).split(' ') {
        let word: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + word.len() > room {
            out.extend([indent, line.trim_end(), "\n"]);
            (line, used) = (String::new(), 0);
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        // A word that is longer than a line.
        let mut word = word.as_slice();
        while word.len() > room {
            let (full, rest) = word.split_at(room);
            out.extend([indent, &String::from_iter(full), "\n"]);
            word = rest;
        }
        used += word.len();
        line.extend(word);
    }
    out.extend([indent, line.trim_end(), "\n"]);
}

/// The two largest units of a time: `41s`, `3m 12s`, `2h 5m`, `3d 4h`.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {}m", minutes % 60),
        (days, hours, _) => format!("{days}d {}h", hours % 24),
    }
}

/// How long a run took: `0.14ms`, `35ms`, `1.5s`.
fn duration(time: Duration) -> String {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let rounded = |unit: u64| micros.saturating_add(unit / 2) / unit;
    match micros / 1000 {
        0..10 => format!("{}.{:02}ms", rounded(10) / 100, rounded(10) % 100),
        10..1000 => format!("{}ms", rounded(1000)),
        _ => format!("{}.{}s", rounded(100_000) / 10, rounded(100_000) % 10),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::client::exchange::Response;
    use crate::client::target::Address;

    fn report(media_type: &str, status: u16, body: &str) -> Report {
        let response = Response {
            status,
            media_type: media_type.into(),
            body: body.into(),
            address: Address::Unix(PathBuf::from("/run/a")),
        };
        let mut report = Report::new("unix:/run/a");
        report.add(Endpoint::new("/healthz", &response).unwrap(), &response);
        report
    }

    fn json(checks: &str) -> Report {
        let body = format!(
            r#"{{"status":"fail","releaseId":"1.2.3","listeners":["http://127.0.0.1:10248","http://[::1]:10248"],
                "checks":{{{checks}}}}}"#
        );
        report("application/health+json", 500, &body)
    }

    const TIME: &str = r#""time":"2026-11-29T02:50:00Z""#;

    #[test]
    fn times_are_rounded_to_what_is_shown() {
        for (micros, text) in [
            (4, "0.00ms"),
            (5, "0.01ms"),
            (9_994, "9.99ms"),
            (10_499, "10ms"),
            (999_499, "999ms"),
            (1_049_999, "1.0s"),
            (61_250_000, "61.3s"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn failing_checks_come_first_with_reasons_below_them() {
        let checks = format!(
            r#""ping":[{{"status":"pass","severity":"error",{TIME}}}],
            "worker":[{{"status":"warn","severity":"warning",{TIME},"since":"2026-11-29T02:49:49Z",
                "lastBeat":"2026-11-29T02:49:19Z","output":"no heartbeat for 41 s, limit 30 s"}}],
            "var":[{{"status":"fail","severity":"error",{TIME},"since":"2026-11-29T02:46:48Z",
                "output":"/var: 3.1% free, needs 10%","lastRunSeconds":0.004}}],
            "net":[{{"status":"fail","severity":"error","excluded":true,{TIME},"since":"2026-11-20T01:00:00Z",
                "output":"down","lastRunSeconds":1.25}}]"#
        );
        let want = "\
unix:/run/a (healthz 1.2.3)
listens on http://127.0.0.1:10248, http://[::1]:10248

/healthz  fail  4 checks, 1 failing, 1 with a warning, 1 excluded

CHECK   STATE  SEVERITY  SINCE   LAST
var     fail   error     3m 12s  took 4.00ms
    /var: 3.1% free, needs 10%
net     fail   excluded  9d 1h   took 1.3s
    down
worker  warn   warning   11s     beat 41s ago
    no heartbeat for 41 s, limit 30 s
ping    pass   error     start   -
";
        assert_eq!(text(&json(&checks), 80, false), want);
        // Colours change nothing else.
        let coloured = text(&json(&checks), 80, true);
        assert!(
            coloured.contains("var     \u{1b}[31mfail \u{1b}[0m  error"),
            "{coloured}"
        );
        let mut plain = coloured;
        for sequence in ["\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m", "\u{1b}[0m"] {
            assert!(plain.contains(sequence));
            plain = plain.replace(sequence, "");
        }
        assert_eq!(plain, want);
    }

    #[test]
    fn the_text_of_kubernetes_needs_fewer_columns() {
        let body = "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n";
        let want = "\
unix:/run/a

/healthz  fail  2 checks, 1 failing

CHECK  STATE
etcd   fail
    failed: reason withheld
ping   pass
";
        assert_eq!(text(&report("text/plain", 500, body), 80, false), want);
        let want = "unix:/run/a\n\n/healthz  pass  ok\n";
        assert_eq!(text(&report("text/plain", 200, "ok"), 80, false), want);
        let want = "unix:/run/a\n\n/healthz  pass\n";
        assert_eq!(text(&report("", 200, "\n"), 80, false), want);
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_and_no_word_is_lost() {
        let name = "n".repeat(127);
        let reason = "a reason of several words ".repeat(9) + &"x".repeat(200);
        let checks = format!(
            r#""{name}":[{{"status":"fail","severity":"warning",{TIME},"since":"2025-11-20T01:00:00Z",
                "lastBeat":"2025-11-20T01:00:00Z","output":"{reason}"}}]"#
        );
        for columns in [COLUMNS_MIN, COLUMNS_DEFAULT, 200] {
            let text = text(&json(&checks), columns, false);
            let longest = text.lines().map(|line| line.chars().count()).max();
            assert!(longest <= Some(columns), "{text}");
            let squeezed = |text: &str| text.split_whitespace().collect::<String>();
            assert!(squeezed(&text).ends_with(&squeezed(&reason)), "{text}");
            assert!(text.contains("374d 1h"), "{text}");
        }
    }

    #[test]
    fn no_byte_from_a_server_controls_the_terminal() {
        let evil = r"\u001b[2J\u0007\u009b31m\u202e\u0000\r\n";
        let checks = format!(
            r#""{evil}":[{{"status":"fail","severity":"{evil}",{TIME},"output":"{evil} it's \"C:\\\\x\""}}]"#
        );
        let reports = [
            json(&checks),
            report("text/plain", 500, "\u{1b}[2J\u{7}\r"),
            report("text/plain", 500, "[-]\u{1b}[2J\u{7} \u{202e}\n"),
        ];
        for report in reports {
            let text = text(&report, 80, false);
            let is_visible = |c: char| c == '\n' || !c.is_control() && c != '\u{202e}';
            assert!(text.chars().all(is_visible), "{text:?}");
        }
        let text = text(&json(&checks), 80, false);
        assert!(text.contains(r#" it's "C:\\x""#), "{text}");
    }

    #[test]
    fn times_have_two_units() {
        for (seconds, want) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 0s"),
            (3599, "59m 59s"),
            (3600, "1h 0m"),
            (86_399, "23h 59m"),
            (86_400, "1d 0h"),
        ] {
            assert_eq!(age(seconds), want);
        }
    }
}
