//! What backends count, as `network-list -v` and `block-list -v` show it: the counts, then what they come to for each
//! byte, packet and request. A backend writes names and numbers in turn.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use ring_proto::path::{Class, decimal};

/// Counts by their names; a word that is no number counts as none.
struct Counts<'a>(BTreeMap<&'a str, u64>);

impl<'a> Counts<'a> {
    fn parse(stats: &'a str) -> Self {
        let mut words = stats.split_ascii_whitespace();
        Self(core::iter::from_fn(|| Some((words.next()?, decimal(words.next()?).unwrap_or(0)))).collect())
    }

    fn sum(&self, names: &[&str]) -> u64 {
        names.iter().filter_map(|name| self.0.get(name)).fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// ` name=ratio` to two digits; nothing where there is nothing to divide by.
    fn ratio(&self, name: &str, of: &[&str], per: &[&str]) -> String {
        let (of, per) = (self.sum(of), self.sum(per));
        match of.saturating_mul(100).saturating_add(per / 2).checked_div(per) {
            Some(hundredths) => format!(" {name}={}.{:02}", hundredths / 100, hundredths % 100),
            None => String::new(),
        }
    }

    fn counts(&self) -> String {
        self.0.iter().map(|(name, count)| format!(" {name}={count}")).collect()
    }
}

/// The figures of one device.
pub fn of_device(class: Class, stats: &str) -> String {
    let counts = Counts::parse(stats);
    let ratios = match class {
        Class::VIF => [
            counts.ratio("copied-per-byte-out", &["tx-copied"], &["tx-bytes"]),
            counts.ratio("copied-per-byte-in", &["rx-copied"], &["rx-bytes"]),
            counts.ratio("events-per-packet", &["notifications"], &["tx-packets", "rx-packets"]),
        ],
        _ => [
            counts.ratio("copied-per-byte", &["bytes-copied"], &["bytes-read", "bytes-written"]),
            counts.ratio("events-per-request", &["notifications"], &["requests"]),
            String::new(),
        ],
    };
    counts.counts() + &ratios.concat()
}

/// The figures of a whole backend.
pub fn of_backend(class: Class, stats: &str) -> String {
    let counts = Counts::parse(stats);
    let (unit, suffix) = if class == Class::VIF { ("packets", "packet") } else { ("requests", "request") };
    let ratio = |what: &str, name: &str| counts.ratio(&format!("{name}-per-{suffix}"), &[what], &[unit]);
    counts.counts() + &ratio("hypercalls", "hypercalls") + &ratio("events", "events")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_become_ratios() {
        let stats =
            "tx-packets 10 tx-bytes 1000 tx-copied 0 rx-packets 30 rx-bytes 3000 rx-copied 3015 notifications 9";
        let shown = of_device(Class::VIF, stats);
        assert!(shown.starts_with(" notifications=9 rx-bytes=3000"), "{shown}");
        assert!(shown.ends_with(" copied-per-byte-out=0.00 copied-per-byte-in=1.01 events-per-packet=0.23"), "{shown}");
        let shown = of_device(Class::VBD, "bytes-read 4096 bytes-written 4096 bytes-copied 8192 requests 2");
        assert!(shown.ends_with(" copied-per-byte=1.00 events-per-request=0.00"), "{shown}");
        let shown = of_backend(Class::VIF, "packets 4 hypercalls 6 events 2");
        assert_eq!(shown, " events=2 hypercalls=6 packets=4 hypercalls-per-packet=1.50 events-per-packet=0.50");
    }

    #[test]
    fn nonsense_is_survived() {
        assert_eq!(of_device(Class::VIF, ""), "");
        assert_eq!(of_device(Class::VBD, "requests x odd"), " requests=0");
        let huge = of_backend(Class::VBD, "requests 1 hypercalls 18446744073709551615");
        assert!(huge.contains("hypercalls-per-request="), "{huge}");
    }
}
