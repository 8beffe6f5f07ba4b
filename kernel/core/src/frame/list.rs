//! Lists of frames, linked through the frame table.

use super::{Frame, FrameTable};

/// No frame.
const NIL: u32 = u32::MAX;

/// A list of frames. A frame is on one list at most, whose owner has a lock for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(crate) const EMPTY: Self = Self { head: NIL, tail: NIL };

    /// Adds a frame at the end.
    pub(crate) fn push(&mut self, table: &FrameTable, frame: Frame) {
        table.info(frame).set_prev(self.tail);
        table.info(frame).set_next(NIL);
        match table.known(self.tail.into()) {
            Some(last) => table.info(last).set_next(frame.0),
            None => self.head = frame.0,
        }
        self.tail = frame.0;
    }

    /// Takes a frame of this list out.
    pub(crate) fn unlink(&mut self, table: &FrameTable, frame: Frame) {
        let (prev, next) = table.info(frame).links();
        match table.known(prev.into()) {
            Some(prev) => table.info(prev).set_next(next),
            None => self.head = next,
        }
        match table.known(next.into()) {
            Some(next) => table.info(next).set_prev(prev),
            None => self.tail = prev,
        }
    }

    /// The first frame.
    pub(crate) fn first(&self, table: &FrameTable) -> Option<Frame> {
        table.known(self.head.into())
    }

    /// Is this its first frame, or its last?
    pub(crate) fn has_end(&self, frame: Frame) -> bool {
        self.head == frame.0 || self.tail == frame.0
    }

    /// Takes the first frame.
    pub(crate) fn pop(&mut self, table: &FrameTable) -> Option<Frame> {
        self.first(table).inspect(|&first| self.unlink(table, first))
    }

    /// Every frame, from the first on.
    pub(crate) fn iter<'a>(&self, table: &'a FrameTable) -> impl Iterator<Item = Frame> + use<'a> {
        core::iter::successors(self.first(table), move |&frame| table.known(table.info(frame).links().1.into()))
    }
}
