//! How a command ends: 0 when all held, 1 when something was found wrong, 2 when it could not begin.

use std::fmt;

/// A mistake of the person at the keyboard, or a thing this machine lacks: printed as it is, exit code 2.
#[derive(Debug)]
pub struct Unable(pub String);

impl fmt::Display for Unable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unable {}

/// All has been said already: nothing more is printed, exit code 1.
#[derive(Debug)]
pub struct Said;

impl fmt::Display for Said {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Said {}

/// Like `anyhow::bail!`, for an exit code of 2.
#[macro_export]
macro_rules! unable {
    ($($arg:tt)*) => { return Err(anyhow::Error::new($crate::fail::Unable(format!($($arg)*)))) };
}

/// The exit code of an error: 2 for [`Unable`] anywhere in its chain, else 1.
pub fn code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<Unable>()) { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_mistake_ends_in_two_and_a_finding_in_one() {
        let mistake = anyhow::Error::new(Unable("no such file".into())).context("while reading");
        assert_eq!(code(&mistake), 2);
        assert_eq!(code(&anyhow::anyhow!("3 rules broken")), 1);
        let io: anyhow::Result<()> = Err(std::io::Error::other("disk")).context("reading");
        assert_eq!(code(&io.unwrap_err()), 1);
    }
}
