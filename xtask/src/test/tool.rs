//! `cargo xtask` itself as a person meets it: run as a process of its own, judged by what it prints and its exit code.

use super::e2e::{Case, PATIENCE, Setting, expect_line, shown};
use crate::build::{CORE, built};
use crate::place::Place;
use crate::process::which;
use crate::qemu::{Ending, Line, Running};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[
    ("first-lines", first_lines),
    ("new-guest-and-driver", new_guest_and_driver),
    ("folder-added", folder_added),
    ("terminal", terminal),
    ("terminal-ctrl-c", terminal_ctrl_c),
];

/// How long a whole `run` may take, on a loaded machine.
pub const WHOLE: Duration = Duration::from_secs(300);

/// What a command printed, and how it ended.
pub struct Said {
    /// Its exit code; `None` for a signal or a time-out.
    pub code: Option<i32>,
    /// Both of its streams.
    pub text: String,
}

impl Said {
    /// It must have ended so, and said all of these.
    pub fn expect(&self, code: i32, words: &[&str]) -> Result<()> {
        ensure!(self.code == Some(code), "exit code {:?}, not {code}:\n{}", self.code, self.text);
        for word in words {
            ensure!(self.text.contains(word), "it does not say {word:?}:\n{}", self.text);
        }
        Ok(())
    }
}

/// This program once more, with the images as they are built, on the workspace at `root`.
pub fn xtask_at(place: &Place, root: &Path, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this program's own file")?);
    command.args(args).current_dir(root).stdin(Stdio::null());
    command.env("CARGO_MANIFEST_DIR", root.join("xtask")).env("CARGO_TARGET_DIR", &place.target);
    Ok(command)
}

/// [`xtask_at`] this workspace, building nothing.
pub fn xtask(place: &Place, args: &[&str]) -> Result<Command> {
    let mut command = xtask_at(place, &place.root, &["--no-build"])?;
    command.args(args);
    Ok(command)
}

/// Runs a command to its end; what it printed goes to `log` as well.
pub fn say(command: &mut Command, log: &Path) -> Result<Said> {
    let file = std::fs::File::create(log)?;
    command.stdout(file.try_clone()?).stderr(file);
    let mut child = command.spawn().context("starting this program once more")?;
    let end = Instant::now() + WHOLE;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let text = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    Ok(Said { code: status.and_then(|status| status.code()), text })
}

/// Runs `cargo xtask ARGS` to its end.
pub fn run(setting: &Setting<'_>, args: &[&str]) -> Result<Said> {
    say(&mut xtask(setting.place, args)?, &setting.log)
}

/// The processes that have this folder in their arguments: what a `run --dir` has started and not ended.
pub fn left_running(dir: &Path) -> Vec<u32> {
    let dir = shown(dir);
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let names_it = |id: &u32| {
        let arguments = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(&dir)
    };
    ids.filter(names_it).collect()
}

/// Waits until nothing of a `run --dir` is left.
pub fn expect_nothing_left(dir: &Path) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !left_running(dir).is_empty() {
        ensure!(Instant::now() < end, "left running: {:?}", left_running(dir));
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Alone it prints half a dozen useful lines.
fn first_lines(setting: &Setting<'_>) -> Result<()> {
    let said = run(setting, &[])?;
    said.expect(0, &["cargo xtask run", "cargo xtask test", "cargo xtask build", "new-guest", "--help"])?;
    let lines = said.text.lines().count();
    ensure!((5..=8).contains(&lines), "{lines} lines:\n{}", said.text);
    run(setting, &["--help"])?.expect(0, &["setup", "check", "conformance", "bench", "lint"])?;
    // Nobody reads: the end of a process by SIGPIPE, and no word.
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let said = xtask(setting.place, &[])?.stdout(writer).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    ensure!(said.status.code() == Some(141) && said.stderr.is_empty(), "without a reader: {said:?}");
    Ok(())
}

/// What they make, in a copy of the workspace.
fn new_guest_and_driver(setting: &Setting<'_>) -> Result<()> {
    let root = setting.dir().join("workspace");
    // A run that failed leaves it.
    let _ = std::fs::remove_dir_all(&root);
    for file in setting.place.files()? {
        let to = root.join(&file);
        std::fs::create_dir_all(to.parent().unwrap_or(&root))?;
        std::fs::copy(setting.place.root.join(&file), to)?;
    }
    new_guest(setting, &root)?;
    new_driver(setting, &root)
}

/// A guest builds and boots.
fn new_guest(setting: &Setting<'_>, root: &Path) -> Result<()> {
    let tool = |args: &[&str]| in_copy(setting, root, args);
    tool(&["new-guest", "Zebra!"])?.expect(2, &["Zebra!"])?;
    tool(&["new-guest", "zebra"])?
        .expect(0, &["examples/guests/zebra/src/main.rs", "cargo xtask build", "run --dom0"])?;
    tool(&["new-guest", "zebra"])?.expect(2, &["there is `zebra` already"])?;
    tool(&["build", "zebra"])?.expect(0, &["zebra"])?;
    let image = setting.place.target.join("scaffold/ferrule/zebra");
    let mut running = setting.start(&setting.machine("", &shown(&image)))?;
    expect_line(&mut running, "zebra: hello from a domain of")?;
    super::e2e::expect_ending(running, Ending::PowerOff)
}

/// A driver passes its tests and builds; both halves run, with this workspace's core and dom0.
fn new_driver(setting: &Setting<'_>, root: &Path) -> Result<()> {
    let tool = |args: &[&str]| in_copy(setting, root, args);
    for (bad, complaint) in [("Big", "lower-case"), ("vif", "a new device class"), ("echo", "there is `echo` already")]
    {
        tool(&["new-driver", bad])?.expect(2, &[complaint])?;
    }
    let made = ["examples/drivers/big-cat/src/lib.rs", "cargo test -p big-cat-driver", "big-cat.toml"];
    tool(&["new-driver", "big-cat"])?.expect(0, &made)?;
    tool(&["new-driver", "big-cat"])?.expect(2, &["there is `big-cat` already"])?;
    let mut test = Command::new("cargo");
    test.args(["test", "-q", "-p", "big-cat-driver"]).current_dir(root);
    test.env("CARGO_TARGET_DIR", setting.place.target.join("scaffold"));
    say(&mut test, &setting.log)?.expect(0, &["test result: ok"])?;
    tool(&["build", "big-cat-driver"])?.expect(0, &["big-cat"])?;
    let (dir, mine) = (setting.dir(), setting.dir().join("mine"));
    std::fs::create_dir_all(&mine)?;
    for image in ["big-cat", "big-catback"] {
        std::fs::copy(setting.place.target.join("scaffold/ferrule").join(image), mine.join(image))?;
    }
    let manifest = std::fs::read_to_string(root.join("examples/drivers/big-cat/big-cat.toml"))?;
    let config = dir.join("big-cat.toml");
    std::fs::write(&config, manifest.replace("kernel = \"", "kernel = \"mine/"))?;
    let args = ["run", "--http-port", "0", "--config", &shown(&config), "--add", &shown(&mine), "--dir", &shown(&dir)];
    let mut pty = Pty::start(setting, &args)?;
    pty.expect("dom0#")?;
    pty.send("console big-cat\r")?;
    pty.expect("big-cat: 10000 messages came back")?;
    pty.expect("big-cat: SUCCESS")?;
    pty.send("\x1d")?;
    pty.send("poweroff\r")?;
    pty.expect_end(0)
}

/// This tool in the copy; what it builds stays for the next.
fn in_copy(setting: &Setting<'_>, root: &Path, args: &[&str]) -> Result<Said> {
    let mut command = xtask_at(setting.place, root, args)?;
    command.env("CARGO_TARGET_DIR", setting.place.target.join("scaffold"));
    say(&mut command, &setting.log)
}

/// `run --dom0 IMAGE` boots it; `run --add DIR` puts files where `create` finds them.
fn folder_added(setting: &Setting<'_>) -> Result<()> {
    let first = built(setting.place, crate::build::Part::Domains, "first").context("no image first")?;
    let core = built(setting.place, crate::build::Part::Core, CORE).context("no core")?;
    ensure!(core.is_file(), "no core");
    let dir = setting.dir();
    let said = run(setting, &["run", "--dom0", &shown(&first), "--dir", &shown(&dir)])?;
    said.expect(0, &["first: hello from a domain of", "ferrule: power-off"])?;
    let mine = dir.join("mine");
    std::fs::create_dir_all(&mine)?;
    std::fs::copy(&first, mine.join("mine"))?;
    std::fs::write(mine.join("mine.toml"), "name = 'mine'\nkernel = 'mine'\nmemory = 8\n")?;
    let config = dir.join("empty.toml");
    std::fs::write(&config, "[[domain]]\nname = 'idle'\nkernel = 'mine/mine'\nautostart = false\n")?;
    let args = ["run", "--http-port", "0", "--config", &shown(&config), "--add", &shown(&mine), "--dir", &shown(&dir)];
    let mut pty = Pty::start(setting, &args)?;
    pty.expect("dom0#")?;
    pty.send("create mine.toml\r")?;
    pty.expect("first: hello from a domain of 8192 KiB")?;
    pty.send("poweroff\r")?;
    pty.expect_end(0)
}

/// A command under a terminal of its own, by util-linux's `script`.
struct Pty {
    running: Running,
    seen: usize,
}

impl Pty {
    fn start(setting: &Setting<'_>, args: &[&str]) -> Result<Pty> {
        ensure!(which("script").is_some(), "no `script` (Debian package bsdutils) to make a terminal with");
        let command = xtask(setting.place, args)?;
        let mut line = format!("exec {}", quoted(&shown(Path::new(command.get_program()))));
        command.get_args().for_each(|arg| line = format!("{line} {}", quoted(&arg.to_string_lossy())));
        let environment = format!(
            "export CARGO_MANIFEST_DIR={} CARGO_TARGET_DIR={}; stty cols 120 rows 40; ",
            quoted(&shown(&setting.place.root.join("xtask"))),
            quoted(&shown(&setting.place.target))
        );
        let args = ["-q", "-e", "-f", "-c", &format!("{environment}{line}"), "/dev/null"].map(str::to_string);
        Ok(Pty { running: Running::start("script", &args, &setting.log)?, seen: 0 })
    }

    /// Waits for `text` behind what was seen so far.
    fn expect(&mut self, text: &str) -> Result<()> {
        let found = self.running.wait_for(self.seen, WHOLE, |lines, partial| {
            let line = lines.iter().position(|line| line.text.contains(text));
            line.or_else(|| partial.contains(text).then_some(lines.len()))
        });
        let last: Vec<&str> = self.running.lines().iter().rev().take(3).map(|line| line.text.as_str()).collect();
        self.seen = found.with_context(|| format!("no {text:?} on the terminal; the last lines: {last:?}"))?;
        Ok(())
    }

    /// Waits for a prompt behind which nothing has been typed.
    fn expect_prompt(&mut self) -> Result<()> {
        let prompt = |lines: &[Line], partial: &str| (partial.trim_end() == "dom0#").then_some(lines.len());
        let found = self.running.wait_for(self.seen, WHOLE, prompt);
        self.seen = found.with_context(|| format!("no prompt on the terminal, but {:?}", self.running.partial()))?;
        Ok(())
    }

    fn send(&mut self, text: &str) -> Result<()> {
        self.running.send(text.as_bytes())
    }

    fn expect_end(mut self, code: i32) -> Result<()> {
        let ending = self.running.finish(WHOLE)?;
        let wanted = Ending::from_code(Some(code));
        ensure!(ending == wanted, "ended as {ending:?}, not {wanted:?}; {}", self.running.end());
        Ok(())
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// On a terminal the tour leaves one at dom0's prompt: lines to try, Ctrl-C for the guest, `poweroff` ends.
fn terminal(setting: &Setting<'_>) -> Result<()> {
    let dir = setting.dir();
    let mut pty = Pty::start(setting, &["run", "--http-port", "0", "--step", "domains", "--dir", &shown(&dir)])?;
    pty.expect("try: list | console web")?;
    pty.expect("dom0#")?;
    pty.send("list\r")?;
    pty.expect("Domain-0")?;
    pty.send("store watch /tool\r")?;
    pty.expect("store watch /tool")?;
    // Ctrl-C ends the watch, not the machine: the shell takes the next command.
    pty.send("\x03")?;
    pty.expect_prompt()?;
    pty.send("uptime\r")?;
    pty.expect("dom0# uptime")?;
    pty.send("poweroff\r")?;
    pty.expect("ferrule: power-off")?;
    pty.expect_end(0)?;
    expect_nothing_left(&dir)
}

/// Ctrl-C twice at the prompt, and once while the tour still goes on, ends everything.
fn terminal_ctrl_c(setting: &Setting<'_>) -> Result<()> {
    let dir = setting.dir();
    let args = ["run", "--http-port", "0", "--step", "domains", "--dir", &shown(&dir)];
    let mut pty = Pty::start(setting, &args)?;
    pty.expect("try: list | console web")?;
    pty.send("\x03\x03")?;
    pty.expect("nothing is left running")?;
    pty.expect_end(130)?;
    expect_nothing_left(&dir)?;
    let mut pty = Pty::start(setting, &args)?;
    pty.expect("full log: ")?;
    pty.send("\x03")?;
    pty.expect("nothing is left running")?;
    pty.expect_end(130)?;
    expect_nothing_left(&dir)
}
