//! Opening and closing a model, and what it says of itself.

use crate::status::{Failure, c_string, call, free, hand_out, handle, nothing, text};
use serde_json::json;
use std::ffi::{CString, c_char, c_int};
use std::path::Path;
use thimble_device::Responder;
use thimble_device::session::SessionOptions;

/// Most threads, as of the device's program.
const THREADS: c_int = 256;

/// A model that is open.
#[allow(non_camel_case_types)]
pub struct thimble_model {
    pub responder: Responder,
    labels: Vec<CString>,
    description: CString,
}

/// How a model is opened.
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct thimble_options {
    size: usize,
    threads: c_int,
    copy: c_int,
    tokenizer: *const c_char,
}

impl thimble_model {
    fn open(path: &str, options: Option<&thimble_options>) -> Result<thimble_model, Failure> {
        let mut session = SessionOptions::default();
        let mut tokenizer = None;
        if let Some(options) = options {
            session.threads = match options.threads {
                0 => None,
                n @ 1..=THREADS => Some(n as usize),
                n => {
                    return Err(Failure::argument(format!(
                        "options.threads is {n}, must be 0 to {THREADS}"
                    )));
                }
            };
            session.copy = match options.copy {
                0 => false,
                1 => true,
                other => return Err(Failure::argument(format!("options.copy is {other}, must be 0 or 1"))),
            };
            if !options.tokenizer.is_null() {
                // SAFETY: the caller of `thimble_model_open` gave text.
                tokenizer = Some(unsafe { text(options.tokenizer, "options.tokenizer") }?);
            }
        }
        let responder = Responder::open(Path::new(path), &session, tokenizer.map(Path::new))?;
        let config = responder.session().engine.config();
        Ok(thimble_model {
            labels: config.labels.iter().map(|label| c_string(label)).collect(),
            description: c_string(&describe(&responder)),
            responder,
        })
    }
}

fn describe(responder: &Responder) -> String {
    let session = responder.session();
    let config = session.engine.config();
    let outputs = session.engine.outputs().iter();
    let outputs = outputs.map(|output| json!({"name": output.name, "per_token": output.extent.per_token()}));
    let json = json!({
        "file": session.file.display().to_string(),
        "bytes": session.bytes,
        "head": config.head.name(),
        "labels": config.labels,
        "positions": config.max_position_embeddings,
        "vocabulary": config.vocab_size,
        "types": config.type_vocab_size,
        "outputs": outputs.collect::<Vec<_>>(),
        "text": responder.takes_text(),
        "threads": session.engine.threads(),
        "formats": session.model().formats,
        "notes": responder.notes(),
    });
    json.to_string()
}

/// Opens a model.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_model_open(
    path: *const c_char,
    options: *const thimble_options,
    model: *mut *mut thimble_model,
) -> c_int {
    call(|| {
        if model.is_null() {
            return Err(Failure::argument("model is NULL"));
        }
        // SAFETY: the caller gave text.
        let path = unsafe { text(path, "path") }?;
        // SAFETY: the caller gave NULL or options, whose first field there is in every version.
        let options = match unsafe { options.cast::<usize>().as_ref() } {
            None => None,
            Some(size) if *size == size_of::<thimble_options>() => {
                // SAFETY: they are options of this version.
                unsafe { options.as_ref() }
            }
            Some(size) => {
                return Err(Failure::argument(format!(
                    "options.size is {size}, this library's is {}; begin with THIMBLE_OPTIONS_INIT of its own header",
                    size_of::<thimble_options>()
                )));
            }
        };
        let opened = thimble_model::open(path, options)?;
        // SAFETY: the caller gave a place for it.
        unsafe { hand_out(opened, model, "model") }
    })
}

/// Closes a model.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_model_close(model: *mut thimble_model) {
    // SAFETY: the caller gave NULL or a handle that nobody uses any more.
    unsafe { free(model) }
}

/// What the model is, as JSON.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_model_describe(model: *const thimble_model) -> *const c_char {
    // SAFETY: the caller gave NULL or an open model.
    match unsafe { model.as_ref() } {
        Some(model) => model.description.as_ptr(),
        None => nothing("model is NULL", std::ptr::null()),
    }
}

/// Whether the model takes texts.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_model_takes_text(model: *const thimble_model) -> c_int {
    // SAFETY: the caller gave NULL or an open model.
    match unsafe { handle(model, "model") } {
        Ok(model) => c_int::from(model.responder.takes_text()),
        Err(_) => nothing("model is NULL", 0),
    }
}

/// Most tokens of a sequence.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_model_positions(model: *const thimble_model) -> usize {
    // SAFETY: the caller gave NULL or an open model.
    match unsafe { model.as_ref() } {
        Some(model) => model.responder.session().engine.config().max_position_embeddings,
        None => nothing("model is NULL", 0),
    }
}

/// Rows of the vocabulary.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_model_vocabulary(model: *const thimble_model) -> usize {
    // SAFETY: the caller gave NULL or an open model.
    match unsafe { model.as_ref() } {
        Some(model) => model.responder.session().engine.config().vocab_size,
        None => nothing("model is NULL", 0),
    }
}

/// Labels of a classifier.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_model_label_count(model: *const thimble_model) -> usize {
    // SAFETY: the caller gave NULL or an open model.
    match unsafe { model.as_ref() } {
        Some(model) => model.labels.len(),
        None => nothing("model is NULL", 0),
    }
}

/// The label of a number.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_model_label(model: *const thimble_model, index: usize) -> *const c_char {
    // SAFETY: the caller gave NULL or an open model.
    match unsafe { model.as_ref() } {
        Some(model) => match model.labels.get(index) {
            Some(label) => label.as_ptr(),
            None => nothing(
                &format!("index is {index}, the model has {} labels", model.labels.len()),
                std::ptr::null(),
            ),
        },
        None => nothing("model is NULL", std::ptr::null()),
    }
}
