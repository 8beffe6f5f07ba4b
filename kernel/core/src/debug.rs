//! What the debug keys print: domains, event channels, the audit.

use core::sync::atomic::Ordering::Relaxed;

use abi::Virq;
use abi::event::fifo::{MASKED, PENDING};
use abi::event::{PortStatus, Status};

use crate::{Core, Event, Platform, Privilege};

impl<P: Platform> Core<P> {
    /// Something was typed on the machine's console: tells whoever reads it.
    pub fn console_input(&self) {
        let table = self.domains.table.read();
        if let Some(reader) = table.iter().find(|d| d.privilege.contains(Privilege::CONSOLE)) {
            self.send_virq(reader, None, Virq::CONSOLE);
        }
    }

    /// One line a CPU, one a domain, and one a vCPU.
    pub fn dump_domains(&self) {
        self.log(format_args!("{} frames are free", self.free.frames()));
        let now = self.platform.now() / 1000;
        for cpu in &self.cpus {
            let [switches, timers, kicks] =
                [Event::Switch, Event::Timer, Event::Kick].map(|event| cpu.counters.get(event));
            self.log(format_args!(
                "CPU {}: idle {} of {now} us, {switches} switches, {timers} timers, {kicks} kicks",
                cpu.id.0,
                cpu.idle.load(Relaxed) / 1000
            ));
        }
        for domain in self.domains.table.read().iter() {
            let (pages, most, own) = {
                let account = domain.memory.lock();
                (account.pages, account.max_pages, account.core_pages)
            };
            self.log(format_args!(
                "d{}: {:?}, {pages} of {most} pages, {} KiB of the core, {own} pages among it, on CPUs {:#x}",
                domain.id.0,
                domain.stage(),
                self.footprint(domain).div_ceil(1024),
                domain.dirty().0
            ));
            for vcpu in &domain.vcpus {
                let view = vcpu.sched.state.view();
                self.log(format_args!(
                    "d{}v{}: {}{}{}{}paused {} times, CPU {}",
                    domain.id.0,
                    vcpu.id.0,
                    if view.running() { "running, " } else { "" },
                    if view.queued() { "queued, " } else { "" },
                    if view.blocked() { "blocked, " } else { "" },
                    if view.down() { "down, " } else { "" },
                    view.pauses(),
                    vcpu.sched.cpu().0
                ));
            }
        }
    }

    /// One line an event channel that is in use.
    pub fn dump_events(&self) {
        for domain in self.domains.table.read().iter() {
            for port in (1..self.valid_ports(domain)).map(abi::Port) {
                if let Ok(Status { status, detail, remote_port: to, vcpu, .. }) = self.port_info(domain, port)
                    && status != PortStatus::CLOSED
                {
                    let [p, m] = [PENDING, MASKED].map(|bit| u8::from(self.port_is(domain, port, bit)));
                    let (id, port, to, vcpu) = (domain.id.0, port.0, to.0, vcpu.0);
                    self.log(format_args!("d{id} port {port}: p{p} m{m} {status:?} {detail}/{to}, v{vcpu}"));
                }
            }
        }
    }

    /// One line a domain: its grant table, and what it maps of others; then one line an entry that is in use.
    pub fn dump_grants(&self) {
        for domain in self.domains.table.read().iter() {
            let ((frames, most), (used, maps)) = (domain.grants.size(), domain.grants.in_use());
            let id = domain.id.0;
            self.log(format_args!("d{id}: {frames} of {most} grant frames, {used} grants in use, {maps} mappings"));
            domain.grants.table.lock().each_in_use(|gref, to, mfn, readers, writers| {
                self.log(format_args!("d{id} grant {gref}: frame {mfn:#x} to d{to}, {readers} read, {writers} write"));
            });
        }
    }
}
