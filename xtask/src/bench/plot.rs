//! Bars beside names, on a page of their own: HTML with SVG in it.

use super::report::Origin;
use std::fmt::Write;

/// A row.
pub struct Bar {
    /// What was measured.
    pub name: String,
    /// Its length: 1 reaches the line.
    pub part: f64,
    /// What stands behind it.
    pub text: String,
    /// Drawn as a figure that is as it should be.
    pub good: bool,
}

/// Pixels: of a name, of a bar that reaches the line, of the longest, of a row.
const NAME: f64 = 330.0;
const LINE: f64 = 440.0;
const LONGEST: f64 = 1.25 * LINE;
const ROW: usize = 24;

/// The page: a title, what the line means, where the figures come from, the bars.
pub fn page(title: &str, line: &str, origin: &Origin, bars: &[Bar]) -> String {
    let mut drawn = String::new();
    for (index, Bar { name, part, text, good }) in bars.iter().enumerate() {
        let (y, width) = (index * ROW, (part.max(0.0) * LINE).min(LONGEST));
        let (class, start, end) = (if *good { "good" } else { "bad" }, NAME + 8.0, NAME + 16.0 + width.max(LINE));
        let _ = writeln!(drawn, r#"<text x="{NAME}" y="{}" text-anchor="end">{name}</text>"#, y + 16);
        let _ = writeln!(drawn, r#"<rect class="{class}" x="{start}" y="{}" width="{width:.1}" height="16"/>"#, y + 4);
        let _ = writeln!(drawn, r#"<text x="{end:.1}" y="{}">{text}</text>"#, y + 16);
    }
    let (at, height) = (NAME + 8.0 + LINE, bars.len() * ROW + 8);
    let Origin { machine, commit } = origin;
    format!(
        r#"<!doctype html><meta charset="utf-8"><title>Ferrule: {title}</title>
<style>body {{ font: 14px sans-serif; margin: 2em }} text {{ font: 12px sans-serif }}
.good {{ fill: #b5532a }} .bad {{ fill: #d40000 }}</style>
<h1>{title}</h1>
<p>Ferrule {commit}. The line: {line}. {machine}.</p>
<svg xmlns="http://www.w3.org/2000/svg" width="1200" height="{height}" role="img">
{drawn}<line x1="{at}" x2="{at}" y1="0" y2="{height}" stroke="black"/>
</svg>
"#
    )
}

/// Pixels of a histogram: of a bar's step, of the highest bar.
const STEP: usize = 36;
const HIGHEST: f64 = 160.0;

/// A histogram under a heading: how many took so long at most.
pub fn histogram(name: &str, buckets: &[(u64, u64)]) -> String {
    let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1) as f64;
    let mut drawn = String::new();
    for (index, (at_most, count)) in buckets.iter().enumerate() {
        let (x, height) = (index * STEP + 8, *count as f64 / most * HIGHEST);
        let (y, middle) = (HIGHEST + 20.0 - height, x + STEP / 2 - 2);
        let width = STEP - 4;
        let _ = writeln!(drawn, r#"<rect class="good" x="{x}" y="{y:.1}" width="{width}" height="{height:.1}"/>"#);
        let _ = writeln!(drawn, r#"<text x="{middle}" y="{:.1}" text-anchor="middle">{count}</text>"#, y - 4.0);
        let at = HIGHEST + 36.0;
        let _ = writeln!(drawn, r#"<text x="{middle}" y="{at}" text-anchor="middle">{}</text>"#, short(*at_most));
    }
    let (width, height) = (buckets.len() * STEP + 16, HIGHEST + 48.0);
    format!(
        "<h2>{name}</h2>\n<p>How many took so many instructions at most.</p>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" role=\"img\">\n{drawn}</svg>\n"
    )
}

/// 950, 1.3k, 41k, 1.2M.
fn short(value: u64) -> String {
    match value as f64 {
        value if value < 1e3 => format!("{value}"),
        value if value < 1e4 => format!("{:.1}k", value / 1e3),
        value if value < 1e6 => format!("{:.0}k", value / 1e3),
        value => format!("{:.1}M", value / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_parts_and_stay_on_the_page() {
        let bar = |part, good| Bar { name: "n".into(), part, text: "t".into(), good };
        let origin = Origin { machine: "m".into(), commit: "c".into() };
        let page = page("title", "Xen", &origin, &[bar(0.5, true), bar(90.0, false), bar(f64::NAN, true)]);
        let widths: Vec<&str> = page.split("width=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(widths, ["1200", "220.0", "550.0", "0.0"]);
        assert_eq!((page.matches("class=\"good\"").count(), page.matches("class=\"bad\"").count()), (2, 1));
    }

    #[test]
    fn the_most_frequent_bucket_is_the_highest() {
        let drawn = histogram("net/x", &[(950, 1), (1279, 4), (40_959, 2), (1_200_000, 1)]);
        let heights: Vec<&str> = drawn.split("height=\"").skip(2).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(heights, ["40.0", "160.0", "80.0", "40.0"]);
        for label in [">950<", ">1.3k<", ">41k<", ">1.2M<"] {
            assert!(drawn.contains(label), "{label} in {drawn}");
        }
    }
}
