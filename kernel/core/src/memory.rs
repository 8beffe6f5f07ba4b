//! The frames a domain has and may have.
/// A domain's frames.
pub struct Account;
