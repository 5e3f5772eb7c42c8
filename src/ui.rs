//! What management commands print: tables, amounts, JSON, progress.
//!
//! Nothing here is used when a program is run. Tables are plain text and the
//! same on a terminal and in a pipe; only progress looks whether stderr is a
//! terminal.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;

/// Writes to stdout; a reader that has gone away is no error (`… | head`).
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a value as indented JSON and a newline to stdout.
pub fn print_json<T: Serialize>(value: &T) -> Result<(), serde_json::Error> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text);
    Ok(())
}

/// Which side of its column a cell keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table with one header row.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes an empty table.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|&(name, align)| (name.to_owned(), align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; missing cells stay empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Renders the table, two spaces between columns, none at a line's end.
    pub fn render(&self) -> String {
        let header: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let all = || std::iter::once(&header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| all().filter_map(|row| row.get(i)).map(|c| c.chars().count()).max())
            .map(Option::unwrap_or_default)
            .collect();
        let mut text = String::new();
        for row in all() {
            let mut line = String::new();
            for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if i > 0 {
                    line.push_str("  ");
                }
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                match self.columns[i].1 {
                    Align::Left => line = line + cell + &pad,
                    Align::Right => line = line + &pad + cell,
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Renders a number of bytes: `17 B`, `1.5 MB`, in powers of 1000.
pub fn bytes(len: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if len < 1000 {
        return format!("{len} B");
    }
    let mut value = len as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Renders milliseconds with about three significant digits.
pub fn millis(ms: f64) -> String {
    match ms.abs() {
        x if x < 9.995 => format!("{ms:.2}"),
        x if x < 99.95 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

/// A progress line on stderr: shown on a terminal, silent elsewhere.
#[derive(Debug)]
pub struct Progress(indicatif::ProgressBar);

impl Progress {
    /// Starts one of so many steps.
    pub fn new(steps: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(indicatif::ProgressBar::hidden());
        }
        let bar = indicatif::ProgressBar::new(steps);
        if let Ok(style) =
            indicatif::ProgressStyle::with_template("{bar:24} {pos}/{len}  {wide_msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// Starts one of which nobody knows how long it takes; hidden unless
    /// stderr is a terminal.
    pub fn spinner() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(indicatif::ProgressBar::hidden());
        }
        let bar = indicatif::ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// Says what is being done.
    pub fn say(&self, message: impl Into<String>) {
        self.0.set_message(message.into());
    }

    /// A step is done.
    pub fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_clean() {
        let mut table = Table::new(&[("id", Align::Left), ("ms", Align::Right)]);
        table.row(["a".into(), "12.5".into()]);
        table.row(["längere".into(), "3".into()]);
        assert_eq!(table.render(), "id         ms\na        12.5\nlängere     3\n");
    }

    #[test]
    fn amounts() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1000), "1.0 kB");
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(bytes(26_214_400), "26.2 MB");
        assert_eq!(bytes(u64::MAX), "18446.7 PB");
        assert_eq!(millis(4.444), "4.44");
        assert_eq!(millis(44.44), "44.4");
        assert_eq!(millis(1893.2), "1893");
    }
}
