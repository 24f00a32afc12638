//! Why an ONNX file is not taken, in one line.

use crate::onnx::OnnxError;

/// Why an ONNX file is not imported. `file` is always its path, for people.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file, or one its tensors point to, cannot be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The graph has no attention at all, so it is of another network.
    #[error("{file}: this is no ALBERT: {problem}; it looks like {looks}")]
    NotAlbert {
        /// The ONNX file.
        file: String,
        /// The first place where the graph is not ALBERT's.
        problem: String,
        /// What the graph's operators suggest instead.
        looks: String,
    },
    /// The graph has attention, and its form is not one of ALBERT's that are known.
    #[error("{file}: not recognized as an ALBERT: {problem}; it looks like {looks}")]
    Unrecognized {
        /// The ONNX file.
        file: String,
        /// The first place that was not recognized.
        problem: String,
        /// What the graph's operators suggest.
        looks: String,
    },
    /// Only a part of the graph is ALBERT.
    #[error(transparent)]
    Inside(Box<Inside>),
    /// The weights are quantized already, and nobody asked to read them so.
    #[error(
        "{file}: its weights are already quantized ({how}); import the file it was quantized from, and let thimble quantize, or read them as they are with --dequantize"
    )]
    Quantized {
        /// The ONNX file.
        file: String,
        /// The nodes or types that show it.
        how: String,
    },
    /// The graph is ALBERT, and holds something that cannot be read or represented.
    #[error("{file}: {problem}")]
    Unsupported {
        /// The ONNX file.
        file: String,
        /// What it is, and what works instead.
        problem: String,
    },
    /// tract-onnx could not load or run the file, so nothing is proven.
    #[error("{file}: tract-onnx, which must run the file for the proof, cannot: {problem}")]
    Runner {
        /// The ONNX file.
        file: String,
        /// tract's error, on one line.
        problem: String,
    },
    /// The file and what was read out of it compute different numbers.
    #[error(
        "{file}: read as ALBERT, but the proof fails: the file and the model read out of it part at {place} (by {gap:.3e}, at most {limit:.1e} is rounding)"
    )]
    Parts {
        /// The ONNX file.
        file: String,
        /// The value where they part.
        place: String,
        /// Greatest difference found there.
        gap: f64,
        /// Greatest difference that rounding explains.
        limit: f64,
    },
    /// The file and what was read out of it give values of different shapes.
    #[error(
        "{file}: read as ALBERT, but the proof fails: {place} has the shape {theirs:?} in the file, and {ours:?} in the model read out of it"
    )]
    Shapes {
        /// The ONNX file.
        file: String,
        /// The value where they part.
        place: String,
        /// Its shape when tract-onnx runs the file.
        theirs: Vec<usize>,
        /// Its shape when the engine runs what was read.
        ours: Vec<usize>,
    },
}

impl ImportError {
    /// The same with a node that was left as it is, where that may be the reason.
    pub fn besides(self, left: Option<&str>) -> ImportError {
        let Some(left) = left else { return self };
        let mut this = self;
        let problem = match &mut this {
            ImportError::NotAlbert { problem, .. }
            | ImportError::Unrecognized { problem, .. }
            | ImportError::Runner { problem, .. } => problem,
            ImportError::Inside(inside) => &mut inside.problem,
            ImportError::Onnx(_)
            | ImportError::Quantized { .. }
            | ImportError::Unsupported { .. }
            | ImportError::Parts { .. }
            | ImportError::Shapes { .. } => return this,
        };
        problem.push_str(&format!("; {left}"));
        this
    }
}

/// An ALBERT is there, and something around it is none of its parts.
#[derive(Debug, thiserror::Error)]
#[error(
    "{file}: not read whole: an ALBERT of {layers} layers stands between '{from}' and '{to}', and {problem}{advice}"
)]
pub struct Inside {
    /// The ONNX file.
    pub file: String,
    /// Layers of the ALBERT that was found.
    pub layers: usize,
    /// The values it stands between.
    pub from: String,
    /// The last value that the ALBERT makes.
    pub to: String,
    /// What stands before or after it.
    pub problem: String,
    /// What works, where something does.
    pub advice: String,
}
