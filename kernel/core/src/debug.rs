//! What the debug keys print: domains, event channels, the audit.

use core::sync::atomic::Ordering::Relaxed;

use abi::event::fifo::{MASKED, PENDING};
use abi::event::{PortStatus, Status};
use abi::{DomId, Mfn};

use crate::{Core, Platform};

impl<P: Platform> Core<P> {
    /// One line a CPU, one a domain, and one a vCPU.
    pub fn dump_domains(&self) {
        self.log(format_args!("{} frames are free", self.free_frames()));
        let now = self.platform.now();
        for cpu in &self.cpus {
            let [switches, timers, kicks] = [&cpu.switches, &cpu.timed, &cpu.kicks].map(|count| count.load(Relaxed));
            let (id, idle, of) = (cpu.id.0, cpu.idle_until(now) / 1000, now / 1000);
            self.log(format_args!(
                "CPU {id}: idle {idle} of {of} us, {switches} switches, {timers} timers, {kicks} kicks"
            ));
        }
        for d in self.domains.from(0) {
            let (pages, most, own) = {
                let account = d.memory.lock();
                (account.pages, account.max_pages, account.core_pages)
            };
            let (id, stage, kib, cpus) = (d.id.0, d.stage(), self.footprint(&d).div_ceil(1024), d.dirty().0);
            self.log(format_args!(
                "d{id}: {stage:?}, {pages} of {most} pages, {kib} KiB of the core, {own} pages among it, on CPUs {cpus:#x}"
            ));
            for vcpu in &d.vcpus {
                let view = vcpu.sched.state.view();
                let is = [
                    (view.running(), "running, "),
                    (view.queued(), "queued, "),
                    (view.blocked(), "blocked, "),
                    (view.down(), "down, "),
                    (self.upcall_due(vcpu), "upcall due, "),
                    (self.upcall_mask(vcpu), "upcalls masked, "),
                ];
                let is = is.map(|(is, word)| if is { word } else { "" }).concat();
                let (vcpu, cpu) = (vcpu.id.0, vcpu.sched.cpu().0);
                self.log(format_args!("d{id}v{vcpu}: {is}paused {} times, CPU {cpu}", view.pauses()));
            }
        }
    }

    /// One line an event channel that is in use.
    pub fn dump_events(&self) {
        for domain in self.domains.from(0) {
            for port in (1..self.valid_ports(&domain)).map(abi::Port) {
                if let Ok(Status { status, detail, remote_port: to, vcpu, .. }) = self.port_info(&domain, port)
                    && status != PortStatus::CLOSED
                {
                    let [p, m] = [PENDING, MASKED].map(|bit| u8::from(self.port_is(&domain, port, bit)));
                    let (id, port, to, vcpu) = (domain.id.0, port.0, to.0, vcpu.0);
                    self.log(format_args!("d{id} port {port}: p{p} m{m} {status:?} {detail}/{to}, v{vcpu}"));
                }
            }
        }
    }

    /// One line a domain: its grant table, and what it maps of others; then one line an entry that is in use.
    pub fn dump_grants(&self) {
        for domain in self.domains.from(0) {
            let ((frames, most), (used, maps)) = (domain.grants.size(), domain.grants.in_use());
            let id = domain.id.0;
            self.log(format_args!("d{id}: {frames} of {most} grant frames, {used} grants in use, {maps} mappings"));
            for (gref, DomId(to), Mfn(mfn), readers, writers) in domain.grants.table.lock().in_use() {
                self.log(format_args!("d{id} grant {gref}: frame {mfn:#x} to d{to}, {readers} read, {writers} write"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Privilege, lifecycle::NewDomain, testing};
    use abi::{VcpuId, Virq};
    use core::sync::atomic::Ordering::SeqCst;

    #[test]
    fn the_keys_print_what_there_is() {
        let core = testing::core(512, 1);
        let guest = testing::guest(&core, Privilege::empty(), 4);
        let (id, d) = (guest.domain.id.0, &guest.domain);
        core.cpus[0].idle.store(2_500, SeqCst);
        crate::counters::add(&core.cpus[0].timed, 1);
        core.pause_from_outside(d).unwrap();
        core.dump_domains();
        let printed = core.platform.take_printed();
        assert!(printed.contains("CPU 0: idle 2 of 1000000 us, 0 switches, 1 timers, 0 kicks\n"), "{printed}");
        assert!(printed.contains(&std::format!("d{id}: Alive, 8 of 72 pages, ")), "{printed}");
        assert!(printed.contains(&std::format!("d{id}v0: down, upcalls masked, paused 1 times, CPU 0\n")), "{printed}");
        core.bind_ipi(d, VcpuId(0)).unwrap();
        let other = core.alloc_unbound(d, abi::DomId(7)).unwrap();
        core.send_event(d, other);
        core.dump_events();
        let printed = core.platform.take_printed();
        let lines: std::vec::Vec<&str> = printed.lines().collect();
        assert!(lines.len() == 2 && lines[0].contains("port 1: p0 m0"), "{printed}");
        assert!(lines[1].contains("port 2: p1 m0") && lines[1].ends_with(" 7/0, v0"), "{printed}");
        core.set_upcall_mask(&d.vcpus[0], false);
        core.dump_domains();
        let printed = core.platform.take_printed();
        assert!(printed.ends_with(&std::format!("d{id}v0: down, upcall due, paused 1 times, CPU 0\n")), "{printed}");
        core.grow_grant_table(d, 2).unwrap();
        core.dump_grants();
        let printed = core.platform.take_printed();
        assert!(printed.contains(&std::format!("d{id}: 2 of ")), "{printed}");
        assert!(printed.ends_with(" grant frames, 0 grants in use, 0 mappings\n"), "{printed}");
    }

    #[test]
    fn what_is_typed_is_for_whom_the_console_belongs_to() {
        let core = testing::core(128, 1);
        let [other, reader] = [Privilege::STORE, Privilege::CONSOLE].map(|privilege| {
            let domain = core.create_domain(&NewDomain { privilege, ..NewDomain::ordinary(1) }).unwrap();
            core.bind_virq(&domain, Virq::CONSOLE, VcpuId(0)).unwrap();
            domain
        });
        core.send_global_virq(Privilege::CONSOLE, Virq::CONSOLE);
        assert_eq!([&other, &reader].map(|domain| core.port_is(domain, abi::Port(1), PENDING)), [false, true]);
    }
}
