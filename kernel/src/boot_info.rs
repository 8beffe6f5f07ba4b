//! What the loader says: memory, modules, command line, ACPI root. Multiboot 1 and 2 give one type.

use abi::memory::E820Entry;
use heapless::Vec;

use crate::physical;

/// A range of machine addresses.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Its first byte.
    pub start: u64,
    /// The byte behind it.
    pub end: u64,
}

/// A module: an image or a ramdisk, and its own command line.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its bytes.
    pub range: Range,
    /// Its command line.
    pub text: Text,
}

/// A command line, cut to what a domain's may have (`MAX_GUEST_CMDLINE`).
pub type Text = Vec<u8, 1024>;

/// What the loader says.
#[derive(Debug)]
pub struct BootInfo {
    /// The memory map, as the firmware gave it.
    pub regions: Vec<E820Entry, 64>,
    /// The modules, in order.
    pub modules: Vec<Module, 8>,
    /// The core's own options.
    pub options: Text,
    /// Where the ACPI root is, if the loader knows.
    pub rsdp: Option<u64>,
}

/// Why there is no boot information.
#[derive(Debug)]
pub struct UnknownLoader(pub u32);

impl BootInfo {
    /// Reads what a loader with this magic left at `info`.
    pub fn read(magic: u32, info: u64) -> Result<Self, UnknownLoader> {
        let mut boot = Self { regions: Vec::new(), modules: Vec::new(), options: Text::new(), rsdp: None };
        match magic {
            0x2bad_b002 => boot.multiboot1(info),
            0x36d7_6289 => boot.multiboot2(info),
            _ => return Err(UnknownLoader(magic)),
        }
        Ok(boot)
    }

    fn add_region(&mut self, start: u64, length: u64, kind: u32) {
        let _ = self.regions.push(E820Entry { addr: start, size: length.min(u64::MAX - start), kind });
    }

    /// The regions of one of these kinds: 1 usable, 2 reserved, 3 ACPI tables, 4 ACPI NVS, 5 bad.
    pub fn regions_of(&self, kinds: &[u32]) -> impl Iterator<Item = Range> {
        let wanted = self.regions.iter().filter(|region| kinds.contains(&{ region.kind }));
        wanted.map(|region| Range { start: region.addr, end: region.addr + region.size })
    }

    fn add_module(&mut self, start: u64, end: u64, text: Text) {
        let _ = self.modules.push(Module { range: Range { start, end }, text });
    }

    fn multiboot1(&mut self, info: u64) {
        let field = |offset: u64| u64::from(physical::read::<u32>(info + offset));
        let flags = field(0);
        if flags & 1 << 2 != 0 {
            self.options = without_image_name(text(field(16)));
        }
        if flags & 1 << 3 != 0 {
            for at in (0..field(20)).map(|n| field(24) + n * 16) {
                let word = |offset: u64| u64::from(physical::read::<u32>(at + offset));
                self.add_module(word(0), word(4), without_image_name(text(word(8))));
            }
        }
        if flags & 1 << 6 != 0 {
            let (mut at, end) = (field(48), field(48) + field(44));
            while at < end {
                let (base, length) = (physical::read(at + 4), physical::read(at + 12));
                self.add_region(base, length, physical::read(at + 20));
                at += u64::from(physical::read::<u32>(at)) + 4;
            }
        }
    }

    fn multiboot2(&mut self, info: u64) {
        let end = info + u64::from(physical::read::<u32>(info));
        let mut at = info + 8;
        while at + 8 <= end {
            let (kind, size): (u32, u32) = (physical::read(at), physical::read(at + 4));
            match kind {
                0 => break,
                1 => self.options = text(at + 8),
                3 => {
                    let word = |offset: u64| u64::from(physical::read::<u32>(at + offset));
                    self.add_module(word(8), word(12), text(at + 16));
                }
                6 => {
                    let step = u64::from(physical::read::<u32>(at + 8)).max(24);
                    let mut entry = at + 16;
                    while entry + 24 <= at + u64::from(size) {
                        let (base, length) = (physical::read(entry), physical::read(entry + 8));
                        self.add_region(base, length, physical::read(entry + 16));
                        entry += step;
                    }
                }
                14 | 15 => self.rsdp = Some(at + 8),
                _ => {}
            }
            at += (u64::from(size).max(8) + 7) & !7;
        }
    }

    /// The value of the core's option `name=value`, or the empty string for a bare `name`.
    pub fn option(&self, name: &str) -> Option<&str> {
        let options = core::str::from_utf8(&self.options).ok()?;
        options.split_ascii_whitespace().find_map(|word| {
            let rest = word.strip_prefix(name)?;
            if rest.is_empty() { Some("") } else { rest.strip_prefix('=') }
        })
    }
}

/// A size with an optional suffix K, M or G (bytes without one), as `dom0_mem=` takes it.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn text(at: u64) -> Text {
    let mut text = Text::new();
    let mut at = at;
    while let byte @ 1.. = physical::read::<u8>(at) {
        if text.push(byte).is_err() {
            break;
        }
        at += 1;
    }
    text
}

/// Multiboot 1 loaders put the image's name first.
fn without_image_name(text: Text) -> Text {
    let mut words = text.splitn(2, |&b| b == b' ');
    words.next();
    Text::from_slice(words.next().unwrap_or_default()).unwrap_or_default()
}
