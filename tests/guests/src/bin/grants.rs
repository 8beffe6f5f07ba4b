//! grant_table_op on one's own grants: set-up, map, unmap, copy, replace, and every refusal.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

use conformance_guests::abi::grant::*;
use conformance_guests::abi::hypercall::Hypercall;
use conformance_guests::abi::trap::vector;
use conformance_guests::abi::{DomId, Errno, GrantRef, Maddr, Mfn, Pte, PteFlags, Vaddr};
use conformance_guests::domain_rt::probe::{self, Entry, Page, Regs, call, exec};
use conformance_guests::ops::{MAP, grant, update_va};
use conformance_guests::{Test, code, guest};

guest!(run);

const NOBODY: DomId = DomId(77);
const HOST: u32 = gntmap::HOST_MAP;
const RO: u32 = gntmap::READONLY;
const ACCESS: u16 = GrantEntryV1::GTF_PERMIT_ACCESS;
const ACCESS_RO: u16 = ACCESS | GrantEntryV1::GTF_READONLY;

fn run(t: &mut Test) {
    let Some(table) = setup(t) else { return };
    map(t, &table);
    refusals(t, &table);
    by_entry(t, &table);
    device(t, &table);
    copy(t, &table);
    replace(t, &table);
    versions(t);
}

/// The first frame of the grant table, mapped.
struct Table(u64);

impl Table {
    fn set(&self, index: u32, flags: u16, domid: u16, mfn: Mfn) {
        let word = u64::from(flags) | u64::from(domid) << 16 | mfn.0 << 32;
        probe::poke(self.0 + 8 * u64::from(index), word);
    }

    fn flags(&self, index: u32) -> u16 {
        probe::peek(self.0 + 8 * u64::from(index)) as u16
    }
}

fn setup(t: &mut Test) -> Option<Table> {
    t.err("argument nowhere", call(Hypercall::GRANT_TABLE_OP, &[2, 0x1000, 1]), Errno::EFAULT);
    t.err("unknown op", call(Hypercall::GRANT_TABLE_OP, &[13, 0x1000, 1]), Errno::ENOSYS);
    t.ok("none", call(Hypercall::GRANT_TABLE_OP, &[0, 0x1000, 0]));
    t.err("a negative count", call(Hypercall::GRANT_TABLE_OP, &[0, 0x1000, u32::MAX.into()]), Errno::EINVAL);
    let mut size = QuerySize { dom: DomId::SELF, ..QuerySize::default() };
    t.ok("query_size", grant(GrantOp::QUERY_SIZE, &mut size));
    t.eq("okay", size.status, GrantStatus::OKAY);
    t.yes("frames", size.nr_frames >= 1 && size.nr_frames <= size.max_nr_frames);
    let mut size = QuerySize { dom: NOBODY, ..QuerySize::default() };
    t.ok("query_size of nobody", grant(GrantOp::QUERY_SIZE, &mut size));
    t.eq("says so", size.status, GrantStatus::BAD_DOMAIN);
    let mut list = [0u64; 2];
    let attempt = |dom, nr_frames, list: Vaddr| {
        let mut arg = SetupTable { dom, nr_frames, frame_list: list, ..SetupTable::default() };
        (grant(GrantOp::SETUP_TABLE, &mut arg), arg.status)
    };
    let at = Vaddr(list.as_mut_ptr() as u64);
    t.eq("setup_table", attempt(DomId::SELF, 2, at), (0, GrantStatus::OKAY));
    t.eq("of nobody", attempt(NOBODY, 1, at), (0, GrantStatus::BAD_DOMAIN));
    t.eq("too many", attempt(DomId::SELF, 100_000, at), (0, GrantStatus::GENERAL_ERROR));
    t.eq("frames nowhere", attempt(DomId::SELF, 1, Vaddr(0x1000)), (0, GrantStatus::BAD_VIRT_ADDR));
    let frame = Mfn(core::hint::black_box(list).first().copied()?);
    let va = probe::spare_va();
    t.ok("map the table", update_va(va, Pte::new(frame, MAP), 2));
    Some(Table(va))
}

fn map_grant(gref: u32, flags: u32, host_addr: u64) -> MapGrantRef {
    let mut arg = MapGrantRef { host_addr, flags, gref: GrantRef(gref), dom: DomId(0), ..MapGrantRef::default() };
    let ret = grant(GrantOp::MAP_GRANT_REF, &mut arg);
    if ret != 0 {
        arg.status = GrantStatus(0x7fff);
    }
    arg
}

fn unmap_grant(handle: GrantHandle, host_addr: u64, dev_bus_addr: u64) -> GrantStatus {
    let mut arg = UnmapGrantRef { host_addr, dev_bus_addr: Maddr(dev_bus_addr), handle, ..UnmapGrantRef::default() };
    match grant(GrantOp::UNMAP_GRANT_REF, &mut arg) {
        0 => arg.status,
        _ => GrantStatus(0x7fff),
    }
}

fn map(t: &mut Test, table: &Table) {
    let page = probe::page();
    page.set(0, 0x9a);
    let va = probe::spare_va();
    table.set(9, ACCESS, 0, page.mfn);
    let first = map_grant(9, HOST, va);
    t.eq("map", first.status, GrantStatus::OKAY);
    t.eq("bus address", first.dev_bus_addr, page.mfn.maddr());
    t.eq("seen", probe::peek(va), 0x9a);
    t.eq("marked read and written", table.flags(9), ACCESS | 0x18);
    probe::poke(va, 0x9b);
    t.eq("written", page.get(0), 0x9b);
    let other = probe::spare_va();
    let second = map_grant(9, HOST | RO, other);
    t.eq("map again, read-only", second.status, GrantStatus::OKAY);
    t.yes("by another handle", second.handle != first.handle);
    let got = exec(code::STORE, &mut Regs { rdi: other, ..Regs::default() });
    t.traps("cannot be written", got, Entry::Exception(vector::PF), 3);
    t.eq("unmap the first", unmap_grant(first.handle, va, 0), GrantStatus::OKAY);
    t.eq("marked read", table.flags(9), ACCESS | 0x08);
    t.traps("gone", exec(code::LOAD, &mut Regs { rdi: va, ..Regs::default() }), Entry::Exception(vector::PF), 0);
    t.eq("unmap it twice", unmap_grant(first.handle, va, 0), GrantStatus::BAD_HANDLE);
    t.eq("unmap elsewhere", unmap_grant(second.handle, va, 0), GrantStatus::GENERAL_ERROR);
    t.eq("unmap the second", unmap_grant(second.handle, other, 0), GrantStatus::OKAY);
    t.eq("unmarked", table.flags(9), ACCESS);
    t.eq("no such handle", unmap_grant(GrantHandle(12_345), va, 0), GrantStatus::BAD_HANDLE);
    t.eq("the invalid handle", unmap_grant(GrantHandle::INVALID, va, 0), GrantStatus::BAD_HANDLE);
}

fn refusals(t: &mut Test, table: &Table) {
    let page = probe::page();
    let va = probe::spare_va();
    table.set(10, 0, 0, page.mfn);
    t.eq("an invalid grant", map_grant(10, HOST, va).status, GrantStatus::GENERAL_ERROR);
    table.set(10, ACCESS, 77, page.mfn);
    t.eq("a grant to another", map_grant(10, HOST, va).status, GrantStatus::GENERAL_ERROR);
    table.set(10, ACCESS_RO, 0, page.mfn);
    t.eq("writing a read-only grant", map_grant(10, HOST, va).status, GrantStatus::GENERAL_ERROR);
    let read = map_grant(10, HOST | RO, va);
    t.eq("reading it", read.status, GrantStatus::OKAY);
    t.eq("unmap", unmap_grant(read.handle, va, 0), GrantStatus::OKAY);
    t.eq("no kind of mapping", map_grant(10, RO, va).status, GrantStatus::BAD_GNTREF);
    t.eq("past the table", map_grant(1 << 20, HOST, va).status, GrantStatus::BAD_GNTREF);
    t.eq("reference 2^32-1", map_grant(u32::MAX, HOST, va).status, GrantStatus::BAD_GNTREF);
    table.set(10, ACCESS, 0, page.mfn);
    t.eq("an address without an L1", map_grant(10, HOST, 0x1000).status, GrantStatus::GENERAL_ERROR);
    t.eq("an address in the hypervisor", map_grant(10, HOST, 0xffff_8300_0000_0000).status, GrantStatus::GENERAL_ERROR);
    t.eq("nothing is left over", table.flags(10), ACCESS);
    let mut arg = MapGrantRef { host_addr: va, flags: HOST, gref: GrantRef(10), dom: NOBODY, ..MapGrantRef::default() };
    t.ok("of nobody", grant(GrantOp::MAP_GRANT_REF, &mut arg));
    t.eq("says so", arg.status, GrantStatus::BAD_DOMAIN);
    table.set(10, ACCESS, 0, Mfn(0xff_ffff));
    t.eq("a frame past all memory", map_grant(10, HOST, va).status, GrantStatus::BAD_PAGE);
    let l1 = probe::pte_slot(Vaddr(page.va), 1).map_or(Mfn(0), |(at, _)| at.mfn());
    table.set(10, ACCESS, 0, l1);
    t.eq("a page table, writable", map_grant(10, HOST, va).status, GrantStatus::GENERAL_ERROR);
    table.set(10, 0, 0, Mfn(0));
}

/// Mappings named by the machine address of an L1 entry.
fn by_entry(t: &mut Test, table: &Table) {
    let page = probe::page();
    page.set(0, 0xe1);
    let va = probe::spare_va();
    t.ok("clear", update_va(va, Pte::EMPTY, 2));
    let slot = probe::pte_slot(Vaddr(va), 1).map_or(0, |(at, _)| at.0);
    table.set(11, ACCESS, 0, page.mfn);
    let flags = HOST | gntmap::CONTAINS_PTE | 1 << gntmap::GUEST_AVAIL_SHIFT;
    let got = map_grant(11, flags, slot);
    t.eq("map by entry", got.status, GrantStatus::OKAY);
    t.eq("seen", probe::peek(va), 0xe1);
    let entry = probe::pte_slot(Vaddr(va), 1).map_or(Pte::EMPTY, |(_, e)| e);
    t.eq("the guest's software bit", entry.flags() & PteFlags::AVAIL, PteFlags(1 << 9));
    t.eq("misaligned", map_grant(11, flags, slot + 4).status, GrantStatus::GENERAL_ERROR);
    t.eq("not a page table", map_grant(11, flags, page.mfn.maddr().0).status, GrantStatus::GENERAL_ERROR);
    t.eq("unmap", unmap_grant(got.handle, slot, 0), GrantStatus::OKAY);
    t.eq("unmarked", table.flags(11), ACCESS);
    // The guest overwrites the entry in between: its mapping is not the grant's any more.
    let got = map_grant(11, HOST, va);
    t.eq("map", got.status, GrantStatus::OKAY);
    t.ok("overwrite", update_va(va, Pte::EMPTY, 2));
    t.eq("unmap what is gone", unmap_grant(got.handle, va, 0), GrantStatus::GENERAL_ERROR);
    t.eq("the grant stays in use", table.flags(11) & 0x18, 0x18);
}

fn device(t: &mut Test, table: &Table) {
    let page = probe::page();
    table.set(12, ACCESS, 0, page.mfn);
    let dev = gntmap::DEVICE_MAP;
    let va = probe::spare_va();
    let got = map_grant(12, dev, 0);
    t.eq("for a device", got.status, GrantStatus::OKAY);
    t.eq("its address", got.dev_bus_addr, page.mfn.maddr());
    t.eq("wrong address", unmap_grant(got.handle, 0, page.mfn.maddr().0 + 4096), GrantStatus::BAD_DEV_ADDR);
    t.eq("unmap", unmap_grant(got.handle, 0, page.mfn.maddr().0), GrantStatus::OKAY);
    t.eq("unmarked", table.flags(12), ACCESS);
    let both = map_grant(12, dev | HOST, va);
    t.eq("for both", both.status, GrantStatus::OKAY);
    t.eq("unmap the host's", unmap_grant(both.handle, va, 0), GrantStatus::OKAY);
    t.yes("still in use", table.flags(12) & 0x18 != 0);
    t.eq("unmap the device's", unmap_grant(both.handle, 0, page.mfn.maddr().0), GrantStatus::OKAY);
    t.eq("unmarked", table.flags(12), ACCESS);
}

fn copy(t: &mut Test, table: &Table) {
    let (from, to) = (probe::page(), probe::page());
    for i in 0..512 {
        from.set(i, 0x1111 * i as u64);
    }
    table.set(13, ACCESS_RO, 0, from.mfn);
    table.set(14, ACCESS, 0, to.mfn);
    let gref = |gref: u64, offset| CopyPtr { frame: gref, domid: DomId::SELF, offset, _pad: 0 };
    let run = |source, dest, len, flags| {
        let mut arg = Copy { source, dest, len, flags, ..Copy::default() };
        match grant(GrantOp::COPY, &mut arg) {
            0 => arg.status,
            _ => GrantStatus(0x7fff),
        }
    };
    let both = Copy::SOURCE_GREF | Copy::DEST_GREF;
    t.eq("grant to grant", run(gref(13, 0), gref(14, 0), 4096, both), GrantStatus::OKAY);
    t.yes("all of it", (0..512).all(|i| to.get(i) == from.get(i)));
    t.eq("a piece", run(gref(13, 8), gref(14, 4088), 8, both), GrantStatus::OKAY);
    t.eq("arrived", to.get(511), 0x1111);
    t.eq("frame to grant", run(gref(from.mfn.0, 16), gref(14, 0), 8, Copy::DEST_GREF), GrantStatus::OKAY);
    t.eq("arrived", to.get(0), 0x2222);
    t.eq("grant to frame", run(gref(13, 24), gref(to.mfn.0, 0), 8, Copy::SOURCE_GREF), GrantStatus::OKAY);
    t.eq("arrived", to.get(0), 0x3333);
    t.eq("nothing", run(gref(13, 0), gref(14, 0), 0, both), GrantStatus::OKAY);
    t.eq("past the source's end", run(gref(13, 4090), gref(14, 0), 8, both), GrantStatus::BAD_COPY_ARG);
    t.eq("past the destination's end", run(gref(13, 0), gref(14, 4090), 8, both), GrantStatus::BAD_COPY_ARG);
    t.eq("offset 4096", run(gref(13, 4096), gref(14, 0), 1, both), GrantStatus::BAD_COPY_ARG);
    t.eq("into a read-only grant", run(gref(14, 0), gref(13, 0), 8, both), GrantStatus::GENERAL_ERROR);
    t.eq("no such grant", run(gref(15, 0), gref(14, 0), 8, both), GrantStatus::GENERAL_ERROR);
    t.eq("past the table", run(gref(1 << 20, 0), gref(14, 0), 8, both), GrantStatus::BAD_GNTREF);
    let nobody = CopyPtr { frame: 13, domid: NOBODY, offset: 0, _pad: 0 };
    t.eq("of nobody", run(nobody, gref(14, 0), 8, both), GrantStatus::BAD_DOMAIN);
    t.eq("no frame", run(gref(0xff_ffff, 0), gref(14, 0), 8, Copy::DEST_GREF), GrantStatus::BAD_PAGE);
    let l1 = probe::pte_slot(Vaddr(to.va), 1).map_or(0, |(at, _)| at.mfn().0);
    let table_write = run(gref(13, 0), gref(l1, 0), 8, Copy::SOURCE_GREF);
    t.eq("to a page table", table_write, GrantStatus::GENERAL_ERROR);
    t.eq("nothing is left over", (table.flags(13), table.flags(14)), (ACCESS_RO, ACCESS));
}

fn replace(t: &mut Test, table: &Table) {
    let (page, instead) = (probe::page(), probe::page());
    page.set(0, 1);
    instead.set(0, 2);
    let va = probe::spare_va();
    table.set(16, ACCESS, 0, page.mfn);
    let got = map_grant(16, HOST, va);
    t.eq("map", got.status, GrantStatus::OKAY);
    let mut arg =
        UnmapAndReplace { host_addr: va, new_addr: instead.va, handle: got.handle, ..UnmapAndReplace::default() };
    t.ok("unmap_and_replace", grant(GrantOp::UNMAP_AND_REPLACE, &mut arg));
    t.eq("okay", arg.status, GrantStatus::OKAY);
    t.eq("the other page is there", probe::peek(va), 2);
    let at = Page { va: instead.va, mfn: instead.mfn };
    let gone = exec(code::LOAD, &mut Regs { rdi: at.va, ..Regs::default() });
    t.traps("and no more where it was", gone, Entry::Exception(vector::PF), 0);
    t.eq("unmarked", table.flags(16), ACCESS);
    t.ok("again", grant(GrantOp::UNMAP_AND_REPLACE, &mut arg));
    t.eq("no such handle", arg.status, GrantStatus::BAD_HANDLE);
}

fn versions(t: &mut Test) {
    let mut version = GetVersion { dom: DomId::SELF, ..GetVersion::default() };
    t.ok("get_version", grant(GrantOp::GET_VERSION, &mut version));
    t.eq("is 1", version.version, 1);
    let mut version = GetVersion { dom: NOBODY, ..GetVersion::default() };
    t.err("of nobody", grant(GrantOp::GET_VERSION, &mut version), Errno::ESRCH);
    t.err("set_version 3", grant(GrantOp::SET_VERSION, &mut SetVersion { version: 3 }), Errno::EINVAL);
    t.err("set_version 0", grant(GrantOp::SET_VERSION, &mut SetVersion { version: 0 }), Errno::EINVAL);
    t.ok("set_version 1", grant(GrantOp::SET_VERSION, &mut SetVersion { version: 1 }));
}
