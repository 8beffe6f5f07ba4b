//! Debian's Bochs, the second model of a processor: it takes each instruction by itself and checks what TCG lets pass.

use crate::qemu::{Ending, Line, Machine, Running};
use crate::setup::Need;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/bochs/VGABIOS-lgpl-latest";
/// A display that wants no screen: viewers may come to a port, and none is waited for.
const DISPLAY: &str = "rfb, options=\"timeout=0\"";
/// Instructions of a virtual second. Firmware and guests wait by the clock: the fewer, the sooner they are done.
const INSTRUCTIONS: u32 = 20_000_000;

/// Bochs, its firmware, and the smallest of the displays of which Debian's package wants one.
pub const NEEDS: [Need; 5] = [
    Need::Program("bochs-bin", "bochs"),
    Need::File("/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so", "bochs-term"),
    Need::File(BIOS, "bochsbios"),
    Need::File(VGA_BIOS, "vgabios"),
    Need::Program("script", "bsdutils"),
];

/// Starts a machine's CPUs and memory from an image. What Bochs says itself lies beside the log.
pub fn start(machine: &Machine, image: &Path, log: &Path) -> Result<Running> {
    let [settings, commands, own, said] = ["bochsrc", "commands", "own", "said"].map(|name| log.with_extension(name));
    let text = settings_of(machine, image, &own);
    std::fs::write(&settings, text).with_context(|| format!("writing {}", settings.display()))?;
    // Debian's Bochs is a debugger; it is told to go on.
    std::fs::write(&commands, "c\n")?;
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let bochs = [&settings, &commands, &said].map(|path| quoted(path));
    // The display's port is everybody's; in a network of its own, where the kernel lets a user make one, it is nobody's.
    let alone = "$(unshare -rn true 2>/dev/null && echo unshare -rn)";
    let bochs = format!("exec {alone} bochs-bin -q -f {} -rc {} > {} 2>&1", bochs[0], bochs[1], bochs[2]);
    // Its serial line is a terminal, which `script` makes: the other end of that is on our pipes.
    Running::start("script", &["-qfec".into(), bochs, "/dev/null".into()], log)
}

fn settings_of(machine: &Machine, image: &Path, own: &Path) -> String {
    let Machine { smp, mem, .. } = machine;
    format!(
        "cpu: model=corei7_icelake_u, count={smp}, ips={INSTRUCTIONS}, reset_on_triple_fault=0\n\
         memory: guest={mem}, host={mem}\n\
         romimage: file={BIOS}\n\
         vgaromimage: file={VGA_BIOS}\n\
         pci: enabled=1, chipset=i440fx\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=cdrom, path=\"{}\", status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=term, dev=/dev/tty\n\
         display_library: {DISPLAY}\n\
         speaker: enabled=0\n\
         clock: sync=none, time0=utc\n\
         panic: action=fatal\n\
         error: action=report\n\
         info: action=ignore\n\
         log: \"{}\"\n",
        image.display(),
        own.display()
    )
}

/// What the core's last line says of the end: Bochs has no exit codes, and stays where the machine only halts.
pub fn said(line: &str) -> Option<Ending> {
    match line.strip_prefix("(core) ferrule: ")?.trim_end() {
        "power-off" => Some(Ending::PowerOff),
        "the initial domain crashed" => Some(Ending::DomainCrash),
        "core panic" => Some(Ending::CorePanic),
        _ => None,
    }
}

/// Waits for the end. After a power-off Bochs has to go as well.
pub fn finish(running: &mut Running, limit: Duration) -> Result<Ending> {
    let told = |lines: &[Line], _: &str| lines.iter().position(|line| said(&line.text).is_some());
    let last = running.wait_for(0, limit, told).and_then(|at| said(&running.lines().get(at)?.text));
    match last {
        Some(Ending::PowerOff) => match running.finish(limit)? {
            Ending::TimeOut => Ok(Ending::TimeOut),
            _ => Ok(Ending::PowerOff),
        },
        Some(ending) => Ok(ending),
        None => running.finish(Duration::ZERO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_s_last_line_says_how_it_ended() {
        assert_eq!(said("(core) ferrule: power-off"), Some(Ending::PowerOff));
        assert_eq!(said("(core) ferrule: the initial domain crashed\r"), Some(Ending::DomainCrash));
        assert_eq!(said("(core) ferrule: core panic"), Some(Ending::CorePanic));
        assert_eq!(said("(core) ferrule 0.1.0 on 1 CPU"), None);
        assert_eq!(said("guest (core) ferrule: power-off"), None);
    }

    #[test]
    fn a_file_name_with_blanks_stays_one() {
        let mut machine = Machine::new(Path::new("core"), "", "");
        (machine.smp, machine.mem) = (2, 512);
        let text = settings_of(&machine, Path::new("/a b/x.iso"), Path::new("/a b/x.own"));
        assert!(text.contains("count=2,") && text.contains("guest=512, host=512"), "{text}");
        assert!(text.contains("path=\"/a b/x.iso\",") && text.contains("log: \"/a b/x.own\""), "{text}");
    }
}
