//! The host as an HTTP server for guests: the files of one folder, on 127.0.0.1, which QEMU's user network shows as 10.0.2.2.

use anyhow::{Result, anyhow};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tiny_http::{Request, Response, Server};

/// Serves until it is dropped.
pub struct Offer {
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
    port: u16,
}

impl Offer {
    /// Offers the files of a folder; one that comes later is served too.
    pub fn of(folder: PathBuf) -> Result<Offer> {
        let server = Server::http((Ipv4Addr::LOCALHOST, 0)).map_err(|error| anyhow!("offering files: {error}"))?;
        let port = server.server_addr().to_ip().map_or(0, |address| address.port());
        let server = Arc::new(server);
        let serving = server.clone();
        let thread = thread::spawn(move || {
            // Ends when unblocked.
            while let Ok(request) = serving.recv() {
                answer(request, &folder);
            }
        });
        Ok(Offer { server, thread: Some(thread), port })
    }

    /// Where a guest finds a file.
    pub fn url(&self, path: &str) -> String {
        format!("http://10.0.2.2:{}{path}", self.port)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A file of the folder itself, or 404; a guest that hangs up is no concern of ours.
fn answer(request: Request, folder: &std::path::Path) {
    let name = request.url().trim_start_matches('/');
    let file = if name.contains('/') { None } else { File::open(folder.join(name)).ok() };
    let _ = match file {
        Some(file) => request.respond(Response::from_file(file)),
        None => request.respond(Response::empty(404)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::http::{fetch, sha256};
    use std::time::Duration;

    #[test]
    fn files_of_the_folder_and_no_others_are_served() {
        let dir = std::env::temp_dir().join(format!("ferrule-offer-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("f"), b"offered").unwrap();
        let offer = Offer::of(dir.clone()).unwrap();
        let limit = Duration::from_secs(10);
        let got = fetch(offer.port, "/f", limit).unwrap();
        assert_eq!((got.status, got.sha256), (200, sha256(b"offered")));
        assert_eq!(fetch(offer.port, "/g", limit).unwrap().status, 404);
        assert_eq!(fetch(offer.port, "/../f", limit).unwrap().status, 404);
        assert_eq!(offer.url("/f"), format!("http://10.0.2.2:{}/f", offer.port));
        drop(offer);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
