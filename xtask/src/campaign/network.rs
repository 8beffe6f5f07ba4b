//! Traffic between guests, and between guests and the host.

use super::debian::{Debian, Shape, address};
use super::{Row, Sitting};
use crate::packages::{Package, program};
use crate::process::quiet;
use crate::run::held::audited;
use crate::run::http::{fetch, sha256};
use anyhow::{Context, Result, ensure};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SECONDS: u64 = 60;
const CONNECTIONS: u64 = 10_000;
const PINGS: u64 = 100_000;
/// Connections under way at a time.
const AT_A_TIME: u64 = 4;
const LIMIT: Duration = Duration::from_secs(1800);

/// One machine of two guests for all; each row boots it, so that each can be run alone.
pub fn rows() -> Vec<Row> {
    vec![
        Row::new("iperf3", |sitting| with_two(sitting, "iperf3", iperf)),
        Row::new("transfers", |sitting| with_two(sitting, "transfers", transfers)),
        Row::new("connections", |sitting| with_two(sitting, "connections", connections)),
        Row::new("ping", |sitting| with_two(sitting, "ping", ping)),
    ]
}

fn with_two(sitting: &Sitting, row: &str, look: fn(&Sitting, &Debian) -> Result<String>) -> Result<String> {
    let shape = Shape { guests: 2, vcpus: 1, memory: 384, ..Shape::default() };
    let mut system = Debian::boot(sitting, row, &shape, |_| {})?;
    let said = look(sitting, &system)?;
    audited(&mut system.machine)?;
    system.end()?;
    Ok(said)
}

/// The rate that iperf3's JSON has at its end, at the receiver, in Mbit/s.
fn rate(json: &str) -> Result<f64> {
    let value: serde_json::Value = serde_json::from_str(json).with_context(|| format!("iperf3 says {json}"))?;
    let rate = value.pointer("/end/sum_received/bits_per_second").and_then(serde_json::Value::as_f64);
    rate.map(|rate| rate / 1e6).with_context(|| format!("iperf3: {}", value.get("error").unwrap_or(&value)))
}

/// Both directions, guest and guest, guest and host.
fn iperf(sitting: &Sitting, system: &Debian) -> Result<String> {
    let seconds = sitting.amount(SECONDS);
    system.first().ssh("iperf3 -s -D --pidfile /run/iperf3")?;
    let port = system.port(0, 5201)?;
    let server = address(0);
    let mut said = Vec::new();
    for (what, reverse) in [("guest to guest", ""), ("back", "-R")] {
        let json = system.guests[1].run(&format!("iperf3 -c {server} -t {seconds} -J {reverse}"), LIMIT)?;
        said.push(format!("{what} {:.0}", rate(&json)?));
    }
    let packages =
        [("iperf3", 1), ("libiperf0", 1), ("libsctp1", 1)].map(|(name, megabytes)| Package { name, megabytes });
    for (what, reverse) in [("host to guest", None), ("back", Some("-R"))] {
        let mut client = program(&sitting.place, &packages, "usr/bin/iperf3")?;
        client.args(["-c", "127.0.0.1", "-p", &port.to_string(), "-t", &seconds.to_string(), "-J"]).args(reverse);
        said.push(format!("{what} {:.0}", rate(&quiet(&mut client, LIMIT)?.text)?));
    }
    Ok(format!("{seconds} s each, Mbit/s: {}", said.join(", ")))
}

/// 100 MB by HTTP and by scp.
fn transfers(sitting: &Sitting, system: &Debian) -> Result<String> {
    let wanted = &system.first().hash;
    let fetched = fetch(system.port(0, 80)?, "/100m.bin", LIMIT)?;
    ensure!(fetched.status == 200 && fetched.sha256 == *wanted, "by HTTP: {fetched:?}, as made {wanted}");
    let to = sitting.dir.join("transfers/100m.bin");
    system.first().copy_from("/var/www/html/100m.bin", &to, LIMIT)?;
    let copied = sha256(&std::fs::read(&to)?);
    std::fs::remove_file(&to)?;
    ensure!(copied == *wanted, "by scp: sha256 {copied}, as made {wanted}");
    let url = format!("http://{}/100m.bin", address(0));
    let between = system.guests[1].run(&format!("busybox wget -q -O - {url} | sha256sum"), LIMIT)?;
    ensure!(between.split(' ').next() == Some(wanted), "guest to guest: {between}, as made {wanted}");
    Ok("100 MB by HTTP, by scp and from guest to guest, sha256 as made".to_string())
}

/// Connections that each carry one request.
fn connections(sitting: &Sitting, system: &Debian) -> Result<String> {
    let count = sitting.amount(CONNECTIONS);
    let port = system.port(0, 80)?;
    let (next, good) = (AtomicU64::new(0), AtomicU64::new(0));
    let errors = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    match fetch(port, "/", Duration::from_secs(120)) {
                        Ok(fetched) if fetched.status == 200 => drop(good.fetch_add(1, Ordering::Relaxed)),
                        Ok(fetched) => errors.lock().unwrap().push(format!("status {}", fetched.status)),
                        Err(error) => errors.lock().unwrap().push(format!("{error:#}")),
                    }
                }
            });
        }
    });
    let (good, errors) = (good.into_inner(), errors.into_inner().unwrap_or_default());
    ensure!(good == count, "{good} of {count} connections; {:?}", errors.first());
    let served = system.first().ssh("grep -c 'GET / ' /var/log/nginx/access.log")?;
    ensure!(served.trim() == count.to_string(), "{count} were asked for; nginx counts {served}");
    Ok(format!("{count} from the host, each answered; nginx counts as many"))
}

/// No echo is lost between guests.
fn ping(sitting: &Sitting, system: &Debian) -> Result<String> {
    let count = sitting.amount(PINGS);
    let said = system.guests[1].run(&format!("ping -f -q -c {count} {}", address(0)), LIMIT)?;
    let line = said.lines().find(|line| line.contains("packets transmitted")).context("ping counts nothing")?;
    ensure!(line.contains(&format!("{count} packets transmitted, {count} received, 0% packet loss")), "{line}");
    let times = said.lines().find(|line| line.starts_with("rtt")).unwrap_or_default();
    Ok(format!("{count} of {count} came back; {times}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iperf_s_rate_and_its_error_are_read() {
        assert_eq!(rate(r#"{"end":{"sum_received":{"bits_per_second":2500000.0}}}"#).unwrap(), 2.5);
        assert!(rate(r#"{"error":"unable to connect"}"#).unwrap_err().to_string().contains("unable"));
    }
}
