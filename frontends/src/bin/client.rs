//! `client`: resolves a name, pings `web` and the gateway, fetches a file from `web` and checks its SHA-256.
//!
//! Command line: `web=ADDRESS` (default 10.0.2.15), `name=HOST` to resolve (left out: none), `file=PATH` (default
//! `/data.bin`), `sha256=HEX` that the file must have (left out: printed only), `pings=N` (default 20), `disk=check`
//! (writes to its first disk and reads back, `rounds=N` times), `disk=reboot` (writes, reboots, and reads back then; for
//! a disk that outlives the domain, which a RAM disk does not), `net=no`.
//!
//! Every step prints `ok` or `FAIL`; the last line is `client: SUCCESS` or `client: FAIL`.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use abi::sched::ShutdownReason;
use abi::start_info::StartInfo;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::Ipv4Addr;
use domain_rt::println;
use domain_rt::runtime::{self, Context};
use domain_rt::store::Store;
use domain_rt::time;
use embassy_net::Stack;
use embassy_net::dns::DnsQueryType;
use embassy_net::tcp::TcpSocket;
use embassy_time::{Duration, Timer, with_timeout};
use frontends::options::value;
use frontends::ping::{Buffers, Pinger};
use frontends::{blk, http, stack};
use sha2::{Digest, Sha256};

domain_rt::entry!(run);

fn run(start: &'static StartInfo) -> ShutdownReason {
    runtime::start(start, tour)
}

/// Tries to reach `web`, which may still be starting: this often, a second apart.
const TRIES: usize = 30;
/// How long an answer to a ping may take.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(60);

async fn tour(context: Context) {
    let line = context.command_line();
    let Some(store) = context.store else { return println!("client: no store") };
    let mut good = true;
    if let Some(how) = value(line, "disk") {
        let rounds = value(line, "rounds").and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
        good &= report("client's disk", disk(context, store, how == "reboot", rounds).await);
    }
    if value(line, "net") != Some("no") {
        good &= network(context, store, line).await;
    }
    println!("client: {}", if good { "SUCCESS" } else { "FAIL" });
    domain_rt::hypercall::shutdown(ShutdownReason::POWEROFF)
}

/// Everything over the network; whether all of it went well.
async fn network(context: Context, store: Store, line: &str) -> bool {
    let (stack, _stats) = match stack::start(context, store).await {
        Ok(started) => started,
        Err(error) => return report("client has a network", Err(format!("{error}"))),
    };
    let web = value(line, "web").and_then(|web| web.parse().ok()).unwrap_or(Ipv4Addr::new(10, 0, 2, 15));
    let pings = value(line, "pings").and_then(|pings| pings.parse().ok()).unwrap_or(20);
    let mut good = true;
    if let Some(name) = value(line, "name") {
        good &= report(&format!("client resolves {name}"), resolve(stack, name).await);
    }
    if let Some(gateway) = stack.config_v4().and_then(|config| config.gateway) {
        good &= report("client pings the gateway", ping(stack, gateway, 3).await);
    }
    good &= report("client pings web", ping(stack, web, pings).await);
    let path = value(line, "file").unwrap_or("/data.bin");
    good &= report(&format!("client fetches {path} from web"), fetch(stack, web, path, value(line, "sha256")).await);
    good
}

/// Bytes written to the disk, from its second MiB on.
const DISK_BYTES: usize = 2 << 20;
/// First sector of them; the sector before says how far an earlier start came.
const DISK_START: u64 = 2048;
/// What that sector begins with when the data was written before a reboot.
const WRITTEN: &[u8] = b"ferrule: written before a reboot";

/// Writes to the first disk and reads back, `rounds` times, the last time with a reboot between if asked for.
async fn disk(context: Context, store: Store, reboot: bool, rounds: u64) -> Result<String, String> {
    let text = |error: blk::Error| format!("{error}");
    let number = blk::disks(store).await.ok().and_then(|disks| disks.first().copied()).ok_or("there is none")?;
    let (disk, task) = blk::connect(store, number);
    context.spawn(async move {
        let end = task.run().await;
        println!("client: the disk is gone: {end:?}");
    });
    let needed = DISK_START + (DISK_BYTES / blk::SECTOR_SIZE) as u64;
    let sectors = disk.properties().await.map_err(text)?.sectors;
    if sectors < needed {
        return Err(format!("{sectors} sectors are fewer than {needed}"));
    }
    for round in 1..rounds {
        let data = noise(round);
        disk.write(DISK_START, &data).await.map_err(text)?;
        let mut back = vec![0; DISK_BYTES];
        disk.read(DISK_START, &mut back).await.map_err(text)?;
        if back != data {
            return Err(format!("round {round} read back something else"));
        }
    }
    let data = noise(0);
    let mut sector = [0; blk::SECTOR_SIZE];
    disk.read(DISK_START - 1, &mut sector).await.map_err(text)?;
    let again = reboot && sector.starts_with(WRITTEN);
    let start = time::now();
    if !again {
        disk.write(DISK_START, &data).await.map_err(text)?;
        disk.flush().await.map_err(text)?;
    }
    if reboot && !again {
        sector.iter_mut().zip(WRITTEN).for_each(|(byte, mark)| *byte = *mark);
        disk.write(DISK_START - 1, &sector).await.map_err(text)?;
        disk.flush().await.map_err(text)?;
        println!("client: written, rebooting");
        domain_rt::hypercall::shutdown(ShutdownReason::REBOOT);
    }
    let mut back = vec![0; DISK_BYTES];
    disk.read(DISK_START, &mut back).await.map_err(text)?;
    let milliseconds = (time::now() - start) / 1_000_000;
    disk.write(DISK_START - 1, &[0; blk::SECTOR_SIZE]).await.map_err(text)?;
    disk.flush().await.map_err(text)?;
    let when = if again { "read back after a reboot" } else { "written and read back" };
    let text = format!("{DISK_BYTES} bytes {when}, {milliseconds} ms, {} requests", disk.counters().requests);
    if back == data { Ok(text) } else { Err(format!("{text}, but not the same")) }
}

/// What a round writes.
fn noise(round: u64) -> Vec<u8> {
    (0..DISK_BYTES as u64).map(|i| ((i + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// Prints how a step went.
fn report(step: &str, result: Result<String, String>) -> bool {
    match &result {
        Ok(text) => println!("ok   {step}   {text}"),
        Err(text) => println!("FAIL {step}   {text}"),
    }
    result.is_ok()
}

async fn resolve(stack: Stack<'_>, name: &str) -> Result<String, String> {
    match with_timeout(PATIENCE, stack.dns_query(name, DnsQueryType::A)).await {
        Ok(Ok(addresses)) => addresses.first().map(|address| format!("{address}")).ok_or("no address".into()),
        Ok(Err(error)) => Err(format!("{error:?}")),
        Err(_) => Err("no answer".into()),
    }
}

async fn ping(stack: Stack<'_>, target: Ipv4Addr, count: u16) -> Result<String, String> {
    let mut buffers = Buffers::default();
    let mut pinger = Pinger::new(stack, &mut buffers).ok_or("no socket")?;
    // The target may still be starting, and the first packet waits for its Ethernet address.
    let mut tries = 0;
    while pinger.ping(target, ANSWER).await.is_none() {
        tries += 1;
        if tries == TRIES {
            return Err(format!("{target} does not answer"));
        }
    }
    let (mut answers, mut total) = (0, Duration::from_ticks(0));
    for _ in 0..count {
        if let Some(time) = pinger.ping(target, ANSWER).await {
            answers += 1;
            total += time;
        }
    }
    let text = format!("{answers}/{count}");
    if answers < count {
        return Err(text);
    }
    let average = total.as_micros() / u64::from(count.max(1));
    Ok(format!("{text}, {average} us on average"))
}

async fn connect(stack: Stack<'_>, socket: &mut TcpSocket<'_>, web: Ipv4Addr) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..TRIES {
        stack.wait_config_up().await;
        match socket.connect((web, 80)).await {
            Ok(()) => return Ok(()),
            Err(error) => last = format!("{error:?}"),
        }
        socket.abort();
        Timer::after(Duration::from_secs(1)).await;
    }
    Err(last)
}

async fn fetch(stack: Stack<'_>, web: Ipv4Addr, path: &str, expected: Option<&str>) -> Result<String, String> {
    let (mut receive, mut send) = (vec![0; 64 * 1024], vec![0; 4096]);
    let mut socket = TcpSocket::new(stack, &mut receive, &mut send);
    socket.set_timeout(Some(PATIENCE));
    connect(stack, &mut socket, web).await?;
    let start = time::now();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {web}\r\nConnection: close\r\n\r\n");
    let mut rest = request.as_bytes();
    while !rest.is_empty() {
        let sent = socket.write(rest).await.map_err(|error| format!("{error:?}"))?;
        rest = rest.get(sent..).unwrap_or(&[]);
    }
    let (length, hash) = receive_body(&mut socket).await?;
    let nanoseconds = (time::now() - start).max(1);
    let megabits = u128::from(length) * 8000 / u128::from(nanoseconds);
    let text = format!("{length} bytes, {megabits} Mbit/s, sha256 {hash}");
    match expected {
        Some(expected) if !expected.eq_ignore_ascii_case(&hash) => Err(format!("{text}, not {expected}")),
        _ => Ok(text),
    }
}

/// Reads a response; the bytes of its body and their hash.
async fn receive_body(socket: &mut TcpSocket<'_>) -> Result<(u64, String), String> {
    let mut buffer = vec![0; 16 * 1024];
    let mut have = 0;
    let answer = loop {
        let known = buffer.get(..have).unwrap_or(&[]);
        if let Some(answer) = http::parse_answer(known).map_err(|error| format!("{error}"))? {
            break answer;
        }
        let room = buffer.get_mut(have..).filter(|room| !room.is_empty()).ok_or("response head too long")?;
        match socket.read(room).await.map_err(|error| format!("{error:?}"))? {
            0 => return Err("closed before the response".into()),
            count => have += count,
        }
    };
    if answer.status != 200 {
        return Err(format!("status {}", answer.status));
    }
    let mut hash = Sha256::new();
    let first = buffer.get(answer.head..have).unwrap_or(&[]);
    hash.update(first);
    let mut length = first.len() as u64;
    while answer.length.is_none_or(|expected| length < expected) {
        let count = socket.read(&mut buffer).await.map_err(|error| format!("{error:?} after {length} bytes"))?;
        if count == 0 {
            break;
        }
        hash.update(buffer.get(..count).unwrap_or(&[]));
        length += count as u64;
    }
    if answer.length.is_some_and(|expected| expected != length) {
        return Err(format!("closed after {length} bytes"));
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok((length, text))
}
