//! `sysctl` (35): the machine as a whole, for those who look after it.
//!
//! - Arguments: the address of a `xen_sysctl`: command, interface version, the command's own part.
//! - Returns: 0; what the command answers in its part.
//! - Faults: EFAULT. EACCES: another interface version. EPERM: without the builder's privilege. ENOSYS: no such command.
//! - Notes: the subset that a toolstack needs.
//! - Source: `sysctl.h`.

use abi::sysctl::{
    AvailHeap, DebugKeys, GetCpuInfo, GetDomainInfoList, PhysInfo, ReadConsole, SYSCTL_INTERFACE_VERSION, SchedId,
    Sysctl, SysctlOp,
};
use abi::{Errno, Vaddr};

use crate::hypercall::domctl;
use crate::{Args, Caller, HcResult, Platform, Privilege, Stop, refuse_if};

/// The scheduler's number: none of Xen's own (credit2 is 6, null is 9).
const SCHEDULER: u32 = 0xf0;

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [at, ..] = *a;
    let mut op: Sysctl = c.get(at)?;
    refuse_if(op.interface_version != SYSCTL_INTERFACE_VERSION, Errno::EACCES)?;
    c.need(Privilege::BUILDER)?;
    match op.cmd {
        SysctlOp::READCONSOLE => op.payload.set(&read_log(c, op.payload.get())?),
        SysctlOp::PHYSINFO => op.payload.set(&physinfo(c)),
        SysctlOp::SCHED_ID => op.payload.set(&SchedId { sched_id: SCHEDULER }),
        SysctlOp::GETDOMAININFOLIST => op.payload.set(&list_domains(c, op.payload.get())?),
        SysctlOp::DEBUG_KEYS => {
            let keys: DebugKeys = op.payload.get();
            for n in 0..u64::from(keys.nr_keys.min(64)) {
                let key: u8 = c.get(keys.keys.0.wrapping_add(n))?;
                c.core.platform.debug_key(key);
            }
            return Ok(0);
        }
        SysctlOp::GETCPUINFO => {
            let mut list: GetCpuInfo = op.payload.get();
            let now = c.core.platform.now();
            let cpus = c.core.cpus.iter().take(list.max_cpus as usize);
            list.nr_cpus = cpus.len() as u32;
            for (n, cpu) in (0..).zip(cpus) {
                c.put_at(list.info.0, n, &cpu.idle_until(now))?;
            }
            op.payload.set(&list);
        }
        SysctlOp::AVAILHEAP => {
            let avail_bytes = c.core.free_frames() << abi::PAGE_SHIFT;
            op.payload.set(&AvailHeap { avail_bytes, ..op.payload.get() });
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    c.answer(at, &op)
}

fn physinfo<P: Platform>(c: &Caller<'_, P>) -> PhysInfo {
    let core = c.core;
    let cpus = core.cpus.len() as u32;
    let [_, _, c1, d1] = core.platform.cpuid(1, 0);
    let [_, _, c81, d81] = core.platform.cpuid(0x8000_0001, 0);
    let [_, b7, ..] = core.platform.cpuid(7, 0);
    PhysInfo {
        threads_per_core: 1,
        cores_per_socket: cpus,
        nr_cpus: cpus,
        max_cpu_id: cpus.saturating_sub(1),
        nr_nodes: 1,
        cpu_khz: crate::cpuid::tsc_khz(&core.platform),
        capabilities: PhysInfo::CAP_PV | PhysInfo::CAP_GNTTAB_V1,
        total_pages: core.frames.iter().count() as u64,
        free_pages: core.free_frames(),
        max_mfn: core.frames.count().saturating_sub(1) as u64,
        hw_cap: [d1, c1, d81, c81, 0, b7, 0, 0],
        ..Default::default()
    }
}

fn list_domains<P: Platform>(c: &Caller<'_, P>, mut list: GetDomainInfoList) -> Result<GetDomainInfoList, Stop> {
    c.core.reap();
    let all = c.core.domains.from(list.first_domain.0);
    list.num_domains = 0;
    for domain in all.take(list.max_domains as usize) {
        c.put_at(list.buffer.0, list.num_domains.into(), &domctl::info(c.core, &domain))?;
        list.num_domains += 1;
    }
    Ok(list)
}

/// Copies out what was printed from `index` on (or all that is kept).
fn read_log<P: Platform>(c: &Caller<'_, P>, read: ReadConsole) -> Result<ReadConsole, Stop> {
    let mut at = if read.incremental != 0 { read.index } else { 0 };
    let mut done = 0;
    loop {
        let mut piece = [0u8; 128];
        let room = ((read.count - done) as usize).min(piece.len());
        let (next, got) = c.core.messages.lock().read(at, piece.get_mut(..room).unwrap_or_default());
        at = next;
        if got == 0 {
            break;
        }
        let to = Vaddr(read.buffer.0.wrapping_add(u64::from(done)));
        c.core.platform.copy_to_guest(c.space()?, to, piece.get(..got).unwrap_or_default())?;
        done += got as u32;
    }
    if read.clear != 0 {
        c.core.messages.lock().clear();
    }
    Ok(ReadConsole { count: done, index: at, ..read })
}
