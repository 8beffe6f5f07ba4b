//! `web`: gets its address by DHCP and serves the files of its first disk, and a status page, over HTTP/1.1 on port 80.
//!
//! Command line: `part=N` serves GPT partition N (from 1) of the disk instead of the whole of it.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use abi::sched::ShutdownReason;
use abi::start_info::StartInfo;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use core::cell::RefCell;
use core::fmt::Write as _;
use domain_rt::println;
use domain_rt::runtime::{self, Context};
use domain_rt::store::Store;
use domain_rt::{memory, time};
use embassy_net::Stack;
use embassy_net::tcp::TcpSocket;
use embassy_time::Duration;
use frontends::blk::{self, Disk};
use frontends::files::{Files, FilesError};
use frontends::http::{self, Escaped, Head, MAX_HEAD, Parsed, Request, Status};
use frontends::net::Stats;
use frontends::partitions::{self, Partition};
use frontends::slice::Slice;
use frontends::stack;

domain_rt::entry!(run);

fn run(start: &'static StartInfo) -> ShutdownReason {
    runtime::start(start, serve)
}

/// Connections served at a time.
const WORKERS: usize = 8;
/// Cached blocks of 4 KiB.
const CACHE_BLOCKS: usize = 1024;
/// Bytes of a socket's buffers.
const WINDOW: usize = 32 * 1024;
/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(20);

/// What all connections use.
struct Site {
    domain: u16,
    stats: Stats,
    disk: Option<Disk>,
    partitions: Option<alloc::vec::Vec<Partition>>,
    files: Option<embassy_sync_mutex::Mutex<Files<Slice>>>,
    served: RefCell<Served>,
}

#[derive(Clone, Copy, Default)]
struct Served {
    requests: u64,
    bytes: u64,
    not_found: u64,
}

/// A lock that waits: one file operation at a time.
mod embassy_sync_mutex {
    pub type Mutex<T> = embassy_sync::mutex::Mutex<embassy_sync::blocking_mutex::raw::NoopRawMutex, T>;
}

async fn serve(context: Context) {
    let Some(store) = context.store else { return println!("web: no store") };
    let domain = store.read_number("domid").await.unwrap_or(0);
    let mut site = open_disk(context, store).await;
    site.0 = domain;
    let (stack, stats) = match stack::start(context, store).await {
        Ok(started) => started,
        Err(error) => return println!("web: no network: {error}"),
    };
    let (domain, disk, partitions, files) = site;
    let site = Site { domain, stats, disk, partitions, files, served: RefCell::default() };
    let site = Rc::new(site);
    for _ in 0..WORKERS {
        context.spawn(worker(stack, site.clone()));
    }
    println!("web: serving on port 80");
}

type Opened = (u16, Option<Disk>, Option<alloc::vec::Vec<Partition>>, Option<embassy_sync_mutex::Mutex<Files<Slice>>>);

/// Opens the first disk and its file system; what cannot be opened is said and left out.
async fn open_disk(context: Context, store: Store) -> Opened {
    let nothing = (0, None, None, None);
    let Some(handle) = blk::disks(store).await.ok().and_then(|disks| disks.first().copied()) else {
        println!("web: no disk");
        return nothing;
    };
    let (disk, task) = blk::connect(store, handle);
    context.spawn(async move {
        let end = task.run().await;
        println!("web: the disk is gone: {end:?}");
    });
    let Ok(properties) = disk.properties().await else { return nothing };
    println!("web: disk {} of {} sectors", disk.name(), properties.sectors);
    let mut table = vec![0; partitions::TABLE];
    let table = disk.read(0, &mut table).await.ok().and_then(|()| partitions::parse(&table));
    let wanted = frontends::options::value(context.command_line(), "part").and_then(|part| part.parse::<usize>().ok());
    let part = wanted.and_then(|part| table.as_ref()?.get(part.checked_sub(1)?).cloned());
    let slice = match part {
        Some(part) => Slice::new(disk.clone(), part.first, part.sectors),
        None => Slice::new(disk.clone(), 0, properties.sectors),
    };
    let files = match Files::open(slice, CACHE_BLOCKS).await {
        Ok(files) => Some(embassy_sync_mutex::Mutex::new(files)),
        Err(error) => {
            println!("web: no file system: {error}");
            None
        }
    };
    (0, Some(disk), table, files)
}

/// Serves one connection after another.
async fn worker(stack: Stack<'static>, site: Rc<Site>) {
    let buffer = || Box::leak(vec![0; WINDOW].into_boxed_slice());
    let (receive, send) = (buffer(), buffer());
    loop {
        let mut socket = TcpSocket::new(stack, receive, send);
        socket.set_timeout(Some(PATIENCE));
        socket.set_nagle_enabled(false);
        if socket.accept(80).await.is_ok() {
            // However it ended, the next one is served.
            let _ = converse(&mut socket, &site).await;
            let _ = socket.flush().await;
            socket.close();
            let _ = socket.flush().await;
        }
    }
}

/// The connection is of no more use.
struct Ended;

impl From<embassy_net::tcp::Error> for Ended {
    fn from(_: embassy_net::tcp::Error) -> Self {
        Self
    }
}

async fn converse(socket: &mut TcpSocket<'_>, site: &Site) -> Result<(), Ended> {
    let mut bytes = vec![0; MAX_HEAD];
    let mut have = 0;
    loop {
        match http::parse(bytes.get(..have).unwrap_or(&[])) {
            Parsed::Partial => {
                let room = bytes.get_mut(have..).filter(|room| !room.is_empty()).ok_or(Ended)?;
                match socket.read(room).await? {
                    0 => return Ok(()),
                    count => have += count,
                }
            }
            Parsed::Refused(status) => return refuse(socket, status, None, false).await,
            Parsed::Request(request, len) => {
                bytes.copy_within(len..have, 0);
                have -= len;
                site.served.borrow_mut().requests += 1;
                respond(socket, site, &request).await?;
                if !request.keep_alive {
                    return Ok(());
                }
            }
        }
    }
}

async fn send(socket: &mut TcpSocket<'_>, mut data: &[u8]) -> Result<(), Ended> {
    while !data.is_empty() {
        let count = socket.write(data).await?;
        data = data.get(count..).unwrap_or(&[]);
    }
    Ok(())
}

/// Answers with a status and its words as the body. `size` is that of the file, where a range of it was asked for.
async fn refuse(socket: &mut TcpSocket<'_>, status: Status, size: Option<u64>, keep_alive: bool) -> Result<(), Ended> {
    let body = format!("{} {}\n", status.0, status.1);
    let part = size.map(|size| (0, size));
    let head = Head { status, media_type: "text/plain", length: body.len() as u64, part, keep_alive };
    send(socket, head.to_string().as_bytes()).await?;
    send(socket, body.as_bytes()).await
}

async fn respond(socket: &mut TcpSocket<'_>, site: &Site, request: &Request) -> Result<(), Ended> {
    if request.path == "/" || request.path == "/status" {
        let page = status_page(site).await;
        let media_type = "text/html; charset=utf-8";
        let length = page.len() as u64;
        let head = Head { status: Status::OK, media_type, length, part: None, keep_alive: request.keep_alive };
        send(socket, head.to_string().as_bytes()).await?;
        return if request.head_only { Ok(()) } else { send(socket, page.as_bytes()).await };
    }
    match &site.files {
        Some(files) => send_file(socket, site, files, request).await,
        None => refuse(socket, Status::NOT_FOUND, None, request.keep_alive).await,
    }
}

async fn send_file(
    socket: &mut TcpSocket<'_>,
    site: &Site,
    files: &embassy_sync_mutex::Mutex<Files<Slice>>,
    request: &Request,
) -> Result<(), Ended> {
    let opened = files.lock().await.open_file(&request.path).await;
    let (mut file, size) = match opened {
        Ok(opened) => opened,
        Err(FilesError::FileSystem(_)) => {
            site.served.borrow_mut().not_found += 1;
            return refuse(socket, Status::NOT_FOUND, None, request.keep_alive).await;
        }
        Err(_) => return refuse(socket, Status::SERVER_ERROR, None, request.keep_alive).await,
    };
    let (first, length, status) = match request.range {
        None => (0, size, Status::OK),
        Some(range) => match range.within(size) {
            Some((first, length)) => (first, length, Status::PARTIAL_CONTENT),
            None => return refuse(socket, Status::RANGE_NOT_SATISFIABLE, Some(size), request.keep_alive).await,
        },
    };
    let part = request.range.map(|_| (first, size));
    let media_type = http::media_type(&request.path);
    let head = Head { status, media_type, length, part, keep_alive: request.keep_alive };
    send(socket, head.to_string().as_bytes()).await?;
    if request.head_only {
        return Ok(());
    }
    if first > 0 {
        files.lock().await.seek(&mut file, first).await.map_err(|_| Ended)?;
    }
    let mut left = length;
    let mut buffer = vec![0; 8192];
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let room = buffer.get_mut(..want).ok_or(Ended)?;
        // Once the head is out, an error can only be told by closing early.
        let count = files.lock().await.read(&mut file, room).await.map_err(|_| Ended)?;
        if count == 0 {
            return Err(Ended);
        }
        send(socket, room.get(..count).ok_or(Ended)?).await?;
        left -= count as u64;
        site.served.borrow_mut().bytes += count as u64;
    }
    Ok(())
}

async fn status_page(site: &Site) -> String {
    let mut page = String::from("<!doctype html><title>ferrule web</title><h1>ferrule web</h1><pre>\n");
    let served = *site.served.borrow();
    let (net, (free, all)) = (site.stats.counters(), memory::usage());
    let seconds = time::now() / 1_000_000_000;
    // Writing to a string cannot fail.
    let _ = writeln!(page, "domain   {}", site.domain);
    let _ = writeln!(page, "uptime   {seconds} s");
    let _ = writeln!(page, "memory   {free} of {all} pages free");
    let _ =
        writeln!(page, "requests {}, {} bytes of files, {} not found", served.requests, served.bytes, served.not_found);
    let _ = writeln!(page, "received {} packets, {} bytes, {} dropped", net.received, net.received_bytes, net.dropped);
    let _ = writeln!(page, "sent     {} packets, {} bytes, {} events", net.sent, net.sent_bytes, net.notifications);
    if let Some(disk) = &site.disk {
        let counters = disk.counters();
        let sectors = disk.properties().await.map_or(0, |properties| properties.sectors);
        let _ = writeln!(page, "disk     {}, {sectors} sectors", disk.name());
        let _ = writeln!(
            page,
            "         {} read, {} written, {} requests, {} events, {} reconnects",
            counters.sectors_read,
            counters.sectors_written,
            counters.requests,
            counters.notifications,
            counters.reconnects
        );
    }
    for (number, part) in (1..).zip(site.partitions.iter().flatten()) {
        let name = Escaped(&part.name);
        let _ = writeln!(page, "         partition {number}: {} sectors at {}, {name}", part.sectors, part.first);
    }
    let _ = writeln!(page, "</pre>");
    if let Some(files) = &site.files {
        list_files(&mut page, files).await;
    }
    page
}

async fn list_files(page: &mut String, files: &embassy_sync_mutex::Mutex<Files<Slice>>) {
    match files.lock().await.list("/").await {
        Ok(entries) => {
            let _ = writeln!(page, "<h2>files</h2><ul>");
            for entry in entries {
                let name = Escaped(&entry.name);
                let _ = match entry.directory {
                    true => writeln!(page, "<li>{name}/"),
                    false => writeln!(page, "<li><a href=\"/{name}\">{name}</a> {} bytes", entry.size),
                };
            }
            let _ = writeln!(page, "</ul>");
        }
        Err(error) => {
            let _ = writeln!(page, "<p>files: {}", Escaped(&error.to_string()));
        }
    }
}
