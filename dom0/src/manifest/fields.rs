//! Reading a TOML table field by field. Mistakes are collected, not returned, so that all of them are shown at once.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Mistake;
use crate::nearest::suggestion;

/// A value with its place in the file.
pub(super) type Placed<T> = (T, Range<usize>);

/// The file, and what was found wrong in it so far.
pub(super) struct Mistakes<'s> {
    pub source: &'s str,
    pub found: Vec<Mistake>,
}

impl Mistakes<'_> {
    /// Notes a mistake at `span`.
    pub fn add(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.found.push(Mistake::new(self.source, span, message.into()));
    }
}

/// A table being read.
pub(super) struct Fields<'a, 'i> {
    table: &'a DeTable<'i>,
    /// Where to point for a key that is missing.
    place: Range<usize>,
    /// Keys asked for so far: all there are, in the end.
    valid: Vec<&'static str>,
}

impl<'a, 'i> Fields<'a, 'i> {
    pub fn new(table: &'a DeTable<'i>, place: Range<usize>) -> Self {
        Self { table, place, valid: Vec::new() }
    }

    /// The value of `key`, which from now on is a valid key.
    pub fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.valid.push(key);
        self.table.get(key)
    }

    pub fn string(&mut self, mistakes: &mut Mistakes<'_>, key: &'static str) -> Option<Placed<String>> {
        let value = self.take(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some((text.to_string(), value.span())),
            other => wrong_type(mistakes, value.span(), key, "a string", other),
        }
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Complains if the key is missing.
    pub fn required_key(&self, mistakes: &mut Mistakes<'_>, key: &str) {
        if !self.has(key) {
            mistakes.add(self.place.clone(), format!("`{key}` is missing"));
        }
    }

    pub fn required(&mut self, mistakes: &mut Mistakes<'_>, key: &'static str) -> Option<Placed<String>> {
        self.required_key(mistakes, key);
        self.string(mistakes, key)
    }

    pub fn integer(
        &mut self,
        mistakes: &mut Mistakes<'_>,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = self.take(key)?;
        let DeValue::Integer(digits) = value.get_ref() else {
            return wrong_type(mistakes, value.span(), key, "a number", value.get_ref());
        };
        let number = u32::from_str_radix(&digits.as_str().replace('_', ""), digits.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            mistakes.add(value.span(), format!("`{key}` must be from {} to {}", range.start(), range.end()));
        }
        number
    }

    pub fn boolean(&mut self, mistakes: &mut Mistakes<'_>, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        match value.get_ref() {
            DeValue::Boolean(yes) => Some(*yes),
            other => wrong_type(mistakes, value.span(), key, "true or false", other),
        }
    }

    /// One of `choices`, by name.
    pub fn choice<T: Copy>(
        &mut self,
        mistakes: &mut Mistakes<'_>,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let (word, span) = self.string(mistakes, key)?;
        let found = choices.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            mistakes.add(span, format!("`{word}` is no value for `{key}`{}", suggestion(&word, &names)));
        }
        found
    }

    /// A string that `parse` understands; `what` says what it must be.
    pub fn parsed<T>(
        &mut self,
        mistakes: &mut Mistakes<'_>,
        key: &'static str,
        what: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Placed<T>> {
        let (text, span) = self.string(mistakes, key)?;
        let value = parse(&text);
        if value.is_none() {
            mistakes.add(span.clone(), format!("`{key}` must be {what}"));
        }
        Some((value?, span))
    }

    /// The elements of an array of strings.
    pub fn strings(&mut self, mistakes: &mut Mistakes<'_>, key: &'static str) -> Vec<Placed<String>> {
        let mut found = Vec::new();
        for value in self.array(mistakes, key, "an array of strings") {
            match value.get_ref() {
                DeValue::String(text) => found.push((text.to_string(), value.span())),
                other => {
                    let _: Option<()> = wrong_type(mistakes, value.span(), key, "an array of strings", other);
                }
            }
        }
        found
    }

    /// The elements of an array of tables.
    pub fn tables(&mut self, mistakes: &mut Mistakes<'_>, key: &'static str) -> Vec<Fields<'a, 'i>> {
        let mut found = Vec::new();
        for value in self.array(mistakes, key, "an array of tables") {
            match value.get_ref() {
                DeValue::Table(table) => found.push(Fields::new(table, value.span())),
                other => {
                    let _: Option<()> = wrong_type(mistakes, value.span(), key, "an array of tables", other);
                }
            }
        }
        found
    }

    /// A table.
    pub fn table(&mut self, mistakes: &mut Mistakes<'_>, key: &'static str) -> Option<Fields<'a, 'i>> {
        let value = self.take(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Fields::new(table, value.span())),
            other => wrong_type(mistakes, value.span(), key, "a table", other),
        }
    }

    fn array(&mut self, mistakes: &mut Mistakes<'_>, key: &'static str, what: &str) -> &'a [Spanned<DeValue<'i>>] {
        let Some(value) = self.take(key) else { return &[] };
        match value.get_ref() {
            DeValue::Array(values) => values,
            other => wrong_type(mistakes, value.span(), key, what, other).unwrap_or_default(),
        }
    }

    /// Complains about every key that nobody asked for.
    pub fn finish(self, mistakes: &mut Mistakes<'_>) {
        for key in self.table.keys().filter(|key| !self.valid.contains(&&**key.get_ref())) {
            let name = key.get_ref();
            mistakes.add(key.span(), format!("no key `{name}` here{}", suggestion(name, &self.valid)));
        }
    }
}

fn wrong_type<T>(
    mistakes: &mut Mistakes<'_>,
    span: Range<usize>,
    key: &str,
    wanted: &str,
    found: &DeValue<'_>,
) -> Option<T> {
    mistakes.add(span, format!("`{key}` must be {wanted}, not a value of type {}", found.type_str()));
    None
}
