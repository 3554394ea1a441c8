//! Prints tables in Markdown with aligned columns.
#![allow(dead_code, reason = "each bench uses its own part")]

use super::support::thousands;

/// A table. The first column is aligned left, the others right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&str]) -> Table {
        let headings = headings.iter().map(|heading| heading.to_string());
        Table {
            rows: vec![headings.collect()],
        }
    }

    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    pub fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let widths = self
                    .rows
                    .iter()
                    .map(|row| cell(row, column).chars().count());
                widths.max().unwrap_or(0)
            })
            .collect();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::from("|");
            for (column, width) in widths.iter().copied().enumerate() {
                let text = cell(row, column);
                match column {
                    0 => line += &format!(" {text:<width$} |"),
                    _ => line += &format!(" {text:>width$} |"),
                }
            }
            println!("{line}");
            if index == 0 {
                let rule = |(column, width): (usize, &usize)| match column {
                    0 => format!("{:-<1$}|", "", width + 2),
                    _ => format!("{:->1$}:|", "", width + 1),
                };
                let rules: String = widths.iter().enumerate().map(rule).collect();
                println!("|{rules}");
            }
        }
        println!();
    }
}

/// Formats a number with about three significant digits: `1,234` or `12.3`.
pub fn number(value: f64) -> String {
    match value {
        ..-0.005 => format!("-{}", number(-value)),
        ..0.0 => number(0.0),
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => thousands(value.round() as u64),
    }
}

/// Formats a number, or a dash if there is none.
pub fn known(value: Option<f64>) -> String {
    value.map_or("–".into(), number)
}
