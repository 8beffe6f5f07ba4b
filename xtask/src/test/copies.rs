//! What a packet and a block cost in copies, held to the design's figures with real traffic: guest to NIC none, NIC to
//! guest one, guest to guest one, disk none, RAM disk one.

use super::e2e::{Case, PATIENCE, Setting};
use super::shell::{expect_log, power_off};
use super::system::{DRIVERS, boot};
use crate::qemu::Running;
use crate::run::console::command;
use crate::run::http::fetch;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[("copies", copies)];

/// Beside the drivers: `web` serves a file to `client` and to the host; `disk` works on a RAM disk. By DHCP `client` might come first.
const MANIFEST: &str = r#"
[[domain]]
name = "web"
kernel = "web"
cmdline = "ip=10.0.2.20/24"
memory = 32
vif = [{ mac = "00:16:3e:00:00:01" }]
disk = [{ target = "vda:web", vdev = "xvda", mode = "r" }]
[[domain]]
name = "client"
kernel = "client"
cmdline = "web=10.0.2.20 file=/8m.bin disk=check"
memory = 32
vif = [{ mac = "00:16:3e:00:00:02" }]
disk = [{ target = "vda:client", vdev = "xvda", mode = "w" }]
on_poweroff = "preserve"
[[domain]]
name = "disk"
kernel = "bench-rings"
cmdline = "disk=write count=800 depth=16"
memory = 8
disk = [{ target = "ram:4M", vdev = "xvda", mode = "w" }]
on_poweroff = "preserve"
"#;

/// The file that is fetched twice, and its bytes.
const FILE: &str = "/8m.bin";
const BYTES: f64 = (8 << 20) as f64;
/// How long backends take to write what they have counted, at most.
const SETTLE: Duration = Duration::from_secs(15);

fn copies(setting: &Setting<'_>) -> Result<()> {
    std::fs::create_dir_all(setting.dir())?;
    let config = setting.dir().join("copies.toml");
    std::fs::write(&config, [DRIVERS, MANIFEST].concat())?;
    let mut system = boot(setting, &config)?;
    expect_log(&mut system.machine, "client", "console: client: SUCCESS")?;
    expect_log(&mut system.machine, "disk", "console: bench-rings: SUCCESS")?;
    let port = system.port_of("web")?;
    system.verify(&fetch(port, FILE, PATIENCE)?, FILE)?;
    network(&mut system.machine)?;
    block(&mut system.machine)?;
    power_off(system.machine)
}

/// Figures by `WHO DEVICE` or `WHO`, then by name.
pub struct Figures(BTreeMap<String, BTreeMap<String, f64>>);

impl Figures {
    /// Asks until `all`, the backend's own figures, fit the devices' together: until everything has been written.
    pub fn settled(running: &mut Running, list: &str, fit: impl Fn(&Self) -> Result<()>) -> Result<Self> {
        let end = Instant::now() + SETTLE;
        loop {
            let lines = command(running, list, PATIENCE)?;
            let figures = Self(lines.iter().filter_map(|line| parse(line)).collect());
            match fit(&figures) {
                Ok(()) => return Ok(figures),
                Err(error) if Instant::now() > end => {
                    return Err(error.context(format!("{list}:\n{}", lines.join("\n"))));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(300)),
            }
        }
    }

    pub fn of(&self, who: &str, name: &str) -> Result<f64> {
        let figure = self.0.get(who).and_then(|figures| figures.get(name));
        figure.copied().with_context(|| format!("no {name} of {who}"))
    }

    /// The sum over all devices of the figures of these names.
    fn sum(&self, names: &[&str]) -> f64 {
        let devices = self.0.iter().filter(|(who, _)| who.contains(' '));
        devices.flat_map(|(_, figures)| names.iter().filter_map(|name| figures.get(*name))).sum()
    }

    fn is(&self, who: &str, name: &str, wanted: f64) -> Result<()> {
        let found = self.of(who, name)?;
        ensure!(found == wanted, "{name} of {who} is {found}, not {wanted}");
        Ok(())
    }
}

/// `web 0: tx-packets=12 ...`
fn parse(line: &str) -> Option<(String, BTreeMap<String, f64>)> {
    let (who, rest) = line.split_once(": ")?;
    let pair = |word: &str| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_string(), value.parse().ok()?))
    };
    let figures: Option<BTreeMap<_, _>> = rest.split_whitespace().map(pair).collect();
    figures.map(|figures| (who.to_string(), figures))
}

fn network(running: &mut Running) -> Result<()> {
    let figures = Figures::settled(running, "network-list -v", |figures| {
        let (all, parts) =
            (figures.of("netback", "copied-bytes")?, figures.sum(&["header-bytes", "tx-copied", "rx-copied"]));
        ensure!(all == parts, "the hypervisor copied {all} bytes for netback, which accounts for {parts}");
        // Twice the file went out of web: once into client, once into the NIC.
        ensure!(figures.of("web 0", "tx-bytes")? > 2.0 * BYTES, "web sent less than two files");
        ensure!(figures.of("client 0", "rx-bytes")? > BYTES, "client received less than a file");
        // The headers alone bring web past two files before the last packets: only this waits for those.
        ensure!(figures.of("netback", "device-maps")? > BYTES / 1514.0, "the NIC was not given guests' pages");
        Ok(())
    })?;
    for who in ["web 0", "client 0"] {
        figures.is(who, "copied-per-byte-out", 0.0)?;
        figures.is(who, "copied-per-byte-in", 1.0)?;
        for none in ["tx-copied", "checksums", "segments", "tx-errors"] {
            figures.is(who, none, 0.0)?;
        }
        ensure!(figures.of(who, "rx-copied")? == figures.of(who, "rx-bytes")?, "{who}: copied is not received");
        ensure!(figures.of(who, "header-bytes")? == 14.0 * figures.of(who, "tx-packets")?, "{who}: more than headers");
    }
    ensure!(figures.of("netback", "hypercalls-per-packet")? < 1.0, "too many hypercalls");
    ensure!(figures.of("netback", "events-per-packet")? < 0.5, "too many events");
    Ok(())
}

fn block(running: &mut Running) -> Result<()> {
    let figures = Figures::settled(running, "block-list -v", |figures| {
        let (all, parts) = (figures.of("blkback", "copied-bytes")?, figures.sum(&["bytes-copied", "list-bytes"]));
        ensure!(all == parts, "the hypervisor copied {all} bytes for blkback, which accounts for {parts}");
        ensure!(figures.of("web xvda", "bytes-read")? >= BYTES, "web read less than the file");
        ensure!(figures.of("disk xvda", "bytes-copied")? >= 800.0 * 4096.0, "the RAM disk's copies are not counted");
        ensure!(figures.of("client xvda", "bytes-written")? > 0.0, "client wrote nothing");
        ensure!(figures.of("blkback", "device-maps")? >= BYTES / 4096.0, "the disk was not given guests' pages");
        Ok(())
    })?;
    for (who, copies) in [("web xvda", 0.0), ("client xvda", 0.0), ("disk xvda", 1.0)] {
        figures.is(who, "copied-per-byte", copies)?;
        figures.is(who, "errors", 0.0)?;
    }
    ensure!(figures.of("blkback", "hypercalls-per-request")? < 4.0, "too many hypercalls");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_tables_are_not() {
        let (who, figures) = parse("web 0: tx-packets=12 copied-per-byte-in=1.00").unwrap();
        assert_eq!((who.as_str(), figures["tx-packets"], figures["copied-per-byte-in"]), ("web 0", 12.0, 1.0));
        assert!(parse("web     0  netback  00:16:3e:00:00:01 xenbr0  Connected / Connected").is_none());
    }
}
