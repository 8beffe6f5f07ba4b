//! Child processes: quiet runs with their output kept, time-outs, and an end to all of them when this program ends.

use anyhow::{Context, Result, bail};
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// The children that must not outlive this program.
static CHILDREN: Mutex<Vec<Arc<Mutex<Child>>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// On Ctrl-C, SIGTERM or SIGHUP: see [`end_everything`].
pub fn end_children_on_signals() -> Result<()> {
    ctrlc::set_handler(|| end_everything()).context("catching Ctrl-C")
}

/// Ends the children that [`Guarded`] knows. While the result lives, no other starts.
pub fn end_children() -> impl Drop {
    let children = lock(&CHILDREN);
    for child in children.iter() {
        let _ = lock(child).kill();
    }
    children
}

/// Whether everything is being ended.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Ends the children, puts the terminal back and exits with 130. Threads that look at a child from now on wait for that
/// end: that the child is gone is nothing to report.
pub fn end_everything() -> ! {
    STOPPING.store(true, Ordering::SeqCst);
    let _children = end_children();
    crate::terminal::restore();
    eprintln!("\nstopped; nothing is left running");
    std::process::exit(130)
}

/// A child that ends when this value goes, when this program is told to end, and, by the kernel's own doing,
/// when this program dies without a word (`setpriv --pdeathsig`, where util-linux is there).
pub struct Guarded {
    child: Arc<Mutex<Child>>,
}

impl Guarded {
    /// Starts `program` with `args`; `set` gives the rest of the command (streams, environment, folder).
    pub fn spawn(program: &str, args: &[String], set: impl FnOnce(&mut Command)) -> Result<Guarded> {
        let mut command = match which("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", program]);
                command
            }
            None => Command::new(program),
        };
        command.args(args);
        set(&mut command);
        let mut children = lock(&CHILDREN);
        let child = command.spawn().with_context(|| format!("starting {program}"))?;
        let child = Arc::new(Mutex::new(child));
        children.push(Arc::clone(&child));
        Ok(Guarded { child })
    }

    /// The process, for its streams and its state.
    pub fn child(&self) -> MutexGuard<'_, Child> {
        let child = lock(&self.child);
        if !STOPPING.load(Ordering::SeqCst) {
            return child;
        }
        drop(child);
        loop {
            thread::park();
        }
    }

    /// Waits until the process ends or `limit` has passed; `None` then.
    pub fn wait(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        wait(|| self.child().try_wait(), limit)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        {
            let mut child = self.child();
            let _ = child.kill();
            let _ = child.wait();
        }
        lock(&CHILDREN).retain(|known| !Arc::ptr_eq(known, &self.child));
    }
}

fn wait(
    mut try_wait: impl FnMut() -> std::io::Result<Option<ExitStatus>>,
    limit: Duration,
) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a finished command printed, and how it ended.
pub struct Output {
    /// Whether it exited with 0.
    pub ok: bool,
    /// Standard output and standard error, one after the other.
    pub text: String,
}

/// Runs a command to its end, or ends it after `limit`; nothing of it reaches the terminal.
pub fn quiet(command: &mut Command, limit: Duration) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
        child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
    ];
    let readers: Vec<_> = streams
        .into_iter()
        .flatten()
        .map(|mut stream| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = stream.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        })
        .collect();
    let Some(status) = wait(|| child.try_wait(), limit)? else {
        let _ = child.kill();
        let _ = child.wait();
        return Ok(Output { ok: false, text: format!("no end after {} s", limit.as_secs()) });
    };
    let text = readers.into_iter().filter_map(|reader| reader.join().ok()).collect();
    Ok(Output { ok: status.success(), text })
}

/// Standard output of a command that must succeed.
pub fn stdout_of(command: &mut Command) -> Result<String> {
    let shown = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first executable of that name on PATH, or in the system folders that a plain user's PATH leaves out.
pub fn which(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Whether this process is root, by the owner of its own entry in /proc.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_run_keeps_both_streams_and_the_result() {
        let run = quiet(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]), Duration::from_secs(10));
        let run = run.unwrap();
        assert!(!run.ok);
        assert_eq!(run.text, "one\ntwo\n");
    }

    #[test]
    fn a_run_that_hangs_is_ended() {
        let before = Instant::now();
        let run = quiet(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap();
        assert!(!run.ok && before.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_guarded_child_ends_with_its_guard() {
        let guard = Guarded::spawn("sleep", &["60".into()], |_| {}).unwrap();
        let pid = guard.child().id();
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
        drop(guard);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
