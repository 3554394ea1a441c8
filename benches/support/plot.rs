//! Draws a chart as an SVG file: one panel per load, one row per server, with a bar or dots, and columns of text.
//!
//! The file has its own background and follows the reader's choice of light or dark. Colour is never the only
//! difference: our rows are bold. (Of the crates, plotters writes fixed colours into each element, without style
//! sheets, and leaves labels to its caller; so it would not be shorter.)

use std::fmt::Write;

/// The whole file.
pub struct Chart<'a> {
    /// What is measured, and in which unit.
    pub title: &'a str,
    /// What is better, and what the marks mean.
    pub subtitle: &'a str,
    /// The name of the horizontal axis, with its unit.
    pub axis: &'a str,
    /// Bars from zero for one mark per row, otherwise dots on a logarithmic axis.
    pub has_bars: bool,
    /// The headings of the columns of text.
    pub columns: &'a [&'a str],
    pub panels: Vec<Panel>,
    /// Lines below the panels.
    pub notes: Vec<String>,
}

pub struct Panel {
    pub title: String,
    pub rows: Vec<Row>,
}

pub struct Row {
    pub name: String,
    /// True for the rows to emphasize.
    pub is_ours: bool,
    /// Median and quartiles.
    pub marks: Vec<Mark>,
    /// As many as there are columns.
    pub cells: Vec<String>,
}

pub struct Mark {
    /// Median, first and third quartile.
    pub values: [f64; 3],
    pub label: String,
}

const WIDTH: f64 = 980.0;
/// Where the names of the rows end and the axis begins.
const LEFT: f64 = 150.0;
const PLOT_WIDTH: f64 = 380.0;
const COLUMNS_LEFT: f64 = LEFT + PLOT_WIDTH + 60.0;
const TOP: f64 = 104.0;
const ROW: f64 = 26.0;
/// Above the rows of a panel: its title. Below: the numbers of the axis.
const PANEL_TOP: f64 = 34.0;
const PANEL_BOTTOM: f64 = 40.0;
const NOTE: f64 = 18.0;

/// Blue and grey keep their contrast for all kinds of colour blindness.
const STYLE: &str = "\
.page{fill:#fff;stroke:#d0d7de}.ink{fill:#1f2328}.faint{fill:#59636e}.grid{stroke:#d8dee4}\
.ours{fill:#0969da}.peer{fill:#8c959f}.line{stroke:#1f2328}.bold{font-weight:600}\
@media(prefers-color-scheme:dark){.page{fill:#0d1117;stroke:#3d444d}.ink{fill:#f0f6fc}.faint{fill:#9198a1}\
.grid{stroke:#2a313c}.ours{fill:#4493f8}.peer{fill:#767f8a}.line{stroke:#f0f6fc}}";

/// The axis: from zero, or logarithmic.
struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
}

impl Scale {
    fn of(chart: &Chart) -> Scale {
        let rows = || chart.panels.iter().flat_map(|panel| &panel.rows);
        let values = || {
            rows()
                .flat_map(|row| &row.marks)
                .flat_map(|mark| mark.values)
        };
        let high = values().fold(f64::MIN_POSITIVE, f64::max);
        let low = values().fold(high, f64::min);
        match chart.has_bars {
            true => Scale {
                low: 0.0,
                high: high * 1.02,
                is_log: false,
            },
            false => Scale {
                low: low / 1.6,
                high: high * 1.25,
                is_log: true,
            },
        }
    }

    /// The position of a value on the axis.
    fn x(&self, value: f64) -> f64 {
        let part = match self.is_log {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => value / self.high,
        };
        part.clamp(0.0, 1.0) * PLOT_WIDTH
    }

    /// Values with a line: 1, 2 and 5 times powers of ten; three to seven of them if the axis begins at zero.
    fn ticks(&self) -> Vec<f64> {
        let steps =
            || (-3..7).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(power)));
        if self.is_log {
            return steps()
                .filter(|step| (self.low..self.high).contains(step))
                .collect();
        }
        let step = steps()
            .find(|step| self.high / step <= 6.0)
            .unwrap_or(self.high);
        (0..8)
            .map(|index| step * f64::from(index))
            .filter(|tick| *tick <= self.high)
            .collect()
    }
}

/// Writes a text element at a place.
fn text(svg: &mut String, [x, y]: [f64; 2], class: &str, more: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\"{more}>{text}</text>"
    );
}

const END: &str = " text-anchor=\"end\"";
const MIDDLE: &str = " text-anchor=\"middle\"";

/// The whole SVG file.
pub fn svg(chart: &Chart) -> String {
    let scale = Scale::of(chart);
    let panel_height = |panel: &Panel| PANEL_TOP + ROW * panel.rows.len() as f64 + PANEL_BOTTOM;
    let panels: f64 = chart.panels.iter().map(panel_height).sum();
    let height = TOP + panels + NOTE * chart.notes.len() as f64 + 22.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" font-size=\"13\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\" class=\"page\"/>\n",
        chart.title,
        WIDTH - 1.0,
        height - 1.0,
    );
    text(
        &mut svg,
        [24.0, 38.0],
        "ink bold",
        " font-size=\"20\"",
        chart.title,
    );
    text(&mut svg, [24.0, 62.0], "faint", "", chart.subtitle);
    let mut y = TOP;
    for panel in &chart.panels {
        draw(&mut svg, chart, panel, &scale, y);
        y += panel_height(panel);
    }
    for note in &chart.notes {
        text(
            &mut svg,
            [24.0, y + 6.0],
            "faint",
            " font-size=\"11\"",
            note,
        );
        y += NOTE;
    }
    svg.push_str("</svg>\n");
    svg
}

fn column(index: usize, count: usize) -> f64 {
    let width = (WIDTH - 24.0 - COLUMNS_LEFT) / count as f64;
    COLUMNS_LEFT + width * (index as f64 + 1.0)
}

fn draw(svg: &mut String, chart: &Chart, panel: &Panel, scale: &Scale, top: f64) {
    text(
        svg,
        [24.0, top + 10.0],
        "ink bold",
        " font-size=\"14\"",
        &panel.title,
    );
    for (index, heading) in chart.columns.iter().enumerate() {
        let at = [column(index, chart.columns.len()), top + 10.0];
        text(
            svg,
            at,
            "faint",
            &format!("{END} font-size=\"11\""),
            heading,
        );
    }
    let first = top + PANEL_TOP;
    let bottom = first + ROW * panel.rows.len() as f64 - 6.0;
    for tick in scale.ticks() {
        let x = LEFT + scale.x(tick);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {:.1}V{bottom:.1}\" class=\"grid\"/>",
            first - 10.0
        );
        let at = [x, bottom + 15.0];
        text(
            svg,
            at,
            "faint",
            &format!("{MIDDLE} font-size=\"11\""),
            &tick_label(tick),
        );
    }
    let at = [LEFT + PLOT_WIDTH + 12.0, bottom + 15.0];
    text(svg, at, "faint", " font-size=\"11\"", chart.axis);
    for (index, row) in panel.rows.iter().enumerate() {
        let y = first + ROW * index as f64;
        let weight = if row.is_ours { "ink bold" } else { "ink" };
        text(svg, [LEFT - 12.0, y + 9.0], weight, END, &row.name);
        for (index, mark) in row.marks.iter().enumerate() {
            draw_mark(svg, chart, row, [index, row.marks.len()], mark, scale, y);
        }
        for (index, cell) in row.cells.iter().enumerate() {
            let at = [column(index, chart.columns.len()), y + 9.0];
            text(svg, at, weight, &format!("{END} font-size=\"11.5\""), cell);
        }
    }
}

/// Numbers of the axis without superfluous digits.
fn tick_label(tick: f64) -> String {
    match tick {
        1000.0.. => super::support::thousands(tick as u64),
        _ => format!("{}", (tick * 1000.0).round() / 1000.0),
    }
}

/// A bar or a dot for the median, a line from the first to the third quartile, and the label.
fn draw_mark(
    svg: &mut String,
    chart: &Chart,
    row: &Row,
    [index, count]: [usize; 2],
    mark: &Mark,
    scale: &Scale,
    y: f64,
) {
    let class = if row.is_ours { "ours" } else { "peer" };
    let [middle, low, high] = mark.values.map(|value| LEFT + scale.x(value));
    let (line, weight) = (y + 5.0, if row.is_ours { "ink bold" } else { "ink" });
    let quartiles =
        format!("<path d=\"M{low:.1} {line}H{high:.1}\" class=\"line\" stroke-width=\"2\"/>\n");
    if chart.has_bars {
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\" rx=\"2\" class=\"{class}\"/>",
            y - 3.0,
            middle - LEFT,
        );
        svg.push_str(&quartiles);
        text(
            svg,
            [high.max(middle) + 6.0, y + 9.0],
            weight,
            " font-size=\"12\"",
            &mark.label,
        );
        return;
    }
    svg.push_str(&quartiles);
    let radius = if row.is_ours { 6.0 } else { 5.0 };
    let _ = writeln!(
        svg,
        "<circle cx=\"{middle:.1}\" cy=\"{line:.1}\" r=\"{radius}\" class=\"{class}\"/>"
    );
    // The label of the smallest mark is at its left, that of the largest at its right.
    let (x, anchor) = match index + 1 == count {
        true => (high.max(middle + radius) + 5.0, ""),
        false => (low.min(middle - radius) - 5.0, END),
    };
    let more = format!("{anchor} font-size=\"12\"");
    text(svg, [x, y + 9.0], weight, &more, &mark.label);
}
