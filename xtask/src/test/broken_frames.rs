//! Frames that netfront drops cost a guest that only listens nothing but their time: it hears what comes after them.

use super::e2e::{Case, PATIENCE, Setting};
use super::shell::{expect_log, power_off};
use crate::build::{Part, built};
use crate::run::console::{attach, command};
use crate::run::world;
use anyhow::{Context, Result};

pub const CASES: &[Case] = &[("broken-frames", broken_frames)];

/// The sender's first frames are many times those that the receiver has pages for.
const MANIFEST: &str = r#"
[[domain]]
name = "netback"
kernel = "netback"
memory = 16
serves = ["vif"]
[[domain]]
name = "receiver"
kernel = "bench-rings"
memory = 8
vif = [{ mac = "00:16:3e:00:00:01" }]
[[domain]]
name = "sender"
kernel = "bench-rings"
cmdline = "send=00:16:3e:00:00:01 broken=1000 bytes=64 count=64"
memory = 8
vif = [{ mac = "00:16:3e:00:00:02" }]
on_poweroff = "preserve"
autostart = false
"#;

fn broken_frames(setting: &Setting<'_>) -> Result<()> {
    let image = |name: &str| built(setting.place, Part::Domains, name).with_context(|| format!("no image {name}"));
    let files = ["netback", "bench-rings"].map(|name| image(name).map(|image| (name.to_string(), image)));
    let ramdisk = setting.log.with_extension("ramdisk");
    world::ramdisk(&ramdisk, MANIFEST.as_bytes(), &files.into_iter().collect::<Result<Vec<_>>>()?)?;
    let initrd = format!("{} log-consoles,{}", image("dom0")?.display(), ramdisk.display());
    let mut machine = setting.start(&setting.machine("", &initrd))?;
    attach(&mut machine, PATIENCE)?;
    expect_log(&mut machine, "receiver", "console: bench-rings: up")?;
    command(&mut machine, "create sender", PATIENCE)?;
    expect_log(&mut machine, "sender", "console: bench-rings: SUCCESS")?;
    power_off(machine)
}
