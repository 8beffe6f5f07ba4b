//! What the debug keys print: domains, event channels, the audit.

use abi::Virq;

use crate::Core;
use crate::domain::Privilege;
use crate::platform::Platform;

impl<P: Platform> Core<P> {
    /// Something was typed on the machine's console: tells whoever reads it.
    pub fn console_input(&self) {
        let table = self.domains.table.read();
        if let Some(reader) = table.iter().find(|d| d.privilege.contains(Privilege::CONSOLE)) {
            self.send_virq(reader, None, Virq::CONSOLE);
        }
    }

    /// One line a domain, and one a vCPU.
    pub fn dump_domains(&self) {
        self.log(format_args!("{} frames are free", self.free.frames()));
        for domain in self.domains.table.read().iter() {
            let (pages, most, own) = {
                let account = domain.memory.lock();
                (account.pages, account.max_pages, account.core_pages)
            };
            self.log(format_args!(
                "d{}: {:?}, {pages} of {most} pages, {own} pages of the core, on CPUs {:#x}",
                domain.id.0,
                domain.stage(),
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
            for port in 1..self.valid_ports(domain) {
                if let Ok(info) = self.port_info(domain, abi::Port(port)) {
                    self.log(format_args!("d{} port {port}: {info:?}", domain.id.0));
                }
            }
        }
    }
}
