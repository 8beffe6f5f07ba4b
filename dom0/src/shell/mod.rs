//! The shell on the serial console: a line editor, xl's words, tables. It decides nothing; the program carries out the
//! [`Command`] it reads.

pub mod command;
pub mod complete;
pub mod editor;
pub mod figures;
pub mod table;

pub use command::{Command, StoreCommand};
pub use complete::Names;
pub use editor::{Editor, Entered};
pub use table::Table;
