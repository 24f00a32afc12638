//! thimble as a Python package: the module `thimble._thimble`, which the Python files beside it wrap. A model is asked with requests
//! in JSON and answers in JSON; tensors go as bytes. Commands run on a thread of their own, so that Ctrl-C reaches Python.

#![warn(missing_docs)]

mod commands;
mod model;

use pyo3::prelude::*;

/// An exception of `thimble._errors`, by its name.
fn error(py: Python<'_>, class: &str, message: String) -> PyErr {
    let class = py.import("thimble._errors").and_then(|module| module.getattr(class));
    match class.and_then(|class| class.call1((message,))) {
        Ok(exception) => PyErr::from_value(exception),
        Err(e) => e,
    }
}

/// Whether a file that is not there is among the causes.
fn not_found(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::NotFound)
    })
}

#[pymodule]
fn _thimble(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<model::Model>()?;
    module.add_function(wrap_pyfunction!(commands::run_command, module)?)?;
    module.add_function(wrap_pyfunction!(commands::main, module)?)?;
    Ok(())
}
