//! Running token ids, and the tensors that come of it.

use crate::model::thimble_model;
use crate::status::{Failure, c_string, call, free, hand_out, handle, nothing, text, values};
use std::ffi::{CString, c_char, c_int};
use thimble_device::Input;

/// Dimensions that a tensor has room for.
const RANK: usize = 4;

/// Token ids of one run.
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct thimble_input {
    ids: *const i64,
    mask: *const i64,
    types: *const i64,
    batch: usize,
    choices: usize,
    seq: usize,
}

/// One output.
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct thimble_tensor {
    name: *const c_char,
    data: *const f32,
    count: usize,
    rank: usize,
    shape: [usize; RANK],
}

/// The outputs of one run.
#[allow(non_camel_case_types)]
pub struct thimble_outputs(Vec<Named>);

struct Named {
    name: CString,
    shape: [usize; RANK],
    rank: usize,
    data: Vec<f32>,
}

impl Named {
    fn tensor(&self) -> thimble_tensor {
        thimble_tensor {
            name: self.name.as_ptr(),
            data: self.data.as_ptr(),
            count: self.data.len(),
            rank: self.rank,
            shape: self.shape,
        }
    }
}

/// # Safety
///
/// The arrays of `input` are NULL or have as many values as its shape says.
unsafe fn read(input: &thimble_input, most: usize) -> Result<Input, Failure> {
    let shape = match input.choices {
        0 => vec![input.batch, input.seq],
        choices => vec![input.batch, choices, input.seq],
    };
    // Before anything is read: a shape that no model takes may be one that the arrays do not have.
    if shape.contains(&0) {
        return Err(Failure::input(format!(
            "input has shape {shape:?}; every dimension is at least 1"
        )));
    }
    if input.seq > most {
        return Err(Failure::input(format!(
            "input.seq is {}, the model's positions end at {most}",
            input.seq
        )));
    }
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let count = count.ok_or_else(|| Failure::input(format!("input has shape {shape:?}, more than memory counts")))?;
    let optional = |from: *const i64, name| match from.is_null() {
        true => Ok(None),
        // SAFETY: the caller says so.
        false => unsafe { values(from, count, name) }.map(Some),
    };
    Ok(Input {
        // SAFETY: the caller says so.
        input_ids: unsafe { values(input.ids, count, "input.ids") }?,
        attention_mask: optional(input.mask, "input.mask")?,
        token_type_ids: optional(input.types, "input.types")?,
        shape,
    })
}

/// Runs token ids.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_run(
    model: *const thimble_model,
    input: *const thimble_input,
    outputs: *mut *mut thimble_outputs,
) -> c_int {
    call(|| {
        // SAFETY: the caller gave NULL or an open model.
        let session = unsafe { handle(model, "model") }?.responder.session();
        // SAFETY: the caller gave NULL or an input.
        let input = unsafe { handle(input, "input") }?;
        if outputs.is_null() {
            return Err(Failure::argument("outputs is NULL"));
        }
        // SAFETY: the caller gave arrays of the shape.
        let input = unsafe { read(input, session.engine.config().max_position_embeddings) }?;
        let made = session.run(&input);
        session.unchanged()?;
        let mut all = Vec::new();
        for (name, tensor) in made?.0 {
            let mut shape = [0; RANK];
            let rank = tensor.shape.len();
            let Some(used) = shape.get_mut(..rank) else {
                return Err(Failure::input(format!(
                    "output {name} has {rank} dimensions, thimble_tensor {RANK}"
                )));
            };
            used.copy_from_slice(&tensor.shape);
            all.push(Named {
                name: c_string(&name),
                shape,
                rank,
                data: tensor.data,
            });
        }
        // SAFETY: the caller gave a place for them.
        unsafe { hand_out(thimble_outputs(all), outputs, "outputs") }
    })
}

/// How many outputs there are.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_outputs_count(outputs: *const thimble_outputs) -> usize {
    // SAFETY: the caller gave NULL or outputs.
    match unsafe { outputs.as_ref() } {
        Some(outputs) => outputs.0.len(),
        None => nothing("outputs is NULL", 0),
    }
}

/// # Safety
///
/// `tensor` is NULL or may be written to.
unsafe fn fill(named: &Named, tensor: *mut thimble_tensor) -> Result<(), Failure> {
    if tensor.is_null() {
        return Err(Failure::argument("tensor is NULL"));
    }
    // SAFETY: the caller says so.
    unsafe { tensor.write(named.tensor()) };
    Ok(())
}

/// The output of a number.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_outputs_at(
    outputs: *const thimble_outputs,
    index: usize,
    tensor: *mut thimble_tensor,
) -> c_int {
    call(|| {
        // SAFETY: the caller gave NULL or outputs.
        let outputs = unsafe { handle(outputs, "outputs") }?;
        let named = outputs.0.get(index).ok_or_else(|| {
            let count = outputs.0.len();
            Failure::argument(format!("index is {index}, there are {count} outputs"))
        })?;
        // SAFETY: the caller gave a place for it.
        unsafe { fill(named, tensor) }
    })
}

/// The output of a name.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_outputs_named(
    outputs: *const thimble_outputs,
    name: *const c_char,
    tensor: *mut thimble_tensor,
) -> c_int {
    call(|| {
        // SAFETY: the caller gave NULL or outputs.
        let outputs = unsafe { handle(outputs, "outputs") }?;
        // SAFETY: the caller gave text.
        let name = unsafe { text(name, "name") }?;
        let named = outputs.0.iter().find(|named| named.name.to_str() == Ok(name));
        let named = named.ok_or_else(|| {
            let names: Vec<_> = outputs.0.iter().map(|named| named.name.to_string_lossy()).collect();
            Failure::argument(format!("no output is named {name:?}; there is {}", names.join(", ")))
        })?;
        // SAFETY: the caller gave a place for it.
        unsafe { fill(named, tensor) }
    })
}

/// Frees outputs.
///
/// # Safety
///
/// As include/thimble.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thimble_outputs_free(outputs: *mut thimble_outputs) {
    // SAFETY: the caller gave NULL or outputs that nobody uses any more.
    unsafe { free(outputs) }
}
