//! That something has happened, for tasks that report of it now and then: who does the work says so at no cost.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

/// A count of what has happened, and who waits for more. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Activity(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl Activity {
    /// Something has happened.
    pub fn note(&self) {
        self.0.count.set(self.0.count.get().wrapping_add(1));
        self.0.waiters.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// What has happened so far, for [`since`](Self::since).
    pub fn count(&self) -> u64 {
        self.0.count.get()
    }

    /// Waits until something has happened since there was `count`.
    pub async fn since(&self, count: u64) {
        poll_fn(|context| {
            if self.count() != count {
                return Poll::Ready(());
            }
            let mut waiters = self.0.waiters.borrow_mut();
            if !waiters.iter().any(|waiter| waiter.will_wake(context.waker())) {
                waiters.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::Activity;
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use core::pin::pin;
    use core::task::{Context, Poll, Waker};

    struct Nobody;

    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn news_is_seen_once_by_each_who_waits() {
        let activity = Activity::default();
        let waker = Waker::from(Arc::new(Nobody));
        let mut context = Context::from_waker(&waker);
        activity.note();
        let seen = activity.count();
        let (mut a, mut b) = (pin!(activity.since(seen)), pin!(activity.since(seen)));
        for _ in 0..3 {
            assert_eq!(a.as_mut().poll(&mut context), Poll::Pending);
            assert_eq!(b.as_mut().poll(&mut context), Poll::Pending);
        }
        assert_eq!(activity.0.waiters.borrow().len(), 1, "one task waits, however often it looks");
        activity.note();
        assert_eq!(a.as_mut().poll(&mut context), Poll::Ready(()));
        assert_eq!(b.as_mut().poll(&mut context), Poll::Ready(()));
    }
}
