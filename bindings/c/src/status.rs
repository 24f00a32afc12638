//! How a call ends: a code for the caller, and the words of the last failure for its thread.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use thimble_device::answers::ResponderError;
use thimble_device::session::SessionError;

pub const SUCCESS: c_int = 0;
pub const ARGUMENT: c_int = 1;
pub const MODEL: c_int = 2;
pub const INPUT: c_int = 3;
pub const ENGINE: c_int = 4;
pub const DEFECT: c_int = 5;

/// Why a call fails.
pub struct Failure {
    code: c_int,
    words: String,
}

impl Failure {
    pub fn argument(words: impl Into<String>) -> Failure {
        Failure {
            code: ARGUMENT,
            words: words.into(),
        }
    }

    pub fn input(words: impl Into<String>) -> Failure {
        Failure {
            code: INPUT,
            words: words.into(),
        }
    }

    fn because(code: c_int, cause: &dyn std::error::Error) -> Failure {
        Failure {
            code,
            words: cause.to_string(),
        }
    }
}

impl From<ResponderError> for Failure {
    fn from(error: ResponderError) -> Failure {
        let code = match &error {
            ResponderError::Session(error) => return Failure::of_session(error),
            ResponderError::Request { .. } => INPUT,
            ResponderError::Engine(_) => ENGINE,
            // The tokenizer, and what a later version adds.
            _ => MODEL,
        };
        Failure::because(code, &error)
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Failure {
        Failure::of_session(&error)
    }
}

impl Failure {
    fn of_session(error: &SessionError) -> Failure {
        use thimble_device::EngineError;
        let code = match error {
            SessionError::Run(EngineError::Input(_)) => INPUT,
            SessionError::Run(_) => ENGINE,
            _ => MODEL,
        };
        Failure::because(code, error)
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Text for C: what lies behind a zero byte would be lost, so there is none.
pub fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

fn remember(words: &str) {
    // Lines are what callers print.
    LAST.set(c_string(&words.replace(['\n', '\r'], " ")));
}

/// Runs a call: its failure and its panic become a code and words.
pub fn call(work: impl FnOnce() -> Result<(), Failure>) -> c_int {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(failure)) => {
            remember(&failure.words);
            failure.code
        }
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
            remember(&format!("a defect of thimble: {words}"));
            DEFECT
        }
    }
}

/// A getter that has nothing to give.
pub fn nothing<T>(words: &str, none: T) -> T {
    remember(words);
    none
}

/// # Safety
///
/// `handle` is NULL or came from this library and was not freed.
pub unsafe fn handle<'a, T>(handle: *const T, name: &str) -> Result<&'a T, Failure> {
    // SAFETY: the caller says so.
    unsafe { handle.as_ref() }.ok_or_else(|| Failure::argument(format!("{name} is NULL")))
}

/// # Safety
///
/// `text` is NULL or ends with a zero byte.
pub unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::argument(format!("{name} is NULL")));
    }
    // SAFETY: the caller says so.
    let bytes = unsafe { CStr::from_ptr(text) };
    bytes.to_str().map_err(|e| {
        let at = e.valid_up_to() + 1;
        Failure::argument(format!("{name} is not UTF-8 at byte {at}"))
    })
}

/// # Safety
///
/// `values` is NULL or has `count` values.
pub unsafe fn values<T: Copy>(values: *const T, count: usize, name: &str) -> Result<Vec<T>, Failure> {
    if values.is_null() {
        return Err(Failure::argument(format!("{name} is NULL")));
    }
    if count > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Failure::argument(format!("{name} cannot have {count} values")));
    }
    // SAFETY: the caller says so, and the length is one that a slice may have.
    Ok(unsafe { std::slice::from_raw_parts(values, count) }.to_vec())
}

/// Stores a handle where the caller wants it.
///
/// # Safety
///
/// `to` is NULL or may be written to.
pub unsafe fn hand_out<T>(value: T, to: *mut *mut T, name: &str) -> Result<(), Failure> {
    if to.is_null() {
        return Err(Failure::argument(format!("{name} is NULL")));
    }
    // SAFETY: the caller says so.
    unsafe { to.write(Box::into_raw(Box::new(value))) };
    Ok(())
}

/// Frees a handle; dropping it may not panic past here either.
///
/// # Safety
///
/// `handle` is NULL or came from [`hand_out`], and nobody uses it any more.
pub unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        call(|| {
            // SAFETY: the caller says so.
            drop(unsafe { Box::from_raw(handle) });
            Ok(())
        });
    }
}

/// The version of the library.
#[unsafe(no_mangle)]
pub extern "C" fn thimble_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// The words of the last failure on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn thimble_last_error() -> *const c_char {
    LAST.with_borrow(|words| words.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        // SAFETY: the library's own text.
        unsafe { CStr::from_ptr(thimble_last_error()) }
            .to_str()
            .unwrap()
            .to_string()
    }

    #[test]
    fn a_panic_is_a_code_with_words() {
        assert_eq!(call(|| panic!("row {}\nlost", 3)), DEFECT);
        assert_eq!(last(), "a defect of thimble: row 3 lost");
        assert_eq!(call(|| Err(Failure::argument("a\0b"))), ARGUMENT);
        assert_eq!(last(), "a\u{fffd}b");
        assert_eq!(std::thread::spawn(last).join().unwrap(), "");
    }
}
