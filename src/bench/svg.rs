//! The picture of a report: each run a dot on a logarithmic axis, quartiles a
//! box, the median a line.
//!
//! Written by hand, since it is forty shapes. The colours are of middling
//! lightness and read on light and dark pages alike.

use std::fmt::Write;

use super::report::{Report, Side};
use crate::ui::millis;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 20.0;
/// Where the first row is, and how far the next is below it.
const FIRST_Y: f64 = 65.0;
const ROW: f64 = 50.0;
const INK: &str = "#808080";
/// Cold, restored, and what they are measured against.
const COLOURS: [&str; 4] = ["#3f7fbf", "#d0702a", "#3f9f5f", "#9f5fbf"];

/// A logarithmic scale of milliseconds over the width of the drawing.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// Spans all values with some room, at least a factor of ten.
    fn of<'a>(values: impl Iterator<Item = &'a f64>) -> Self {
        let logs = values.filter(|ms| **ms > 0.0).map(|ms| ms.log10());
        let (low, high) = logs.fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x), h.max(x)));
        if low > high {
            return Self { low: 0.0, high: 1.0 };
        }
        let room = (1.0 - (high - low)).max(0.1) / 2.0;
        Self { low: low - room, high: high + room }
    }

    fn x(&self, ms: f64) -> f64 {
        let share = (ms.max(1e-6).log10() - self.low) / (self.high - self.low);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    /// 1, 2 and 5 of each power of ten that lie within.
    fn ticks(&self) -> Vec<f64> {
        let powers = self.low.floor() as i32..=self.high.ceil() as i32;
        powers
            .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)))
            .filter(|tick| (self.low..=self.high).contains(&tick.log10()))
            .collect()
    }
}

/// Draws a report.
pub(super) fn draw(report: &Report) -> String {
    let rows = report.rows();
    let scale = Scale::of(rows.iter().flat_map(|row| &row.side.samples_ms));
    let axis_y = FIRST_Y - 15.0 + ROW * rows.len() as f64;
    let height = axis_y + 50.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\" \
         fill=\"{INK}\">\n"
    );
    let title = escape(&shorten(&report.command.join(" "), 70));
    let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
    text(&mut svg, LEFT, 20.0, "start", &format!("{title}: {}", names.join(", ")));
    for tick in scale.ticks() {
        let x = scale.x(tick);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} 35V{axis_y}\" stroke=\"{INK}\" stroke-opacity=\"0.25\"/>"
        );
        text(&mut svg, x, axis_y + 17.0, "middle", &tick_label(tick));
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {axis_y}H{:.1}\" stroke=\"{INK}\" fill=\"none\"/>",
        WIDTH - RIGHT
    );
    let until = escape(&shorten(&report.until, 70));
    let label = format!("milliseconds (logarithmic) to the {until}");
    text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, axis_y + 38.0, "middle", &label);
    for (index, shown) in rows.iter().enumerate() {
        let y = FIRST_Y + ROW * index as f64;
        row(&mut svg, &scale, shown.name, shown.side, y, COLOURS[index % COLOURS.len()]);
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, scale: &Scale, name: &str, side: &Side, y: f64, colour: &str) {
    text(svg, LEFT - 12.0, y + 4.0, "end", name);
    let Some(summary) = &side.summary_ms else { return };
    let (q1, q3, median) = (scale.x(summary.q1), scale.x(summary.q3), scale.x(summary.median));
    let _ = writeln!(
        svg,
        "<rect x=\"{q1:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"20\" fill=\"{colour}\" \
         fill-opacity=\"0.25\" stroke=\"{colour}\"/>",
        y - 10.0,
        (q3 - q1).max(1.0)
    );
    for (index, ms) in side.samples_ms.iter().enumerate() {
        // Spread over the box's height, so that equal runs are seen as many.
        let dy = (index * 7 % 15) as f64 - 7.0;
        let x = scale.x(*ms);
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"{colour}\" fill-opacity=\"0.7\"/>",
            y + dy
        );
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{median:.1} {:.1}V{:.1}\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
        y - 13.0,
        y + 13.0
    );
    text(svg, median, y - 17.0, "middle", &format!("{} ms", millis(summary.median)));
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    let _ =
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>");
}

fn tick_label(tick: f64) -> String {
    if tick >= 1.0 { format!("{tick:.0}") } else { format!("{}", (tick * 1e6).round() / 1e6) }
}

fn shorten(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    text.chars().take(chars - 1).chain(['…']).collect()
}

/// Escapes text for XML; control characters, which XML cannot hold, are
/// replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{example, example_against};

    #[test]
    fn every_run_is_a_dot_within_the_drawing() {
        let svg = example().to_svg();
        assert_eq!(svg.matches("<circle").count(), 7);
        assert!(svg.contains("a&lt;b&gt;&amp;.jar"));
        assert!(svg.contains("milliseconds (logarithmic)"));
        for part in svg.split("cx=\"").skip(1) {
            let x: f64 = part.split('"').next().unwrap().parse().unwrap();
            assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{x}");
        }
    }

    #[test]
    fn what_it_was_measured_against_has_rows_of_its_own() {
        let svg = example_against().to_svg();
        assert_eq!(svg.matches("<circle").count(), 6);
        assert!(svg.contains(">aot-cache</text>"));
        // Also one of which there are no runs.
        assert!(svg.contains(">appcds</text>"));
        assert!(svg.contains("height=\"300\""));
    }

    #[test]
    fn ticks_lie_within_the_scale() {
        let scale = Scale::of([40.0, 2100.0].iter());
        assert_eq!(scale.ticks(), [50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0]);
        assert!(Scale::of([5.0].iter()).ticks().len() >= 2);
        assert_eq!(Scale::of([].iter()).ticks(), [1.0, 2.0, 5.0, 10.0]);
    }
}
