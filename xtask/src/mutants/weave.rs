//! All mutants of a file at once: each becomes a branch that is taken when its number is asked for, so that one build
//! does for all of them.
//!
//! `a + b` becomes `(if crate::mutant::on(7) {a - b} else {a + b})`. Of mutants inside one another only one is ever on,
//! so what a branch holds is as it was in the source.

use proc_macro2::{LineColumn, Span};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A mutant, as cargo-mutants lists it.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// From 1 on.
    pub id: u32,
    /// Its file, place and change, in words.
    pub name: String,
    /// From the workspace root.
    pub file: String,
    /// cargo-mutants' word for its kind.
    pub genre: String,
    /// What comes in place of what.
    pub replacement: String,
    /// In bytes of the file.
    pub span: Range<usize>,
}

impl Mutant {
    /// The file with this mutant alone.
    pub fn apply(&self, source: &str) -> String {
        format!("{} {} {}", &source[..self.span.start], self.replacement, &source[self.span.end..])
    }
}

/// A file with its mutants.
#[derive(Debug, Default)]
pub struct Woven {
    /// Its text.
    pub text: String,
    /// Where in it which mutant's condition and branch are.
    pub branches: Vec<(u32, Range<usize>)>,
    /// Mutants that cannot be a branch, and have to be built one by one.
    pub left: Vec<u32>,
    /// Functions that are constant in the source (where that says so) and not here (where they begin); and their names.
    pub constant: Vec<(usize, usize, String)>,
}

/// What is put where in the source.
struct Site {
    range: Range<usize>,
    /// A mutant, and what `range` is with it.
    branches: Vec<(u32, String)>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// At the beginning of a function: what it returns instead.
    Function,
    /// Behind an arm's pattern: that it does not match.
    Arm,
    /// In place of `const` before a function, which could not ask which mutant is on.
    Const,
    /// In place of an expression.
    Expression,
}

/// Makes one file of a source and its mutants. `constant` are the functions that have to stay so.
pub fn weave(source: &str, mutants: &[&Mutant], constant: &BTreeSet<usize>) -> Woven {
    let Ok(file) = syn::parse_file(source) else {
        return Woven {
            text: source.into(),
            left: mutants.iter().map(|mutant| mutant.id).collect(),
            ..Woven::default()
        };
    };
    let mut at: HashMap<usize, Vec<&Mutant>> = HashMap::new();
    let mut sites = Vec::new();
    for &mutant in mutants {
        match mutant.genre.as_str() {
            "FnValue" => sites.push(Site {
                range: mutant.span.start..mutant.span.start,
                branches: vec![(mutant.id, format!("return {};", mutant.replacement))],
                kind: Kind::Function,
            }),
            _ => at.entry(mutant.span.start).or_default().push(mutant),
        }
    }
    let mut finder = Finder { source, lines: Lines::of(source), at, sites };
    finder.visit_file(&file);
    let Finder { at, mut sites, .. } = finder;
    sites.retain(|site| site.kind != Kind::Const || !constant.contains(&site.range.start));
    sites.sort_by_key(|site| (site.range.start, site.kind == Kind::Expression, usize::MAX - site.range.end));
    let mut woven = Woven { left: at.into_values().flatten().map(|mutant| mutant.id).collect(), ..Woven::default() };
    woven.render(source, 0..source.len(), &sites);
    woven
}

impl Woven {
    fn render(&mut self, source: &str, range: Range<usize>, mut sites: &[Site]) {
        let mut at = range.start;
        while let Some((site, after)) = sites.split_first() {
            self.text.push_str(&source[at..site.range.start]);
            let inside = after.partition_point(|other| other.range.start < site.range.end);
            // One with the same expression is inside it as well.
            let inside = if site.kind == Kind::Expression { inside } else { 0 };
            match site.kind {
                Kind::Function => self.branches(site, " "),
                Kind::Const => {
                    let names = site.branches.iter().map(|(_, name)| (site.range.start, self.text.len(), name.clone()));
                    self.constant.extend(names);
                }
                Kind::Arm => {
                    let begin = self.text.len();
                    let conditions: Vec<String> = site.branches.iter().map(|(id, _)| format!("!{}", on(*id))).collect();
                    self.text.push_str(&format!(" if {}", conditions.join(" && ")));
                    self.branches.extend(site.branches.iter().map(|(id, _)| (*id, begin..self.text.len())));
                }
                Kind::Expression => {
                    self.text.push('(');
                    self.branches(site, " else ");
                    self.text.push('{');
                    self.render(source, site.range.clone(), &after[..inside]);
                    self.text.push_str("})");
                }
            }
            at = site.range.end;
            sites = &after[inside..];
        }
        self.text.push_str(&source[at..range.end]);
    }

    fn branches(&mut self, site: &Site, behind: &str) {
        for (id, text) in &site.branches {
            let begin = self.text.len();
            self.text.push_str(&format!("if {} {{{text}}}", on(*id)));
            self.branches.push((*id, begin..self.text.len()));
            self.text.push_str(behind);
        }
    }
}

fn on(id: u32) -> String {
    format!("crate::mutant::on({id})")
}

/// Byte offsets of positions.
struct Lines<'a>(Vec<(usize, &'a str)>);

impl<'a> Lines<'a> {
    fn of(source: &'a str) -> Lines<'a> {
        let mut at = 0;
        Lines(
            source
                .split_inclusive('\n')
                .map(|line| {
                    at += line.len();
                    (at - line.len(), line)
                })
                .collect(),
        )
    }

    /// Lines from 1, columns from 0.
    fn offset(&self, at: LineColumn) -> usize {
        let (begin, line) = self.0[at.line - 1];
        begin + line.char_indices().nth(at.column).map_or(line.len(), |(offset, _)| offset)
    }
}

/// The offset of a line and column that both count from 1.
pub fn offset(source: &str, line: usize, column: usize) -> usize {
    Lines::of(source).offset(LineColumn { line, column: column - 1 })
}

struct Finder<'a> {
    source: &'a str,
    lines: Lines<'a>,
    /// What was not found yet, by where it begins.
    at: HashMap<usize, Vec<&'a Mutant>>,
    sites: Vec<Site>,
}

impl Finder<'_> {
    fn range(&self, span: Span) -> Range<usize> {
        self.lines.offset(span.start())..self.lines.offset(span.end())
    }

    /// The mutants of a kind that begin here.
    fn take(&mut self, genre: &str, at: usize) -> Vec<(u32, Range<usize>, String)> {
        let here = self.at.remove(&at).unwrap_or_default();
        let (mine, others): (Vec<&Mutant>, _) = here.into_iter().partition(|mutant| mutant.genre == genre);
        if !others.is_empty() {
            self.at.insert(at, others);
        }
        mine.into_iter().map(|m| (m.id, m.span.clone(), m.replacement.clone())).collect()
    }

    /// An expression in which the mutants of a kind that begin at `at` each replace their own part.
    fn expression(&mut self, range: Range<usize>, genre: &str, at: usize) {
        let found = self.take(genre, at);
        let text = |part: Range<usize>, new: &str| {
            format!("{} {new} {}", &self.source[range.start..part.start], &self.source[part.end..range.end])
        };
        let branches: Vec<_> = found.into_iter().map(|(id, part, new)| (id, text(part, &new))).collect();
        if !branches.is_empty() {
            self.sites.push(Site { range, branches, kind: Kind::Expression });
        }
    }
}

/// Is it a condition with `let` in it, which can be nowhere but in an `if` or `while`?
fn has_let(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_expr_binary(&mut self, expr: &'ast syn::ExprBinary) {
        if !has_let(&expr.left) && !has_let(&expr.right) {
            let (range, op) = (self.range(expr.span()), self.range(expr.op.span()));
            self.expression(range, "BinaryOperator", op.start);
        }
        visit::visit_expr_binary(self, expr);
    }

    fn visit_expr_unary(&mut self, expr: &'ast syn::ExprUnary) {
        let range = self.range(expr.span());
        self.expression(range.clone(), "UnaryOperator", range.start);
        visit::visit_expr_unary(self, expr);
    }

    fn visit_expr_struct(&mut self, expr: &'ast syn::ExprStruct) {
        let range = self.range(expr.span());
        for pair in expr.fields.pairs() {
            let field = self.range(pair.value().span());
            let behind = pair.punct().map_or(field.end, |comma| self.range(comma.span()).end);
            for (id, ..) in self.take("StructField", field.start) {
                let text = format!("{}{}", &self.source[range.start..field.start], &self.source[behind..range.end]);
                self.sites.push(Site { range: range.clone(), branches: vec![(id, text)], kind: Kind::Expression });
            }
        }
        visit::visit_expr_struct(self, expr);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(word) = &signature.constness {
            let (range, branches) = (self.range(word.span()), vec![(0, signature.ident.to_string())]);
            self.sites.push(Site { range, branches, kind: Kind::Const });
        }
        visit::visit_signature(self, signature);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let start = self.range(arm.span()).start;
        let deleted = self.take("MatchArm", start);
        if let Some((_, guard)) = &arm.guard {
            let range = self.range(guard.span());
            let mut branches: Vec<_> =
                self.take("MatchArmGuard", range.start).into_iter().map(|(id, _, new)| (id, new)).collect();
            branches.extend(deleted.into_iter().map(|(id, ..)| (id, "false".into())));
            if !branches.is_empty() {
                self.sites.push(Site { range, branches, kind: Kind::Expression });
            }
        } else if !deleted.is_empty() {
            let end = self.range(arm.pat.span()).end;
            let branches = deleted.into_iter().map(|(id, ..)| (id, String::new())).collect();
            self.sites.push(Site { range: end..end, branches, kind: Kind::Arm });
        }
        visit::visit_arm(self, arm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(id: u32, genre: &str, span: Range<usize>, replacement: &str) -> Mutant {
        let (name, file) = (String::new(), String::new());
        Mutant { id, name, file, genre: genre.into(), replacement: replacement.into(), span }
    }

    fn words(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn mutants_become_branches_inside_one_another() {
        let source = "const fn f(a: i8) -> i8 { match a { 1 => 2 + !a, n if n > 3 => 4, _ => 0 } }";
        let at = |part: &str| source.find(part).expect("it is there");
        let one = |part: &str| at(part)..at(part) + 1;
        let all = [
            mutant(1, "FnValue", at("match")..source.len() - 2, "0"),
            mutant(2, "BinaryOperator", one("+"), "*"),
            mutant(3, "UnaryOperator", one("!"), ""),
            mutant(4, "MatchArm", at("1 =>")..at("n if"), ""),
            mutant(5, "MatchArmGuard", at("n > 3")..at("=> 4"), "true"),
        ];
        let woven = weave(source, &all.iter().collect::<Vec<_>>(), &BTreeSet::new());
        let expected = "fn f(a: i8) -> i8 { if ON(1) {return 0;} match a { \
                        1 if !ON(4) => (if ON(2) {2 * !a} else {2 + (if ON(3) { a} else {!a})}), \
                        n if (if ON(5) {true} else {n > 3}) => 4, _ => 0 } }";
        assert_eq!(words(&woven.text.replace("crate::mutant::on", "ON")), words(expected));
        assert_eq!((woven.left.as_slice(), woven.branches.len()), ([].as_slice(), 5));
        assert_eq!(woven.constant, [(0, 0, "f".to_string())]);
        assert!(weave(source, &[], &BTreeSet::from([0])).text.starts_with("const fn f"));
        for (id, range) in &woven.branches {
            assert!(woven.text[range.clone()].contains(&format!("on({id})")));
        }
        assert_eq!(words(&all[1].apply(source)), words(&source.replace('+', "*")));
    }

    #[test]
    fn a_condition_with_let_is_left_to_a_build_of_its_own() {
        let source = "fn f() {\n    if let Some(_) = g() && true {}\n}\n";
        let start = offset(source, 2, 26);
        let and = mutant(1, "BinaryOperator", start..start + 2, "||");
        assert_eq!(&source[and.span.clone()], "&&");
        let woven = weave(source, &[&and], &BTreeSet::new());
        assert_eq!((woven.left.as_slice(), woven.text.as_str()), ([1].as_slice(), source));
    }
}
