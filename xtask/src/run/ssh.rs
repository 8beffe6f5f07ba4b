//! The host as a guest's SSH client, with the key that `cargo xtask guest debian` made.

use crate::guest;
use crate::place::Place;
use crate::process::quiet;
use anyhow::{Context, Result, ensure};
use dom0::manifest::Forward;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a command may take; waiting for systemd's boot is one.
const LIMIT: Duration = Duration::from_secs(400);

/// A guest that lets root in by that key.
pub struct Guest {
    key: PathBuf,
    port: u16,
    /// The host's port that leads to its port 80, if one does.
    pub http: Option<u16>,
    /// SHA-256 of the file it serves.
    pub hash: String,
    place: Place,
}

impl Guest {
    /// The one behind the first port that leads to a port 22, if there is one.
    pub fn of(place: &Place, forwards: &[Forward]) -> Option<Guest> {
        let ssh = forwards.iter().find(|forward| forward.port == 22)?;
        let http = forwards.iter().find(|forward| forward.port == 80 && forward.guest == ssh.guest);
        let (port, http) = (ssh.host, http.map(|forward| forward.host));
        let made = guest::dir(place);
        let hash = std::fs::read_to_string(made.join(guest::debian::NOISE_HASH)).ok()?;
        Some(Guest { key: made.join(guest::debian::KEY), port, http, hash, place: place.clone() })
    }

    /// What a person types to get there.
    pub fn shown(&self) -> String {
        format!("ssh -p {} -i {} root@127.0.0.1", self.port, self.place.show(&self.key))
    }

    /// Waits until it lets us in.
    pub fn wait(&self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while let Err(error) = self.ssh("true") {
            ensure!(Instant::now() < end, "{error:#}, for {} s", limit.as_secs());
        }
        Ok(())
    }

    /// What a command prints that must succeed there.
    pub fn ssh(&self, script: &str) -> Result<String> {
        let mut command = Command::new("ssh");
        // Each image has host keys of its own.
        command.args(["-q", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        command.args(["-o", "BatchMode=yes", "-p", &self.port.to_string(), "-i"]).arg(&self.key);
        let said = quiet(command.args(["root@127.0.0.1", script]), LIMIT).context("is openssh-client installed?")?;
        ensure!(said.ok, "over SSH, {script}: {}", said.text.trim());
        Ok(said.text)
    }
}
