//! Page types: the heart.
/// What `Domain::mm` guards.
pub struct State;
