//! The runtime on its own: memory, allocator, tasks, events, time, grants, all within one domain.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use abi::grant::GrantStatus;
use abi::sched::ShutdownReason;
use abi::start_info::StartInfo;
use abi::vcpu::{RunstateInfo, VcpuOp};
use abi::{DomId, GrantRef, VcpuId};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use domain_rt::events::Event;
use domain_rt::grant::{self, Access, Copier, CopyEnd, CopyRequest, DeviceMapper, Granted, Mapping};
use domain_rt::hypercall;
use domain_rt::memory;
use domain_rt::page::Pages;
use domain_rt::println;
use domain_rt::runtime::{self, Context};
use domain_rt::time;
use embassy_time::{Duration, Timer};
use ring_proto::memory::RingMemory;

domain_rt::entry!(run);

fn run(start: &'static StartInfo) -> ShutdownReason {
    runtime::start(start, tests)
}

/// Prints a verdict; the first wrong one ends the test.
fn check(what: &str, holds: bool) {
    println!("{} {what}", if holds { "ok  " } else { "FAIL" });
    if !holds {
        hypercall::shutdown(ShutdownReason::CRASH);
    }
}

async fn tests(context: Context) {
    println!("runtime: {} pages", context.info.nr_pages);
    all_memory(context.info);
    heap();
    wakes(context).await;
    sleeps().await;
    grants();
    println!("SUCCESS");
    hypercall::shutdown(ShutdownReason::POWEROFF)
}

/// Takes every free page, writes each, reads each back.
fn all_memory(info: &StartInfo) {
    let (free, all) = memory::usage();
    check("usage counts every page", all as u64 == info.nr_pages && free > all / 2);
    // The list itself takes a few pages of the heap.
    let mut pages: Vec<Pages> = Vec::with_capacity(free);
    while let Ok(page) = Pages::new(1) {
        page.write(4088, &(pages.len() as u64).to_le_bytes());
        pages.push(page);
    }
    let exact = pages.iter().enumerate().all(|(index, page)| {
        let mut value = [0; 8];
        page.read(4088, &mut value);
        u64::from_le_bytes(value) == index as u64
    });
    println!("took {} of {free} free pages", pages.len());
    check("every page is its own", exact && pages.len() > free / 100 * 98);
    drop(pages);
    check("they come back", memory::usage().0 > free / 100 * 98);
}

fn heap() {
    let mut map = BTreeMap::new();
    for i in 0..20_000u64 {
        map.insert(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), i);
        if i % 3 == 0 {
            map.remove(&(i / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
    }
    check("the heap holds a tree", map.values().all(|i| map[&i.wrapping_mul(0x9e37_79b9_7f4a_7c15)] == *i));
    let big: Vec<u8> = alloc::vec![7; 3 << 20];
    check("and 3 MiB in one piece", big.iter().all(|byte| *byte == 7));
}

/// An event to itself wakes another task.
async fn wakes(context: Context) {
    let Ok(here) = Event::alloc_unbound(DomId::SELF) else { return check("a port", false) };
    let Ok(there) = Event::bind_interdomain(DomId::SELF, here.port()) else { return check("bound", false) };
    let count = Rc::new(Cell::new(0));
    let counter = count.clone();
    context.spawn(async move {
        loop {
            here.wait().await;
            counter.set(counter.get() + 1);
            here.notify();
        }
    });
    // Binding makes the new port pending: what the peer sent before is not lost.
    there.wait().await;
    for _ in 0..1000 {
        there.notify();
        there.wait().await;
    }
    check("1000 events there and back", count.get() == 1000);
}

async fn sleeps() {
    let start = time::now();
    Timer::after(Duration::from_millis(50)).await;
    let slept = time::now() - start;
    println!("slept {} us of 50000", slept / 1000);
    check("50 ms are not less", slept >= 50_000_000);
    let mut states = RunstateInfo::default();
    let known = hypercall::vcpu_op(VcpuOp::GET_RUNSTATE_INFO, VcpuId(0), &mut states).is_ok();
    let blocked = states.time[RunstateInfo::BLOCKED as usize];
    check("and the vCPU was blocked, not busy", known && blocked > 40_000_000);
    let late = (0..4).map(|i| async move {
        Timer::after(Duration::from_millis(40 - 10 * i)).await;
        time::now()
    });
    let mut late = late;
    let (Some(a), Some(b)) = (late.next(), late.next()) else { return };
    let (a, b) = embassy_futures::join::join(a, b).await;
    check("a shorter sleep ends first", b < a);
}

/// Grants to itself: mapped, copied, refused, and not taken back while in use.
fn grants() {
    // A grant names its peer by number, and this is the initial domain.
    const SELF: DomId = DomId::DOM0;
    let Ok(own) = Granted::new(SELF, 3, Access::ReadWrite) else { return check("granted", false) };
    own.write(5000, b"by the owner");
    let free_before = memory::usage().0;
    let Ok(mapping) = Mapping::new(SELF, own.grants(), Access::ReadWrite) else {
        return check("mapped", false);
    };
    let mut text = [0; 12];
    mapping.read(5000, &mut text);
    check("the mapping shows what the owner wrote", &text == b"by the owner");
    mapping.write(9000, b"by the peer!");
    own.read(9000, &mut text);
    check("and the owner sees what the peer wrote", &text == b"by the peer!");

    let mut bad = own.grants().to_vec();
    bad.push(GrantRef(4000));
    let status = Mapping::new(SELF, &bad, Access::ReadOnly).err();
    check("one bad grant fails the batch", status == Some(GrantStatus::BAD_GNTREF));

    let first = own.grants()[0];
    drop(own);
    check("pages in use are kept aside", grant::limbo() == 3);
    mapping.read(9000, &mut text);
    check("and stay as they are", &text == b"by the peer!");
    drop(mapping);
    check("they come back when the peer lets go", grant::limbo() == 0);
    check("to the allocator", memory::usage().0 >= free_before + 3);
    let status = Mapping::new(SELF, &[first], Access::ReadOnly).err();
    check("an ended grant cannot be mapped", status.is_some());

    let (Ok(from), Ok(to)) = (Granted::new(SELF, 1, Access::ReadOnly), Pages::new(1)) else {
        return check("pages", false);
    };
    from.write(100, b"copied");
    let grant = from.grants()[0];
    let source = CopyEnd::grant(SELF, grant, 100);
    let copies = [
        CopyRequest { from: source, to: CopyEnd::own(&to, 7), len: 6 },
        CopyRequest { from: CopyEnd::own(&to, 7), to: source, len: 6 },
    ];
    let mut copier = Copier::default();
    copier.run(copies.into_iter());
    let statuses: Vec<GrantStatus> = copier.statuses().collect();
    let mut text = [0; 6];
    to.read(7, &mut text);
    check("a copy from a grant", statuses[0] == GrantStatus::OKAY && &text == b"copied");
    check("but not to one that is only to be read", statuses[1] != GrantStatus::OKAY);
    let mut mapper = DeviceMapper::default();
    let device: Vec<_> = mapper.map([(SELF, grant, Access::ReadOnly)].into_iter()).filter_map(Result::ok).collect();
    let address = device.first().map(|grant| grant.address().mfn());
    check("a device's address is the frame", address == Some(from.mfn(0)));
    mapper.unmap(device.into_iter());
}
