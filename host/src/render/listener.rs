//! Who hears of a command's work in place of stderr: a program that runs commands inside itself. It is told warnings, notes and
//! how far the work is, and may ask for an end, which long work looks for between two inputs.

use std::cell::RefCell;
use std::sync::Arc;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Something that the answer does not show and that may surprise.
    Warning,
    /// What was found, and what was done about it.
    Note,
}

/// Hears of the work of one command. Every thread of that work may tell it something.
pub trait Listener: Send + Sync {
    /// A warning or a note, in one line.
    fn told(&self, what: Telling, text: &str);
    /// `done` of `steps` steps of a stage are done.
    fn stage(&self, name: &str, done: usize, steps: usize);
    /// Whether the work should end.
    fn stopped(&self) -> bool;
}

thread_local! {
    static LISTENER: RefCell<Option<Arc<dyn Listener>>> = const { RefCell::new(None) };
}

/// Takes the listener away again, also when the work panics.
struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        LISTENER.take();
    }
}

/// Runs `work`, which begins on this thread, with a listener.
pub fn with_listener<T>(listener: Arc<dyn Listener>, work: impl FnOnce() -> T) -> T {
    LISTENER.set(Some(listener));
    let _ending = Ending;
    work()
}

/// The listener of the work that this thread began.
pub fn listener() -> Option<Arc<dyn Listener>> {
    LISTENER.with_borrow(Clone::clone)
}

/// Whether the work that this thread began should end.
pub fn stopped() -> bool {
    listener().is_some_and(|listener| listener.stopped())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::progress::{Bar, Watch};
    use crate::render::text::{remark, say};
    use std::sync::Mutex;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Listener for Heard {
        fn told(&self, what: Telling, text: &str) {
            self.0.lock().unwrap().push(format!("{what:?} {text}"));
        }
        fn stage(&self, name: &str, done: usize, steps: usize) {
            self.0.lock().unwrap().push(format!("{name} {done}/{steps}"));
        }
        fn stopped(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_listener_hears_what_stderr_would_have_had() {
        let heard = Arc::new(Heard::default());
        with_listener(heard.clone(), || {
            say("warning: a");
            remark("note: b");
            let mut bar = Bar::default();
            bar.stage("one", 2);
            bar.step("x");
            bar.step("y");
            bar.stage("two", 1);
            drop(bar);
            assert!(stopped());
        });
        assert!(!stopped() && listener().is_none());
        let all = heard.0.lock().unwrap().join(", ");
        assert_eq!(
            all,
            "Warning warning: a, Note note: b, one 0/2, one 0/2, one 1/2, one 2/2, two 0/1, two 1/1"
        );
    }
}
