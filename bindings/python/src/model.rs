//! A model that is open: requests in JSON to answers in JSON, and token ids to tensors, without the interpreter's lock.

use crate::{error, not_found};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use thimble_device::answers::ResponderError;
use thimble_device::session::{SessionError, SessionOptions};
use thimble_device::{EngineError, Input, Request, Responder};

/// What is asked in Python: `thimble.Model` wraps it.
#[pyclass(frozen, module = "thimble._thimble", name = "Model")]
pub struct Model {
    responder: Mutex<Option<Arc<Responder>>>,
    description: String,
}

/// Numbers of a tensor as the bytes of native f32.
fn bytes<'py>(py: Python<'py>, numbers: &[f32]) -> PyResult<Bound<'py, PyByteArray>> {
    PyByteArray::new_with(py, size_of_val(numbers), |to| {
        for (to, number) in to.chunks_exact_mut(size_of::<f32>()).zip(numbers) {
            to.copy_from_slice(&number.to_ne_bytes());
        }
        Ok(())
    })
}

fn integers(bytes: &[u8]) -> Vec<i64> {
    let numbers = bytes.chunks_exact(size_of::<i64>());
    numbers
        .filter_map(|b| Some(i64::from_ne_bytes(b.try_into().ok()?)))
        .collect()
}

fn failed(py: Python<'_>, cause: ResponderError) -> PyErr {
    let class = match &cause {
        ResponderError::Request { .. } | ResponderError::Session(SessionError::Run(EngineError::Input(_))) => {
            "InputError"
        }
        other if not_found(other) => "NotFoundError",
        _ => "Error",
    };
    error(py, class, cause.to_string())
}

/// One output: name, shape and the bytes of its numbers.
type Output<'py> = (String, Vec<usize>, Bound<'py, PyByteArray>);

impl Model {
    fn responder(&self) -> PyResult<Arc<Responder>> {
        let open = self.responder.lock().unwrap_or_else(PoisonError::into_inner);
        open.clone().ok_or_else(|| PyValueError::new_err("the model is closed"))
    }
}

#[pymethods]
impl Model {
    /// Opens a file that `export` or `shrink` wrote. Paths are bytes, as the system has them.
    #[new]
    fn open(
        py: Python<'_>,
        path: Vec<u8>,
        threads: Option<usize>,
        copy: bool,
        tokenizer: Option<Vec<u8>>,
    ) -> PyResult<Model> {
        if let Some(threads @ (0 | 257..)) = threads {
            return Err(PyValueError::new_err(format!("threads is {threads}, must be 1 to 256")));
        }
        let options = SessionOptions {
            threads,
            copy,
            ..SessionOptions::default()
        };
        let path = PathBuf::from(OsString::from_vec(path));
        let tokenizer = tokenizer.map(|path| PathBuf::from(OsString::from_vec(path)));
        let opened = py.allow_threads(|| Responder::open(&path, &options, tokenizer.as_deref()));
        let responder = opened.map_err(|cause| failed(py, cause))?;
        Ok(Model {
            description: describe(&responder),
            responder: Mutex::new(Some(Arc::new(responder))),
        })
    }

    /// What the model is, as JSON.
    fn describe(&self) -> &str {
        &self.description
    }

    fn notes(&self) -> PyResult<Vec<String>> {
        Ok(self.responder()?.notes().to_vec())
    }

    /// The answers to requests in JSON, as JSON.
    fn answers(&self, py: Python<'_>, requests: Vec<String>) -> PyResult<Vec<String>> {
        let responder = self.responder()?;
        let replies = py.allow_threads(|| match requests.as_slice() {
            // Its error needs no number.
            [only] => responder.answer(Request::json(only)).map(|reply| vec![reply]),
            several => responder.answers(several.iter().map(|json| Request::json(json))),
        });
        let replies = replies.map_err(|cause| failed(py, cause))?;
        Ok(replies.iter().map(|reply| reply.json().to_string()).collect())
    }

    /// The embeddings of requests in JSON: their size, and the bytes of all numbers.
    fn embeddings<'py>(&self, py: Python<'py>, requests: Vec<String>) -> PyResult<(usize, Bound<'py, PyByteArray>)> {
        let responder = self.responder()?;
        let config = responder.session().engine.config();
        let Some(size) = config
            .sentence
            .as_ref()
            .map(|sentence| sentence.size(config.hidden_size))
        else {
            let problem = format!("the {} head gives no embeddings", config.head.name());
            return Err(error(py, "InputError", problem));
        };
        let replies = py.allow_threads(|| responder.answers(requests.iter().map(|json| Request::json(json))));
        let replies = replies.map_err(|cause| failed(py, cause))?;
        let numbers: Vec<f32> = replies
            .iter()
            .filter_map(|reply| reply.embedding())
            .flatten()
            .copied()
            .collect();
        Ok((size, bytes(py, &numbers)?))
    }

    /// The outputs of token ids, which are the bytes of native i64.
    fn run<'py>(
        &self,
        py: Python<'py>,
        shape: Vec<usize>,
        ids: &[u8],
        mask: Option<&[u8]>,
        types: Option<&[u8]>,
    ) -> PyResult<Vec<Output<'py>>> {
        let responder = self.responder()?;
        let input = Input {
            shape,
            input_ids: integers(ids),
            attention_mask: mask.map(integers),
            token_type_ids: types.map(integers),
        };
        let outputs = py.allow_threads(|| {
            let session = responder.session();
            let outputs = session.run(&input);
            // What was wrong may be that somebody wrote to the file: then that is the thing to say.
            session.unchanged()?;
            outputs
        });
        let outputs = outputs.map_err(|cause| failed(py, cause.into()))?;
        let outputs = outputs.0.into_iter();
        outputs
            .map(|(name, tensor)| Ok((name, tensor.shape, bytes(py, &tensor.data)?)))
            .collect()
    }

    /// Lets go of the file; calls that run on other threads end first.
    fn close(&self) {
        let open = self.responder.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(open);
    }

    #[getter]
    fn closed(&self) -> bool {
        self.responder.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a thimble model cannot be pickled: it maps a file and has threads; load the file in each process",
        ))
    }
}

/// Outputs, labels and limits, as JSON.
fn describe(responder: &Responder) -> String {
    let session = responder.session();
    let config = session.engine.config();
    let outputs: Vec<&str> = session.engine.outputs().iter().map(|output| output.name).collect();
    let json = serde_json::json!({
        "file": session.file.display().to_string(),
        "bytes": session.bytes,
        "head": config.head.name(),
        "labels": config.labels,
        "positions": config.max_position_embeddings,
        "vocabulary": config.vocab_size,
        "outputs": outputs,
        "text": responder.takes_text(),
        "threads": session.engine.threads(),
        "formats": session.model().formats,
    });
    json.to_string()
}
