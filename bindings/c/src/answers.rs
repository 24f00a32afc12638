//! Texts, token ids or JSON to answers.

use crate::model::thimble_model;
use crate::status::{Failure, c_string, call, free, hand_out, handle, nothing, text, values};
use std::ffi::{CString, c_char, c_int};
use thimble_device::{Reply, Request};

/// One answer for each that was asked.
#[allow(non_camel_case_types)]
pub struct thimble_answers(Vec<Answered>);

struct Answered {
    json: CString,
    label: Option<CString>,
    reply: Reply,
}

impl From<Reply> for Answered {
    fn from(reply: Reply) -> Answered {
        Answered {
            json: c_string(reply.json()),
            label: reply.label().map(c_string),
            reply,
        }
    }
}

/// Asks the model what `requests` reads of the caller's arguments.
///
/// # Safety
///
/// `model` is NULL or open, `answers` is NULL or may be written to.
unsafe fn ask(
    model: *const thimble_model,
    answers: *mut *mut thimble_answers,
    requests: impl FnOnce(usize) -> Result<Vec<Request>, Failure>,
    several: bool,
) -> c_int {
    call(|| {
        // SAFETY: the caller says so.
        let responder = &unsafe { handle(model, "model") }?.responder;
        if answers.is_null() {
            return Err(Failure::argument("answers is NULL"));
        }
        let mut requests = requests(responder.session().engine.config().max_position_embeddings)?;
        let replies = match requests.pop() {
            Some(only) if !several => vec![responder.answer(only)?],
            Some(last) => responder.answers(requests.into_iter().chain([last]))?,
            None => vec![],
        };
        let all = replies.into_iter().map(Answered::from).collect();
        // SAFETY: the caller says so.
        unsafe { hand_out(thimble_answers(all), answers, "answers") }
    })
}

fn request(text: &str, pair: Option<&str>) -> Request {
    let request = Request::text(text);
    match pair {
        Some(pair) => request.with_pair(pair),
        None => request,
    }
}

/// # Safety
///
/// `pair` is NULL or ends with a zero byte.
unsafe fn optional<'a>(pair: *const c_char, name: &str) -> Result<Option<&'a str>, Failure> {
    match pair.is_null() {
        true => Ok(None),
        // SAFETY: the caller says so.
        false => unsafe { text(pair, name) }.map(Some),
    }
}

/// Answers a text.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_answer_text(
    model: *const thimble_model,
    text: *const c_char,
    pair: *const c_char,
    answers: *mut *mut thimble_answers,
) -> c_int {
    // SAFETY: the caller gave texts.
    let read = |_| unsafe {
        Ok(vec![request(
            crate::status::text(text, "text")?,
            optional(pair, "pair")?,
        )])
    };
    // SAFETY: the caller gave NULL or an open model, and a place for the answers.
    unsafe { ask(model, answers, read, false) }
}

/// Answers several texts.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_answer_texts(
    model: *const thimble_model,
    texts: *const *const c_char,
    pairs: *const *const c_char,
    count: usize,
    answers: *mut *mut thimble_answers,
) -> c_int {
    let read = |_| {
        // SAFETY: the caller gave so many texts.
        let texts = unsafe { values(texts, count, "texts") }?;
        let pairs = match pairs.is_null() {
            true => vec![std::ptr::null(); count],
            // SAFETY: the caller gave so many pairs.
            false => unsafe { values(pairs, count, "pairs") }?,
        };
        let each = texts.into_iter().zip(pairs).enumerate();
        each.map(|(i, (first, second))| {
            // SAFETY: the caller gave texts.
            let first = unsafe { text(first, &format!("texts[{i}]")) }?;
            // SAFETY: as above, or NULL.
            let second = unsafe { optional(second, &format!("pairs[{i}]")) }?;
            Ok(request(first, second))
        })
        .collect()
    };
    // SAFETY: the caller gave NULL or an open model, and a place for the answers.
    unsafe { ask(model, answers, read, true) }
}

/// Answers token ids.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_answer_ids(
    model: *const thimble_model,
    ids: *const i64,
    types: *const i64,
    count: usize,
    answers: *mut *mut thimble_answers,
) -> c_int {
    let read = |most| {
        // Before anything is read: a count that no model takes may be one that the arrays do not have.
        if count > most {
            return Err(Failure::input(format!(
                "count is {count}, the model's positions end at {most}"
            )));
        }
        // SAFETY: the caller gave so many ids.
        let request = Request::ids(unsafe { values(ids, count, "ids") }?);
        Ok(vec![match types.is_null() {
            true => request,
            // SAFETY: the caller gave so many types.
            false => request.with_types(unsafe { values(types, count, "types") }?),
        }])
    };
    // SAFETY: the caller gave NULL or an open model, and a place for the answers.
    unsafe { ask(model, answers, read, false) }
}

/// Answers a request in JSON.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_answer_json(
    model: *const thimble_model,
    request: *const c_char,
    answers: *mut *mut thimble_answers,
) -> c_int {
    // SAFETY: the caller gave text.
    let read = |_| unsafe { Ok(vec![Request::json(text(request, "request")?)]) };
    // SAFETY: the caller gave NULL or an open model, and a place for the answers.
    unsafe { ask(model, answers, read, false) }
}

/// How many answers there are.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_answers_count(answers: *const thimble_answers) -> usize {
    // SAFETY: the caller gave NULL or answers.
    match unsafe { answers.as_ref() } {
        Some(answers) => answers.0.len(),
        None => nothing("answers is NULL", 0),
    }
}

/// The answer of a number, or `none`.
///
/// # Safety
///
/// `answers` is NULL or came from this library and was not freed.
unsafe fn of<T>(
    answers: *const thimble_answers,
    index: usize,
    none: T,
    give: impl FnOnce(&Answered) -> Option<T>,
) -> T {
    // SAFETY: the caller says so.
    let Some(answers) = (unsafe { answers.as_ref() }) else {
        return nothing("answers is NULL", none);
    };
    match answers.0.get(index) {
        Some(answered) => give(answered).unwrap_or(none),
        None => nothing(
            &format!("index is {index}, there are {} answers", answers.0.len()),
            none,
        ),
    }
}

/// An answer as JSON.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_answers_json(answers: *const thimble_answers, index: usize) -> *const c_char {
    // SAFETY: the caller gave NULL or answers.
    unsafe { of(answers, index, std::ptr::null(), |a| Some(a.json.as_ptr())) }
}

/// An answer in a word.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_answers_label(answers: *const thimble_answers, index: usize) -> *const c_char {
    // SAFETY: the caller gave NULL or answers.
    unsafe { of(answers, index, std::ptr::null(), |a| Some(a.label.as_ref()?.as_ptr())) }
}

/// The number of a label, a token or a choice.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_answers_choice(answers: *const thimble_answers, index: usize) -> i64 {
    // SAFETY: the caller gave NULL or answers.
    unsafe { of(answers, index, -1, |a| i64::try_from(a.reply.index()?).ok()) }
}

/// The score of an answer.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_answers_score(answers: *const thimble_answers, index: usize) -> f64 {
    // SAFETY: the caller gave NULL or answers.
    unsafe { of(answers, index, f64::NAN, |a| a.reply.score()) }
}

/// An embedding.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_answers_embedding(
    answers: *const thimble_answers,
    index: usize,
    count: *mut usize,
) -> *const f32 {
    // SAFETY: the caller gave NULL or answers.
    let (data, length) = unsafe {
        of(answers, index, (std::ptr::null(), 0), |a| {
            let embedding = a.reply.embedding()?;
            Some((embedding.as_ptr(), embedding.len()))
        })
    };
    // SAFETY: the caller gave NULL or a place for the length.
    if let Some(count) = unsafe { count.as_mut() } {
        *count = length;
    }
    data
}

/// Frees answers.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_answers_free(answers: *mut thimble_answers) {
    // SAFETY: the caller gave NULL or answers that nobody uses any more.
    unsafe { free(answers) }
}
