//! How two halves of a device meet (`io/xenbus.h`, and the diagrams of `io/blkif.h`): one executable copy.
//!
//! Each half has a `state` key in its own directory and watches the other's. When the peer's state changes, and after
//! each action, a half asks [`back_step`] or [`front_step`] what to do, does it, and writes the state that goes with
//! it ([`BackStep::next`], [`FrontStep::next`]) until the answer is to stay.
//!
//! ```text
//!   front                                   back
//!   Initialising                            Initialising -> InitWait       Offer
//!   Initialised (vif: Connected)  Setup     Connected                      Connect
//!   Connected                     Finish
//! ```
//! What neither side may rely on is that the other follows this: every pair of states has an answer.

use crate::path::{Class, decimal};
use core::fmt;

/// The state of one half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// No state key, or one that says nothing known.
    Unknown = 0,
    /// Made by the toolstack, or starting over.
    Initialising = 1,
    /// Features published, waiting for the peer.
    InitWait = 2,
    /// Rings published, waiting for the peer to connect.
    Initialised = 3,
    /// At work.
    Connected = 4,
    /// Being closed.
    Closing = 5,
    /// Closed.
    Closed = 6,
    /// Being reconfigured (PCI only).
    Reconfiguring = 7,
    /// Reconfigured (PCI only).
    Reconfigured = 8,
}

impl State {
    /// All states, by number.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Initialising,
        Self::InitWait,
        Self::Initialised,
        Self::Connected,
        Self::Closing,
        Self::Closed,
        Self::Reconfiguring,
        Self::Reconfigured,
    ];

    /// The state that a key holds; `Unknown` for no key and for nonsense.
    pub fn parse(value: Option<&str>) -> Self {
        let number = value.and_then(decimal::<usize>);
        number.and_then(|number| Self::ALL.get(number)).copied().unwrap_or(Self::Unknown)
    }
}

/// The value of a `state` key.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", *self as u8)
    }
}

/// What a backend does next.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackStep {
    /// Nothing.
    Stay,
    /// Drop any connection and publish features.
    Offer,
    /// Read the frontend's keys, map the rings, bind the events, publish properties. If that fails: close.
    Connect,
    /// Drop the connection; the frontend is closing.
    Close,
    /// Drop the connection; the frontend has closed or is gone.
    Shut,
}

impl BackStep {
    /// The state to write when the step is done.
    pub fn next(self) -> Option<State> {
        match self {
            Self::Stay => None,
            Self::Offer => Some(State::InitWait),
            Self::Connect => Some(State::Connected),
            Self::Close => Some(State::Closing),
            Self::Shut => Some(State::Closed),
        }
    }
}

/// What a backend in state `own` does when its frontend is in state `peer`.
///
/// A frontend that starts over gets a fresh offer. A backend that starts over offers, then connects at once to rings
/// that its predecessor served ([`Back::attach`](crate::ring::Back::attach) goes on where that one stopped).
pub fn back_step(own: State, peer: State) -> BackStep {
    use State::*;
    match (own, peer) {
        (Unknown | Initialising, _) => BackStep::Offer,
        (InitWait, Initialising) => BackStep::Stay,
        (_, Initialising) => BackStep::Offer,
        (InitWait | Initialised, Initialised | Connected) => BackStep::Connect,
        (Closing | Closed, Closing) => BackStep::Stay,
        (_, Closing) => BackStep::Close,
        (Closed, Closed | Unknown) => BackStep::Stay,
        (_, Closed | Unknown) => BackStep::Shut,
        _ => BackStep::Stay,
    }
}

/// What a frontend does next.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontStep {
    /// Nothing.
    Stay,
    /// Read the backend's features, make the rings, publish where they are.
    Setup,
    /// Read the backend's properties: the device is usable.
    Finish,
    /// The backend died or started over: drop the connection, keep what was asked and not answered, begin again.
    Restart,
    /// The backend closes: drop the connection.
    Close,
}

impl FrontStep {
    /// The state to write when the step is done. A network frontend connects in one step, as Linux backends expect.
    pub fn next(self, class: Class) -> Option<State> {
        match self {
            Self::Stay => None,
            Self::Setup if class == Class::VIF => Some(State::Connected),
            Self::Setup => Some(State::Initialised),
            Self::Finish => Some(State::Connected),
            Self::Restart => Some(State::Initialising),
            Self::Close => Some(State::Closed),
        }
    }
}

/// What a frontend in state `own` does when its backend is in state `peer`. A frontend that closes for good stops
/// asking.
///
/// A connected vif meets `InitWait` before its backend has connected, so that state alone does not mean a restart: a
/// backend that starts over and misses being seen in `Initialising` connects to the rings there are.
pub fn front_step(own: State, peer: State) -> FrontStep {
    use State::*;
    match (own, peer) {
        (Initialising, InitWait | Initialised) => FrontStep::Setup,
        (Initialised, Connected) => FrontStep::Finish,
        (Initialised | Connected, Unknown | Initialising) => FrontStep::Restart,
        (Closing | Closed, Initialising | InitWait) => FrontStep::Restart,
        // States that no frontend of ours enters.
        (Unknown | InitWait | Reconfiguring | Reconfigured, _) => FrontStep::Restart,
        (Initialising, _) | (Closed, _) => FrontStep::Stay,
        (_, Closing | Closed) => FrontStep::Close,
        _ => FrontStep::Stay,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Runs both halves in every interleaving of one step each until nothing moves.
    fn settle(class: Class, mut front: State, mut back: State, front_first: bool) -> (State, State) {
        for turn in 0..32 {
            if (turn % 2 == 0) == front_first {
                front = front_step(front, back).next(class).unwrap_or(front);
            } else {
                back = back_step(back, front).next().unwrap_or(back);
            }
        }
        (front, back)
    }

    #[test]
    fn fresh_halves_connect_whoever_is_first() {
        for class in [Class::VIF, Class::VBD, Class::PCI] {
            for first in [true, false] {
                let end = settle(class, State::Initialising, State::Initialising, first);
                assert_eq!(end, (State::Connected, State::Connected));
            }
        }
    }

    #[test]
    fn a_restarted_half_is_met_again_from_any_state() {
        for class in [Class::VIF, Class::VBD] {
            for other in State::ALL {
                for first in [true, false] {
                    assert_eq!(
                        settle(class, State::Initialising, other, first),
                        (State::Connected, State::Connected),
                        "front starts over, back was {other:?}"
                    );
                    assert_eq!(
                        settle(class, other, State::Initialising, first),
                        (State::Connected, State::Connected),
                        "back starts over, front was {other:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_waiting_half_waits() {
        for (class, after_setup) in [(Class::VIF, State::Connected), (Class::VBD, State::Initialised)] {
            assert_eq!(front_step(State::Initialising, State::InitWait).next(class), Some(after_setup));
            assert_eq!(front_step(after_setup, State::InitWait), FrontStep::Stay);
        }
        assert_eq!(back_step(State::InitWait, State::Initialising), BackStep::Stay);
    }

    #[test]
    fn a_closing_peer_is_followed_to_the_end() {
        assert_eq!(back_step(State::Connected, State::Closing), BackStep::Close);
        assert_eq!(back_step(State::Closing, State::Closed), BackStep::Shut);
        assert_eq!(back_step(State::Connected, State::Unknown), BackStep::Shut);
        assert_eq!(front_step(State::Connected, State::Closing), FrontStep::Close);
        assert_eq!(front_step(State::Closed, State::Closed), FrontStep::Stay);
        assert_eq!(back_step(State::Closed, State::Initialising), BackStep::Offer);
    }

    #[test]
    fn values_are_bare_numbers() {
        assert_eq!(State::parse(Some("4")), State::Connected);
        for nonsense in ["", "-1", "+4", "9", "99999999999999999999", " 4", "4 ", "four"] {
            assert_eq!(State::parse(Some(nonsense)), State::Unknown, "{nonsense:?}");
        }
        assert!(State::ALL.iter().all(|s| State::parse(Some(&std::format!("{s}"))) == *s));
    }
}
