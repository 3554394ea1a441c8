//! Draws latencies by percentile, as text for the terminal and as SVG.
//!
//! The axis of percentiles is logarithmic in the distance to 100 % (90 %, 99 %, 99.9 % have equal distances),
//! so that the tail is visible. The axis of times is logarithmic too.

use std::fmt::Write;

use hdrhistogram::Histogram;

/// The latencies of healthz and the baseline under one load. Times in nanoseconds.
pub struct Panel {
    pub title: String,
    pub healthz: Histogram<u64>,
    pub baseline: Histogram<u64>,
}

/// Name and quantile; 1 is the maximum.
pub const PERCENTILES: [(&str, f64); 6] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
    ("max", 1.0),
];

/// True if there are enough samples for a percentile that differs from the maximum.
pub fn is_known(histogram: &Histogram<u64>, quantile: f64) -> bool {
    quantile == 1.0 || (1.0 - quantile) * histogram.len() as f64 > 1.999
}

/// The logarithmic axis of times, in microseconds.
#[derive(Clone, Copy)]
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// An axis that contains all samples. It begins and ends at 1, 2 or 5 times a power of ten.
    fn around(panels: &[Panel]) -> Scale {
        let all = || {
            panels
                .iter()
                .flat_map(|panel| [&panel.healthz, &panel.baseline])
        };
        let low = all().map(|h| h.value_at_quantile(0.0)).min().unwrap_or(1);
        let high = all().map(|h| h.max()).max().unwrap_or(1);
        let (low, high) = (low as f64 / 1e3, high as f64 / 1e3);
        let mut ticks = steps();
        let low = ticks.rfind(|tick| *tick <= low).unwrap_or(1.0);
        let high = steps().find(|tick| *tick >= high).unwrap_or(1e6);
        Scale { low, high }
    }

    /// The position of a time on the axis, from 0 to 1.
    fn place(self, micros: f64) -> f64 {
        ((micros / self.low).ln() / (self.high / self.low).ln()).clamp(0.0, 1.0)
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        steps().filter(move |tick| (self.low..=self.high).contains(tick))
    }

    fn decades(self) -> impl Iterator<Item = f64> {
        self.ticks()
            .filter(|tick| tick.log10().fract().abs() < 1e-9)
    }
}

fn steps() -> impl DoubleEndedIterator<Item = f64> {
    (0..7).flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(decade)))
}

pub fn micros(nanos: u64) -> String {
    let micros = nanos as f64 / 1e3;
    match micros {
        ..9.95 => format!("{micros:.1}"),
        _ => super::support::thousands(micros.round() as u64),
    }
}

/// One line per percentile: a dot for healthz, a ring for the baseline. Fits in 80 columns.
pub fn text(panels: &[Panel]) -> String {
    const COLUMNS: usize = 60;
    let scale = Scale::around(panels);
    let column = |micros: f64| (scale.place(micros) * (COLUMNS - 1) as f64).round() as usize;
    let mut text = String::new();
    for panel in panels {
        let _ = writeln!(
            text,
            "{:<42}{:>32}",
            panel.title, "● healthz  ○ baseline  ◉ both"
        );
        for (name, quantile) in PERCENTILES {
            if !is_known(&panel.healthz, quantile) {
                continue;
            }
            let mut row = vec!['·'; COLUMNS];
            for tick in scale.decades() {
                row[column(tick)] = '┊';
            }
            let at = |h: &Histogram<u64>| column(h.value_at_quantile(quantile) as f64 / 1e3);
            let (healthz, baseline) = (at(&panel.healthz), at(&panel.baseline));
            for cell in &mut row[healthz.min(baseline)..healthz.max(baseline)] {
                *cell = '─';
            }
            row[baseline] = '○';
            row[healthz] = if healthz == baseline { '◉' } else { '●' };
            let row: String = row.into_iter().collect();
            let _ = writeln!(text, "{name:>9}  {row}");
        }
        let mut axis = vec![' '; COLUMNS + 12];
        for tick in scale.decades() {
            let label = format!("{} µs", super::support::thousands(tick as u64));
            for (index, letter) in label.chars().enumerate() {
                if let Some(cell) = axis.get_mut(column(tick) + index) {
                    *cell = letter;
                }
            }
        }
        let axis: String = axis.into_iter().collect();
        let _ = writeln!(text, "{:11}{}\n", "", axis.trim_end());
    }
    text
}

const WIDTH: f64 = 960.0;
const LEFT: f64 = 74.0;
const TOP: f64 = 112.0;
const PANEL_WIDTH: f64 = 400.0;
const PANEL_HEIGHT: f64 = 220.0;
const ACROSS: f64 = 44.0;
const DOWN: f64 = 64.0;
const BELOW: f64 = 92.0;

const HEALTHZ: &str = "#0b66c3";
const BASELINE: &str = "#98a1ab";
const INK: &str = "#1f2933";
const FAINT: &str = "#66727f";

/// An SVG file with all panels, two in a row, with the same axes.
pub fn svg(panels: &[Panel], title: &str, caption: &str) -> String {
    let scale = Scale::around(panels);
    let samples = panels.iter().map(|panel| panel.healthz.len()).max();
    let nines_max = (samples.unwrap_or(0).max(100) as f64).log10() + 0.15;
    let rows = panels.len().div_ceil(2) as f64;
    let height = TOP + rows * (PANEL_HEIGHT + DOWN) - DOWN + BELOW;
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif\" \
         font-size=\"12\" role=\"img\">\n<title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"10\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"40\" font-size=\"20\" font-weight=\"600\" fill=\"{INK}\">{title}</text>\n"
    );
    legend(&mut svg);
    for (index, panel) in panels.iter().enumerate() {
        let x = LEFT + (index % 2) as f64 * (PANEL_WIDTH + ACROSS);
        let y = TOP + (index / 2) as f64 * (PANEL_HEIGHT + DOWN);
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">");
        draw(&mut svg, panel, scale, nines_max, index % 2 == 0);
        svg.push_str("</g>\n");
    }
    let middle = TOP + (height - TOP - BELOW) / 2.0;
    let _ = write!(
        svg,
        "<text transform=\"translate(20 {middle}) rotate(-90)\" text-anchor=\"middle\" fill=\"{FAINT}\">latency, µs</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"{FAINT}\">share of probes that were at least as fast</text>\n\
         <text x=\"{LEFT}\" y=\"{}\" font-size=\"11\" fill=\"{FAINT}\">{caption}</text>\n</svg>\n",
        LEFT + PANEL_WIDTH + ACROSS / 2.0,
        height - 48.0,
        height - 18.0,
    );
    svg
}

fn legend(svg: &mut String) {
    let entries = [
        (0.0, HEALTHZ, 2.6, "", "healthz"),
        (
            96.0,
            BASELINE,
            2.0,
            " stroke-dasharray=\"5 3\"",
            "baseline: fixed response on mio, no HTTP",
        ),
    ];
    for (offset, colour, width, dash, name) in entries {
        let x = LEFT + offset;
        let _ = writeln!(
            svg,
            "<path d=\"M{x} 64h22\" stroke=\"{colour}\" stroke-width=\"{width}\"{dash}/>\
             <text x=\"{}\" y=\"68\" font-size=\"13\" fill=\"{INK}\">{name}</text>",
            x + 30.0,
        );
    }
}

/// The position of a percentile on the horizontal axis: the number of nines.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

fn draw(svg: &mut String, panel: &Panel, scale: Scale, nines_max: f64, has_labels: bool) {
    let x = |nines: f64| nines / nines_max * PANEL_WIDTH;
    let y = |nanos: u64| (1.0 - scale.place(nanos as f64 / 1e3)) * PANEL_HEIGHT;
    let _ = writeln!(
        svg,
        "<text y=\"-14\" font-size=\"14\" font-weight=\"600\" fill=\"{INK}\">{}</text>",
        panel.title
    );
    for tick in scale.ticks() {
        let is_decade = tick.log10().fract().abs() < 1e-9;
        let y = y((tick * 1e3) as u64);
        let colour = if is_decade { "#cfd6dd" } else { "#edf0f3" };
        let _ = writeln!(
            svg,
            "<path d=\"M0 {y:.1}h{PANEL_WIDTH}\" stroke=\"{colour}\"/>"
        );
        if has_labels {
            let label = super::support::thousands(tick as u64);
            let _ = writeln!(
                svg,
                "<text x=\"-8\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{FAINT}\">{label}</text>",
                y + 4.0
            );
        }
    }
    let shares = [
        ("50 %", 0.5),
        ("90 %", 0.9),
        ("99 %", 0.99),
        ("99.9 %", 0.999),
        ("99.99 %", 0.9999),
    ];
    let drawn = shares.iter().filter(|share| nines(share.1) < nines_max);
    for (label, quantile) in drawn {
        let x = x(nines(*quantile));
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} 0v{PANEL_HEIGHT}\" stroke=\"#edf0f3\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{FAINT}\">{label}</text>",
            PANEL_HEIGHT + 18.0
        );
    }
    for (histogram, colour, style) in [
        (
            &panel.baseline,
            BASELINE,
            "stroke-width=\"2\" stroke-dasharray=\"5 3\"",
        ),
        (&panel.healthz, HEALTHZ, "stroke-width=\"2.6\""),
    ] {
        // The curve ends at the maximum, the last sample.
        let end = (histogram.len() as f64).log10();
        let mut path = String::new();
        let mut nines = 0.0;
        while nines <= end {
            let quantile = 1.0 - 10f64.powf(-nines);
            let command = if path.is_empty() { 'M' } else { 'L' };
            let y = y(histogram.value_at_quantile(quantile));
            let _ = write!(path, "{command}{:.1} {y:.1}", x(nines));
            nines += 0.02;
        }
        let _ = write!(path, "L{:.1} {:.1}", x(end), y(histogram.max()));
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-linejoin=\"round\" {style}/>"
        );
    }
    let known = shares
        .iter()
        .filter(|share| is_known(&panel.healthz, share.1));
    let points = known.map(|share| (nines(share.1), share.1, 3.4));
    let last = ((panel.healthz.len() as f64).log10(), 1.0, 2.2);
    for (nines, quantile, radius) in points.chain([last]) {
        let value = panel.healthz.value_at_quantile(quantile);
        let is_above = quantile == 1.0 || value >= panel.baseline.value_at_quantile(quantile);
        let (x, y) = (x(nines), y(value));
        let above = if is_above { y - 9.0 } else { y + 18.0 };
        let label = micros(value);
        let (x_text, y_text, anchor, label) = match quantile {
            1.0 if x < 0.8 * PANEL_WIDTH => (x + 8.0, y + 4.0, "start", format!("max {label}")),
            1.0 => (x + 12.0, above, "end", format!("max {label}")),
            _ => (x, above, "middle", label),
        };
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{HEALTHZ}\"/>\
             <text x=\"{x_text:.1}\" y=\"{y_text:.1}\" text-anchor=\"{anchor}\" font-weight=\"600\" fill=\"{HEALTHZ}\" \
             paint-order=\"stroke\" stroke=\"#ffffff\" stroke-width=\"4\">{label}</text>"
        );
    }
}
