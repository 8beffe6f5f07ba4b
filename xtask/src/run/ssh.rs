//! The host as a guest's SSH client, with the key that `cargo xtask guest debian` made.

use crate::guest;
use crate::place::Place;
use crate::process::{Guarded, quiet};
use anyhow::{Context, Result, ensure};
use dom0::manifest::Forward;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
        self.run(script, LIMIT)
    }

    /// The same, within `limit`.
    pub fn run(&self, script: &str, limit: Duration) -> Result<String> {
        let said = quiet(self.way("ssh", "-p").args(["root@127.0.0.1", script]), limit);
        let said = said.context("is openssh-client installed?")?;
        ensure!(said.ok, "over SSH, {script}: {}", said.text.trim());
        Ok(said.text)
    }

    /// Hands over each line that a command prints there, until `take` wants no more, the command ends, or `limit` is over.
    pub fn stream(&self, script: &str, limit: Duration, mut take: impl FnMut(&str) -> bool) -> Result<()> {
        let args: Vec<String> = self.way("ssh", "-p").args(["root@127.0.0.1", script]).get_args().map(text).collect();
        let child = Guarded::spawn("ssh", &args, |command| {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        })?;
        let output = child.child().stdout.take().context("the output of ssh")?;
        let end = Instant::now() + limit;
        for line in BufReader::new(output).lines() {
            if !take(&line?) || Instant::now() > end {
                break;
            }
        }
        Ok(())
    }

    /// Copies a file from there.
    pub fn copy_from(&self, from: &str, to: &Path, limit: Duration) -> Result<()> {
        let said = quiet(self.way("scp", "-P").arg(format!("root@127.0.0.1:{from}")).arg(to), limit)?;
        ensure!(said.ok, "scp {from}: {}", said.text.trim());
        Ok(())
    }

    /// `ssh` or `scp`, as far as the way there goes.
    fn way(&self, program: &str, port: &str) -> Command {
        let mut command = Command::new(program);
        // Each image has host keys of its own.
        command.args(["-q", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        command.args(["-o", "BatchMode=yes", port, &self.port.to_string(), "-i"]).arg(&self.key);
        command
    }
}

fn text(arg: &OsStr) -> String {
    arg.to_string_lossy().into_owned()
}
