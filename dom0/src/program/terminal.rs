//! The serial console: the shell's line, the log above it, or a domain's console.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::DomId;
use dom0::console::ESCAPE;
use dom0::shell::{Editor, Entered, Names, command};
use dom0::{cpio, manifest};
use domain_rt::console;

use super::channel::Channel;
use super::{Shared, State, commands};

const PROMPT: &str = "dom0# ";

/// What the terminal shows.
#[derive(Debug, Default, PartialEq, Eq)]
enum Mode {
    /// Nothing has to be drawn again: before the first prompt, or while a command runs.
    #[default]
    Busy,
    /// The prompt and what is being typed.
    Prompt,
    /// A domain's console.
    Console(DomId),
    /// A store watch, until Ctrl-C.
    Watch(String),
}

/// The terminal.
#[derive(Debug)]
pub struct Terminal {
    editor: Editor,
    mode: Mode,
    /// Log lines that wait while a domain's console is shown, the last of them.
    held: VecDeque<String>,
}

/// Log lines that wait at most.
const HELD_MAX: usize = 200;

impl Default for Terminal {
    fn default() -> Self {
        Self { editor: Editor::new(PROMPT), mode: Mode::Busy, held: VecDeque::new() }
    }
}

fn raw(text: &str) {
    console::print(format_args!("{text}"));
}

impl Terminal {
    /// Prints a line, above what is being typed.
    pub fn print(&mut self, line: &str) {
        match self.mode {
            Mode::Console(_) => {
                if self.held.len() == HELD_MAX {
                    self.held.pop_front();
                }
                self.held.push_back(line.to_string());
            }
            Mode::Prompt => {
                raw(self.editor.hide());
                raw(line);
                raw("\n");
                raw(&self.editor.draw());
            }
            Mode::Busy | Mode::Watch(_) => {
                raw(line);
                raw("\n");
            }
        }
    }

    /// Shows the prompt.
    pub fn open(&mut self) {
        self.mode = Mode::Prompt;
        core::mem::take(&mut self.held).iter().for_each(|line| {
            raw(line);
            raw("\n");
        });
        raw(&self.editor.draw());
    }

    /// Draws the prompt again, below what somebody else has printed.
    pub fn redraw(&self) {
        if self.mode == Mode::Prompt {
            raw(&self.editor.draw());
        }
    }

    /// A domain is gone; if its console was shown, back to the shell.
    pub fn gone(&mut self, domain: DomId) {
        if self.mode == Mode::Console(domain) {
            raw("\nthe domain is gone\n");
            self.open();
        }
    }

    /// Shows a domain's console.
    pub fn connect(&mut self, domain: DomId, name: &str, channel: &Channel) {
        self.mode = Mode::Console(domain);
        raw(&alloc::format!("connected to {name}; leave with Ctrl-]\n"));
        console::write(&channel.scrollback.borrow().all());
    }

    /// Shows events of a store watch.
    pub fn watch(&mut self, path: String) {
        self.mode = Mode::Watch(path);
    }

    /// Whether the shell waits for a command to end.
    pub fn is_busy(&self) -> bool {
        self.mode == Mode::Busy
    }
}

impl State {
    /// A domain has printed something.
    pub fn domain_prints(&mut self, domain: DomId, channel: &Rc<Channel>, bytes: &[u8]) {
        let lines = channel.scrollback.borrow_mut().push(bytes);
        if self.terminal.mode == Mode::Console(domain) {
            console::write(bytes);
        } else if self.log_consoles {
            let name = self.tools.get(domain).map_or_else(String::new, |running| running.config.name.clone());
            lines.iter().for_each(|line| self.log(&name, &alloc::format!("console: {line}")));
        }
    }
}

/// Takes bytes typed.
pub fn input(state: &Shared, bytes: &[u8]) {
    for byte in bytes {
        let mut borrowed = state.borrow_mut();
        match &borrowed.terminal.mode {
            Mode::Busy => {}
            Mode::Console(_) if *byte == ESCAPE => {
                raw("\n");
                borrowed.terminal.open();
            }
            Mode::Console(domain) => {
                if let Some(channel) = borrowed.channels.get(domain) {
                    channel.type_in(&[*byte]);
                }
            }
            Mode::Watch(path) if *byte == 3 => {
                let path = path.clone();
                let _ = borrowed.tools.store.unwatch(&path, "shell");
                borrowed.terminal.open();
            }
            Mode::Watch(_) => {}
            Mode::Prompt => {
                drop(borrowed);
                key(state, *byte);
            }
        }
    }
}

/// A key at the prompt.
fn key(state: &Shared, byte: u8) {
    let mut out = String::new();
    let entered = {
        let mut state = state.borrow_mut();
        let mut editor = core::mem::take(&mut state.terminal.editor);
        let entered = editor.input(byte, &mut *state, &mut out);
        state.terminal.editor = editor;
        entered
    };
    raw(&out);
    let Some(entered) = entered else { return };
    state.borrow_mut().terminal.mode = Mode::Busy;
    match entered {
        Entered::Line(line) => match command::parse(&line) {
            Ok(Some(command)) => commands::carry_out(state, command),
            Ok(None) => {}
            Err(error) => raw(&alloc::format!("error: {error}\n")),
        },
        Entered::Interrupt => state.borrow_mut().give_up(),
    }
    let mut state = state.borrow_mut();
    // A command may have left something else to show.
    if state.terminal.is_busy() && !state.ending {
        state.terminal.open();
    }
}

impl Names for State {
    fn domains(&mut self) -> Vec<String> {
        let making = self.making.configs().map(|config| config.name.clone());
        self.tools.domains().map(|running| running.config.name.clone()).chain(making).collect()
    }

    fn startable(&mut self) -> Vec<String> {
        let running = Names::domains(self);
        let known = self.manifest.domains.iter().map(|config: &manifest::Domain| config.name.clone());
        let files = cpio::files(self.tools.files).flatten().map(|file| file.name.to_string());
        known.filter(|name| !running.contains(name)).chain(files.filter(|name| name.ends_with(".toml"))).collect()
    }

    fn children(&mut self, path: &str) -> Vec<String> {
        self.tools.store.list(path)
    }
}
