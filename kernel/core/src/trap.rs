//! Exceptions and events, bounced to guests.
/// A guest's trap table.
pub struct TrapTable;
/// A guest's callbacks.
pub struct Callbacks;
