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
}
