//! Chance by seed, and the arguments it picks: mostly what exists, now and then what cannot.

use conformance_guests::abi::{DomId, Mfn, Pte, PteFlags};
use conformance_guests::domain_rt::probe::peek;
use conformance_guests::ops::{MAP, READ, TABLE};

use crate::domain::{FREE, PAGES, PLAY, SECOND, WORDS, at, word};

/// The generator (xorshift64*), and what the last calls gave.
pub struct Dice {
    state: u64,
    /// Handles of grants that were mapped, and where; ports that were made: the last few.
    pub handles: [(u32, u64); 8],
    /// See [`Dice::handles`].
    pub ports: [u32; 8],
}

impl Dice {
    /// Of a seed.
    pub fn new(seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { state, handles: [(0, 0); 8], ports: [1; 8] }
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }

    /// True so many times of a hundred.
    pub fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    /// One of a list.
    pub fn of<T: Copy>(&mut self, list: &[T], or: T) -> T {
        let index = self.below(list.len() as u64) as usize;
        list.get(index).copied().unwrap_or(or)
    }

    /// A number as programs pass them where they do not think.
    pub fn garbage(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => 0xffff_8000_0000_0000 | self.below(1 << 47),
            4 => 0x8000_0000_0000_0000 >> self.below(20),
            5 => self.below(1 << 32),
            6 => self.below(100),
            _ => self.next(),
        }
    }

    /// A frame to play with.
    pub fn own_frame(&mut self) -> Mfn {
        let index = self.below(PAGES as u64);
        Mfn(peek(at(WORDS) + 8 * (word::PLAY + index)))
    }

    /// Any frame: one's own, a table, somebody else's, none.
    pub fn frame(&mut self) -> Mfn {
        let word = match self.below(100) {
            0..80 => return self.own_frame(),
            80..88 => word::TABLES + 4,
            88..90 => word::TABLES + self.below(5),
            90..96 => word::OTHERS + self.below(8),
            96..98 => return Mfn(self.below(1 << 16)),
            _ => return Mfn(self.garbage()),
        };
        Mfn(peek(at(WORDS) + 8 * word))
    }

    /// An address of a page to play with.
    pub fn own_page(&mut self) -> u64 {
        at(PLAY + self.below(PAGES as u64))
    }

    /// An address where nothing of importance is mapped.
    pub fn free_page(&mut self) -> u64 {
        // A few are met again and again.
        match self.below(10) {
            0..5 => SECOND + (self.below(6) << 12),
            5..8 => SECOND + (self.below(64) << 12),
            _ => at(FREE + self.below(64)),
        }
    }

    /// Any address.
    pub fn address(&mut self) -> u64 {
        match self.below(100) {
            0..50 => self.own_page() + if self.percent(80) { 0 } else { self.below(4096) },
            50..92 => self.free_page(),
            _ => self.garbage(),
        }
    }

    /// A page-table entry that names a page.
    pub fn leaf(&mut self) -> u64 {
        match self.below(100) {
            0..35 => 0,
            35..65 => Pte::new(self.frame(), MAP).0,
            65..90 => Pte::new(self.frame(), READ).0,
            90..96 => Pte::new(self.frame(), PteFlags(self.below(1 << 9))).0,
            96..98 => Pte::new(self.frame(), MAP).0 | 1 << (52 + self.below(12)),
            _ => self.garbage(),
        }
    }

    /// One that names a table.
    pub fn branch(&mut self) -> u64 {
        if self.percent(60) { Pte::new(self.frame(), TABLE).0 } else { self.leaf() }
    }

    /// A domain: one's own, the others, none.
    pub fn domain(&mut self) -> DomId {
        let word = match self.below(100) {
            0..45 => return DomId::SELF,
            45..60 => word::OWN,
            60..80 => word::PEER,
            80..87 => word::INNOCENT,
            87..94 => return DomId(0),
            94..97 => return DomId::IO,
            _ => return DomId(self.garbage() as u16),
        };
        DomId(peek(at(WORDS) + 8 * word) as u16)
    }

    /// A domain that a grant or a channel may be for.
    pub fn partner(&mut self) -> DomId {
        let word = if self.percent(70) { word::PEER } else { word::OWN };
        if self.percent(85) { DomId(peek(at(WORDS) + 8 * word) as u16) } else { self.domain() }
    }

    /// A port.
    pub fn port(&mut self) -> u32 {
        match self.below(100) {
            0..60 => {
                let ports = self.ports;
                self.of(&ports, 1)
            }
            60..90 => self.below(24) as u32,
            90..97 => self.below(4200) as u32,
            _ => self.garbage() as u32,
        }
    }

    /// A grant reference.
    pub fn gref(&mut self) -> u32 {
        match self.below(100) {
            0..50 => self.below(5) as u32 + 8,
            50..85 => self.below(24) as u32 + 8,
            85..97 => self.below(2100) as u32,
            _ => self.garbage() as u32,
        }
    }

    /// A vCPU's number.
    pub fn vcpu(&mut self) -> u32 {
        if self.percent(95) { self.below(2) as u32 } else { self.garbage() as u32 }
    }

    /// A mapped grant's handle, and the address it was mapped at.
    pub fn handle(&mut self) -> (u32, u64) {
        let handles = self.handles;
        match self.below(100) {
            0..70 => self.of(&handles, (0, 0)),
            70..80 => (self.of(&handles, (0, 0)).0, self.free_page()),
            80..95 => (self.below(64) as u32, self.free_page()),
            _ => (self.garbage() as u32, self.address()),
        }
    }

    /// A word of any structure.
    pub fn word(&mut self) -> u64 {
        match self.below(10) {
            0 => self.frame().0,
            1 => self.address(),
            2 => self.domain().0.into(),
            3 => self.port().into(),
            4 => self.gref().into(),
            5 => self.below(4),
            6 => self.below(40) | self.below(40) << 32,
            7 => u64::from(self.domain().0) | self.below(40) << 32,
            _ => self.garbage(),
        }
    }
}
