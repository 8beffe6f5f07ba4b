//! The hostile domain: call after call, by seed.

use conformance_guests::abi::callback::CallbackType;
use conformance_guests::abi::event::EvtchnOp as Ev;
use conformance_guests::abi::grant::{GrantEntryV1, GrantOp, gntmap};
use conformance_guests::abi::hypercall::Hypercall as H;
use conformance_guests::abi::mmu::MmuextCmd as Cmd;
use conformance_guests::abi::sched::SchedOp;
use conformance_guests::abi::vcpu::VcpuOp;
use conformance_guests::abi::{DomId, Mfn, Pte, Virq};
use conformance_guests::domain_rt::probe::{call, peek, rough_store};
use conformance_guests::ops::{MAP, READ};

use crate::dice::Dice;
use crate::domain::{ARGS, GRANTS, PLAY, SECOND, SHARED, VIEWS, WORDS, at, word};

/// One hostile vCPU.
struct Brain {
    dice: Dice,
    vcpu: u64,
    /// Calls made, and how many of them succeeded; a hash of them all.
    calls: u64,
    good: u64,
    hash: u64,
}

/// What a number of the grant operations' statuses is at, of the second argument's structure.
const STATUS: [u64; 8] = [18, 20, 8, 2, 16, 36, 12, 20];

/// Where its vCPUs start.
pub extern "C" fn main(vcpu: u64) -> ! {
    let get = |index: u64| peek(at(WORDS) + 8 * index);
    // Upcalls come where a call unmasks them.
    rough_store(at(SHARED) + 64 * vcpu, 1 << 8);
    let seed = get(word::SEED).wrapping_mul(31).wrapping_add(get(word::OWN) << 8 | vcpu);
    let mut brain = Brain { dice: Dice::new(seed), vcpu, calls: 0, good: 0, hash: 0xcbf2_9ce4_8422_2325 };
    brain.open_table();
    let budget = get(word::BUDGET);
    while brain.calls < budget {
        brain.step();
        brain.report(0);
    }
    brain.report(1);
    loop {
        call(H::VCPU_OP, &[VcpuOp::DOWN.0.into(), vcpu, 0]);
        call(H::SCHED_OP, &[1, 0]);
    }
}

impl Brain {
    fn report(&self, through: u64) {
        let to = at(WORDS) + 8 * (word::COUNTS + 8 * self.vcpu);
        for (index, value) in (0..).zip([self.calls, self.good, self.hash, through]) {
            rough_store(to + 8 * index, value);
        }
    }

    /// Sets a word of the page of arguments.
    fn arg(&self, index: u64, value: u64) {
        rough_store(self.args() + 8 * index, value);
    }

    fn args(&self) -> u64 {
        at(ARGS + self.vcpu)
    }

    /// Where the arguments are; now and then somewhere else.
    fn pointer(&mut self) -> u64 {
        if self.dice.percent(97) { self.args() } else { self.dice.address() }
    }

    /// Makes a call, counts it, and remembers what came.
    fn make(&mut self, number: H, args: &[u64]) -> i64 {
        let ret = call(number, args);
        let op = args.first().copied().unwrap_or(0) as usize;
        let failed = match (STATUS.get(op), args) {
            (Some(at), [_, place, 1, ..]) if number == H::GRANT_TABLE_OP && *place == self.args() => {
                (peek(place + at) as i16) < 0
            }
            _ => false,
        };
        self.calls += 1;
        self.good += u64::from(ret >= 0 && !failed);
        self.hash = (self.hash ^ ret as u64 ^ u64::from(number.0) << 56).wrapping_mul(0x100_0000_01b3);
        ret
    }

    /// A call with its operation and a structure of these words.
    fn with(&mut self, number: H, op: u32, words: &[u64]) -> i64 {
        for (index, value) in (0..).zip(words) {
            self.arg(index, *value);
        }
        let at = self.pointer();
        self.make(number, &[op.into(), at, 1])
    }

    /// Maps its grant table where it can write it.
    fn open_table(&mut self) {
        let args = self.args();
        for (index, value) in (0..).zip([0x7ff0 | 1 << 32, 0, args + 256, 0]) {
            self.arg(index, value);
        }
        self.make(H::GRANT_TABLE_OP, &[GrantOp::SETUP_TABLE.0.into(), args, 1]);
        let entry = Pte::new(Mfn(peek(args + 256)), MAP);
        self.make(H::UPDATE_VA_MAPPING, &[at(GRANTS), entry.0, 2]);
    }

    /// One thing or another.
    fn step(&mut self) {
        match self.dice.below(100) {
            0..12 => self.mapping(),
            12..24 => self.updates(),
            24..32 => self.make_table(),
            32..42 => self.requests(),
            42..58 => self.grants(),
            58..72 => self.events(),
            72..77 => self.vcpus(),
            77..80 => self.schedule(),
            80..84 => self.reservations(),
            84..88 => self.stores(),
            88..91 => self.registers(),
            91..93 => self.batch(),
            _ => self.anything(),
        }
    }

    fn mapping(&mut self) {
        let va = match self.dice.below(10) {
            0..7 => self.dice.free_page(),
            7..9 => self.dice.own_page(),
            _ => self.dice.address(),
        };
        let entry = self.dice.leaf();
        let flags = self.dice.below(3);
        if self.dice.percent(85) {
            self.make(H::UPDATE_VA_MAPPING, &[va, entry, flags]);
        } else {
            let whose = self.dice.domain().0.into();
            self.make(H::UPDATE_VA_MAPPING_OTHERDOMAIN, &[va, entry, flags, whose]);
        }
    }

    /// Entries of the second table, mostly; of pages to play with, that may be tables.
    fn updates(&mut self) {
        let count = if self.dice.percent(70) { 1 } else { self.dice.below(5) };
        for index in 0..count {
            let second = Mfn(peek(at(WORDS) + 8 * (word::TABLES + 4)));
            let (table, entry) = match self.dice.below(10) {
                0..6 => (second, self.dice.leaf()),
                6..9 => (self.dice.own_frame(), self.dice.branch()),
                _ => (self.dice.frame(), self.dice.branch()),
            };
            let kind = if self.dice.percent(90) { self.dice.below(3) } else { self.dice.below(8) };
            let slot = self.dice.below(512);
            self.arg(2 * index, table.maddr().0 | (8 * slot) | kind);
            let pfn = self.dice.below(4096);
            self.arg(2 * index + 1, if kind == 1 { pfn } else { entry });
        }
        let whose = if self.dice.percent(90) { DomId::SELF } else { self.dice.domain() };
        let (at, done) = (self.pointer(), self.args() + 2048);
        self.make(H::MMU_UPDATE, &[at, count, done, whose.0.into()]);
    }

    /// Makes a page to play with a table: fills it, maps it read-only, pins it or uses it.
    fn make_table(&mut self) {
        let page = self.dice.below(32);
        let frame = Mfn(peek(at(WORDS) + 8 * (word::PLAY + page)));
        let level = self.dice.below(4);
        if self.dice.percent(80) {
            self.make(H::UPDATE_VA_MAPPING, &[at(PLAY + page), Pte::new(frame, MAP).0, 2]);
            (0..512).for_each(|index| {
                rough_store(at(PLAY + page) + 8 * index, 0);
            });
            for _ in 0..self.dice.below(6) {
                let entry = if level == 0 { self.dice.leaf() } else { self.dice.branch() };
                let slot = self.dice.below(512);
                rough_store(at(PLAY + page) + 8 * slot, entry);
            }
        }
        let view = if self.dice.percent(60) { Pte::new(frame, READ) } else { Pte::EMPTY };
        self.make(H::UPDATE_VA_MAPPING, &[at(PLAY + page), view.0, 2]);
        self.request(Cmd(level as u32), frame.0, 0);
        if self.dice.percent(60) {
            let other = self.dice.own_frame();
            let this = self.dice.percent(70);
            self.request(Cmd::UNPIN_TABLE, if this { frame.0 } else { other.0 }, 0);
        }
    }

    fn request(&mut self, cmd: Cmd, arg1: u64, arg2: u64) {
        [cmd.0.into(), arg1, arg2].into_iter().zip(0..).for_each(|(value, index)| self.arg(index, value));
        let whose = if self.dice.percent(95) { DomId::SELF } else { self.dice.domain() };
        let at = self.pointer();
        self.make(H::MMUEXT_OP, &[at, 1, 0, whose.0.into()]);
    }

    fn requests(&mut self) {
        let own = Mfn(peek(at(WORDS) + 8 * word::TABLES));
        let (cmd, arg1, arg2) = match self.dice.below(14) {
            0 => (Cmd(self.dice.below(4) as u32), self.dice.frame().0, 0),
            1 | 2 => (Cmd::UNPIN_TABLE, self.dice.own_frame().0, 0),
            3 => (Cmd::NEW_BASEPTR, if self.dice.percent(99) { own.0 } else { self.dice.own_frame().0 }, 0),
            4 => (Cmd::NEW_USER_BASEPTR, if self.dice.percent(40) { 0 } else { self.dice.frame().0 }, 0),
            5 => (Cmd(6 + self.dice.below(2) as u32), self.dice.address(), 0),
            6 => (Cmd(8 + self.dice.below(4) as u32), self.dice.address(), self.args()),
            7 | 8 => (Cmd::CLEAR_PAGE, self.dice.own_frame().0, 0),
            9 | 10 => (Cmd::COPY_PAGE, self.dice.own_frame().0, self.dice.frame().0),
            11 => (Cmd::SET_LDT, self.dice.own_page(), self.dice.below(600)),
            12 => (Cmd::SET_LDT, 0, 0),
            _ => (Cmd(self.dice.below(24) as u32), self.dice.word(), self.dice.word()),
        };
        self.request(cmd, arg1, arg2);
    }

    /// Writes an entry of its own grant table.
    fn grant_entry(&mut self) {
        let flags = match self.dice.below(10) {
            0..6 => GrantEntryV1::GTF_PERMIT_ACCESS,
            6..8 => GrantEntryV1::GTF_PERMIT_ACCESS | GrantEntryV1::GTF_READONLY,
            8 => 0,
            _ => self.dice.next() as u16,
        };
        let (to, frame) = (self.dice.partner(), self.dice.frame());
        let gref = 8 + if self.dice.percent(60) { self.dice.below(5) } else { self.dice.below(24) };
        rough_store(at(GRANTS) + 8 * gref, u64::from(flags) | u64::from(to.0) << 16 | frame.0 << 32);
    }

    fn grants(&mut self) {
        let second = Mfn(peek(at(WORDS) + 8 * (word::TABLES + 4))).maddr().0;
        let (whose, gref) = (self.dice.partner(), self.dice.gref());
        match self.dice.below(16) {
            0..3 => {
                self.grant_entry();
                self.grant_entry();
            }
            3..7 => {
                let kind =
                    self.dice.of(&[gntmap::HOST_MAP, gntmap::DEVICE_MAP, gntmap::HOST_MAP | gntmap::DEVICE_MAP], 0);
                let mut flags = kind | if self.dice.percent(50) { gntmap::READONLY } else { 0 };
                let mut host = self.dice.free_page();
                if self.dice.percent(25) {
                    flags |= gntmap::CONTAINS_PTE;
                    host = second + 8 * self.dice.below(6);
                }
                if self.dice.percent(3) {
                    flags = self.dice.garbage() as u32;
                }
                let words = [host, u64::from(flags) | u64::from(gref) << 32, u64::from(whose.0), 0];
                self.with(H::GRANT_TABLE_OP, GrantOp::MAP_GRANT_REF.0, &words);
                let answer = peek(self.args() + 16);
                let slot = self.dice.below(8) as usize;
                if (answer >> 16) as i16 == 0
                    && let Some(place) = self.dice.handles.get_mut(slot)
                {
                    *place = ((answer >> 32) as u32, host);
                }
            }
            7..11 => {
                let (handle, host) = self.dice.handle();
                let op = self.dice.of(&[GrantOp::UNMAP_GRANT_REF.0, 1, 1, GrantOp::UNMAP_AND_REPLACE.0], 1);
                let other = if op == 7 { self.dice.free_page() } else { 0 };
                self.with(H::GRANT_TABLE_OP, op, &[host, other, handle.into()]);
            }
            11..14 => {
                let end = |dice: &mut Dice, gref: u32| {
                    let offset = if dice.percent(50) { 0 } else { dice.below(4096) };
                    let by_ref = dice.percent(50);
                    let (place, dom) =
                        if by_ref { (gref.into(), dice.partner()) } else { (dice.frame().0, DomId::SELF) };
                    (by_ref, place, u64::from(dom.0) | offset << 16)
                };
                let (from, to) = (end(&mut self.dice, gref), end(&mut self.dice, gref + 1));
                let len = if self.dice.percent(80) { self.dice.below(512) } else { self.dice.below(8192) };
                let flags = u64::from(from.0) | u64::from(to.0) << 1;
                let words = [from.1, from.2, to.1, to.2, len | flags << 16];
                self.with(H::GRANT_TABLE_OP, GrantOp::COPY.0, &words);
            }
            14 => {
                let count = self.dice.below(6);
                let words = [u64::from(self.dice.domain().0) | count << 32, 0, self.args() + 256];
                self.with(H::GRANT_TABLE_OP, GrantOp::SETUP_TABLE.0, &words);
            }
            _ => {
                let op = self.dice.of(&[6, 8, 10, 3, 4, 9, 11, 12], 6);
                let words =
                    [self.dice.below(3) | u64::from(self.dice.domain().0) << 16, self.dice.word(), self.dice.word()];
                self.with(H::GRANT_TABLE_OP, op, &words);
            }
        }
    }

    fn events(&mut self) {
        let ev = |op: Ev| op.0;
        let (port, vcpu) = (u64::from(self.dice.port()), u64::from(self.dice.vcpu()));
        let (domain, partner) = (u64::from(self.dice.domain().0), u64::from(self.dice.partner().0));
        let frame = self.dice.own_frame().0;
        let (op, words, made) = match self.dice.below(40) {
            0..5 => (ev(Ev::ALLOC_UNBOUND), [0x7ff0 | partner << 16, 0, 0], 1),
            5..9 => (ev(Ev::BIND_INTERDOMAIN), [partner | port << 32, 0, 0], 2),
            9..12 => (ev(Ev::BIND_IPI), [vcpu, 0, 0], 1),
            12..14 => (ev(Ev::BIND_VIRQ), [self.dice.below(24) | vcpu << 32, 0, 0], 3),
            14..18 => (ev(Ev::CLOSE), [port, 0, 0], 0),
            18..25 => (ev(Ev::SEND), [port, 0, 0], 0),
            25..28 => (ev(Ev::STATUS), [domain | port << 32, 0, 0], 0),
            28..32 => (ev(Ev::UNMASK), [port, 0, 0], 0),
            32..34 => (ev(Ev::BIND_VCPU), [port | vcpu << 32, 0, 0], 0),
            34 => (ev(Ev::BIND_PIRQ), [self.dice.below(40) | self.dice.below(2) << 32, 0, 0], 3),
            35 => (ev(Ev::INIT_CONTROL), [frame, (8 * self.dice.below(520)) | (vcpu << 32), 0], 0),
            36 => (ev(Ev::EXPAND_ARRAY), [frame, 0, 0], 0),
            37 => (ev(Ev::SET_PRIORITY), [port | self.dice.below(17) << 32, 0, 0], 0),
            38 if self.dice.percent(20) => (ev(Ev::RESET), [domain, 0, 0], 0),
            _ => (self.dice.below(16) as u32, [self.dice.word(), self.dice.word(), 0], 0),
        };
        let ret = self.with(H::EVENT_CHANNEL_OP, op, &words);
        // Where the new port is: in the second half of a word.
        let answer = match made {
            1 => peek(self.args()) >> 32,
            2 | 3 => peek(self.args() + 8),
            _ => return,
        };
        let slot = self.dice.below(8) as usize;
        if ret == 0
            && let Some(place) = self.dice.ports.get_mut(slot)
        {
            *place = answer as u32;
        }
    }

    fn vcpus(&mut self) {
        let vcpu = self.dice.vcpu().into();
        let now = self.now();
        let (op, words) = match self.dice.below(13) {
            0 => (VcpuOp::UP, [0, 0]),
            1 => (VcpuOp::IS_UP, [0, 0]),
            2 => (VcpuOp::GET_RUNSTATE_INFO, [0, 0]),
            3 => (VcpuOp::REGISTER_RUNSTATE_MEMORY_AREA, [self.dice.address(), 0]),
            4 => (VcpuOp::SET_PERIODIC_TIMER, [self.dice.below(100) * 100_000, 0]),
            5 => (VcpuOp::STOP_PERIODIC_TIMER, [0, 0]),
            6 => (VcpuOp::SET_SINGLESHOT_TIMER, [now + self.dice.below(1 << 20), self.dice.below(2)]),
            7 => (VcpuOp::STOP_SINGLESHOT_TIMER, [0, 0]),
            8 => (VcpuOp::REGISTER_VCPU_TIME_MEMORY_AREA, [self.dice.address(), 0]),
            9 if self.dice.percent(10) => {
                (VcpuOp::REGISTER_VCPU_INFO, [self.dice.own_frame().0, 8 * self.dice.below(512)])
            }
            10 => (VcpuOp::SEND_NMI, [0, 0]),
            11 if self.dice.percent(5) => (VcpuOp::DOWN, [0, 0]),
            _ => (VcpuOp(self.dice.below(16) as u32), [self.dice.word(), self.dice.word()]),
        };
        if op == VcpuOp::DOWN && !self.dice.percent(10) {
            return;
        }
        words.into_iter().zip(0..).for_each(|(value, index)| self.arg(index, value));
        let at = if op == VcpuOp::SEND_NMI { 0 } else { self.pointer() };
        self.make(H::VCPU_OP, &[op.0.into(), vcpu, at]);
    }

    fn now(&self) -> u64 {
        // A clock that was scribbled over is as good as another: a bounded number of looks.
        let info = at(SHARED) + 64 * self.vcpu;
        if peek(info + 32) & 1 == 0 { peek(info + 48) } else { 0 }
    }

    /// Gives the CPU away; never for long.
    fn schedule(&mut self) {
        let soon = self.now() + self.dice.below(1 << 16);
        match self.dice.below(40) {
            0..16 => _ = self.make(H::SCHED_OP, &[0, 0]),
            16 if self.dice.percent(10) => {
                // The timer wakes it, whatever was made of the port or its mask.
                self.with(H::EVENT_CHANNEL_OP, Ev::BIND_VIRQ.0, &[u64::from(Virq::TIMER.0) | self.vcpu << 32]);
                (0..64).for_each(|index| _ = rough_store(at(SHARED) + 2560 + 8 * index, 0));
                self.make(H::SET_TIMER_OP, &[soon]);
                self.make(H::SCHED_OP, &[1, 0]);
            }
            17..34 => {
                let list = self.args() + 128;
                (0..4).for_each(|index| {
                    let ports = u64::from(self.dice.port()) | u64::from(self.dice.port()) << 32;
                    self.arg(16 + index, ports);
                });
                let count = self.dice.below(9);
                self.with(H::SCHED_OP, SchedOp::POLL.0, &[list, count, soon]);
            }
            34 => {
                let words = [self.dice.below(4) | (100 + self.dice.below(100)) << 32, 0];
                self.with(H::SCHED_OP, SchedOp::WATCHDOG.0, &words);
            }
            35 => {
                let words = [u64::from(self.dice.domain().0) | self.dice.below(6) << 32, 0];
                // Its own end is for the few.
                if words[0] as u16 != peek(at(WORDS) + 8 * word::OWN) as u16 || self.dice.percent(5) {
                    self.with(H::SCHED_OP, SchedOp::REMOTE_SHUTDOWN.0, &words);
                }
            }
            36 => _ = self.with(H::SCHED_OP, 5, &[3]),
            37 if self.dice.percent(3) => {
                let reason = self.dice.below(7);
                self.with(H::SCHED_OP, SchedOp::SHUTDOWN.0, &[reason]);
            }
            _ => {
                let op = 7 + self.dice.below(4);
                let at = self.pointer();
                self.make(H::SCHED_OP, &[op, at]);
            }
        }
    }

    fn reservations(&mut self) {
        let count = self.dice.below(9);
        (0..8).for_each(|index| {
            let frame = if self.dice.percent(80) { self.dice.own_frame() } else { self.dice.frame() };
            self.arg(64 + index, frame.0);
            self.arg(80 + index, frame.0);
        });
        let list = self.args() + 512;
        let order = if self.dice.percent(90) { 0 } else { self.dice.below(11) };
        let whose = u64::from(if self.dice.percent(90) { DomId::SELF } else { self.dice.domain() }.0);
        let one = |list: u64, count: u64| [list, count, order, whose];
        let (op, first) = match self.dice.below(12) {
            0..4 => (0, one(list + 256, count)),
            4 => (1, one(list, 1)),
            5..8 => (1, one(list + 256, count)),
            8 => (6, one(list, count)),
            9 => (11, one(list, 1)),
            _ => (self.dice.below(28), [self.dice.word(), self.dice.word(), self.args() + 1024, 0]),
        };
        first.into_iter().zip(0..).for_each(|(value, index)| self.arg(index, value));
        if op == 11 {
            one(list + 128, 1).into_iter().chain([0]).zip(4..).for_each(|(value, index)| self.arg(index, value));
        }
        let at = self.pointer();
        self.make(H::MEMORY_OP, &[op, at]);
    }

    /// Stores into live page tables, through read-only views of them; and into what it shares with the core.
    fn stores(&mut self) {
        let (page, entry) = match self.dice.below(8) {
            0..5 => (at(VIEWS + 1), self.dice.leaf()),
            5 => (self.dice.own_page(), self.dice.branch()),
            6 => (at(SHARED), self.dice.garbage()),
            _ => (self.dice.own_page(), self.dice.garbage()),
        };
        let slot = if page == at(SHARED) { 16 + self.dice.below(300) } else { self.dice.below(512) };
        let stored = rough_store(page + 8 * slot, entry);
        self.calls += 1;
        self.good += u64::from(stored);
    }

    fn registers(&mut self) {
        match self.dice.below(12) {
            0 => {
                let (which, base) = (self.dice.below(5), self.dice.address());
                self.make(H::SET_SEGMENT_BASE, &[which.min(2), base]);
            }
            1 => {
                let (which, value) = (self.dice.below(9), self.dice.garbage());
                self.make(H::SET_DEBUGREG, &[which, if which == 7 { 0 } else { value }]);
            }
            2 => {
                let which = self.dice.below(9);
                self.make(H::GET_DEBUGREG, &[which]);
            }
            3 => {
                let set = self.dice.below(2);
                self.make(H::FPU_TASKSWITCH, &[set]);
                self.make(H::FPU_TASKSWITCH, &[0]);
            }
            4 | 5 => {
                let frame = self.dice.own_frame().0;
                let entries = self.dice.below(600);
                let other = self.dice.frame().0;
                self.arg(0, frame);
                self.arg(1, other);
                let at = self.pointer();
                self.make(H::SET_GDT, &[at, entries]);
            }
            6 => _ = self.make(H::SET_GDT, &[0, 0]),
            7 | 8 => {
                let place = self.dice.frame().maddr().0 + 8 * self.dice.below(512);
                let low = self.dice.next();
                let descriptor = if self.dice.percent(60) { 0x00af_fb00_0000_ffff } else { low };
                self.make(H::UPDATE_DESCRIPTOR, &[place, descriptor]);
            }
            9 => {
                // A handler of a vector that nothing raises; rarely, all handlers gone.
                let at = if self.dice.percent(99) { self.args() } else { self.dice.address() };
                [0xe033_0000 | (0x80 + self.dice.below(64)), self.dice.address(), 0, 0]
                    .into_iter()
                    .zip(0..)
                    .for_each(|(value, index)| self.arg(index, value));
                self.make(H::SET_TRAP_TABLE, &[at]);
            }
            10 => {
                let (command, kind) = (self.dice.below(3), self.dice.of(&[0, 1, 2, 3, 4, 5, 6, 32], 0));
                self.make(H::VM_ASSIST, &[command, kind]);
            }
            _ => {
                // An NMI would go there.
                let nmi = self.dice.percent(2);
                let kind = if nmi { CallbackType::NMI.0 } else { CallbackType::SYSCALL.0 };
                let address = self.dice.address();
                let op = self.dice.below(3) as u32;
                self.with(H::CALLBACK_OP, op, &[u64::from(kind), address]);
            }
        }
    }

    /// Some calls in one; what fails in it is seen in the entries.
    fn batch(&mut self) {
        let count = 1 + self.dice.below(4);
        for entry in 0..count {
            let at = 128 + 8 * entry;
            let (number, args) = match self.dice.below(5) {
                0 => (H::XEN_VERSION, [7, 0, 0]),
                1 => (H::UPDATE_VA_MAPPING, [self.dice.free_page(), self.dice.leaf(), 2]),
                2 => (H::UPDATE_VA_MAPPING, [self.dice.own_page(), self.dice.leaf(), 1]),
                3 => (H::EVENT_CHANNEL_OP, [4, self.args(), 0]),
                _ => (H(self.dice.below(40) as u32), [self.dice.word(), self.dice.address(), self.dice.word()]),
            };
            let number = if self.is_end(number, args) { H::XEN_VERSION } else { number };
            [u64::from(number.0), 0].into_iter().chain(args).chain([0, 0, 0]).zip(at..).for_each(|(value, index)| {
                self.arg(index, value);
            });
        }
        let port = self.dice.port().into();
        self.arg(0, port);
        let list = self.args() + 1024;
        self.make(H::MULTICALL, &[list, count]);
    }

    /// Calls that mostly end the caller: made now and then only.
    fn is_end(&mut self, number: H, args: [u64; 3]) -> bool {
        let ends = match number {
            H::IRET | H::STACK_SWITCH | H::SET_CALLBACKS | H::SET_TRAP_TABLE => true,
            H::SCHED_OP => matches!(args[0] as u32, 1..4),
            H::CALLBACK_OP | H::NMI_OP => args[0] as u32 == 0,
            H::VCPU_OP => args[0] as u32 == 2,
            H::EVENT_CHANNEL_OP => false,
            _ => false,
        };
        ends && !self.dice.percent(2)
    }

    /// Any call, any operation, words of any kind.
    fn anything(&mut self) {
        let number = H(self.dice.below(40) as u32);
        (0..12).for_each(|index| {
            let word = self.dice.word();
            self.arg(index, word);
        });
        let op = if self.dice.percent(90) { self.dice.below(40) } else { self.dice.word() };
        let (at, third, fourth) = (self.pointer(), self.dice.word(), self.dice.word());
        let args = match number {
            H::DOMCTL | H::SYSCTL => {
                let (command, whose) = (self.dice.below(95), self.dice.domain().0);
                self.arg(0, command | 0x15 << 32);
                self.arg(1, whose.into());
                [at, third, fourth]
            }
            H::MMU_UPDATE | H::MMUEXT_OP => [at, self.dice.below(3), 0],
            H::VCPU_OP => [op, third & 1, at],
            H::CONSOLE_IO => [op & 1, self.dice.below(64), at],
            H::XEN_VERSION => [op & 15, at, 0],
            _ => [op, at, if self.dice.percent(50) { 1 } else { third }],
        };
        if self.is_end(number, args) {
            return;
        }
        self.make(number, &args);
    }
}

/// Where the second table's addresses begin is nobody's but the calls' above.
const _: () = assert!(SECOND > at(VIEWS));
