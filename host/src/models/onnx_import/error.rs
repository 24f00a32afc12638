//! Why an ONNX file is not taken, in one line.

use crate::onnx::OnnxError;

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    #[error("{file}: this is no ALBERT: {problem}; it looks like {looks}")]
    NotAlbert {
        file: String,
        problem: String,
        looks: String,
    },
    #[error("{file}: not recognised as an ALBERT: {problem}; it looks like {looks}")]
    Unrecognised {
        file: String,
        problem: String,
        looks: String,
    },
    #[error(transparent)]
    Inside(Box<Inside>),
    #[error(
        "{file}: its weights are already quantised ({how}); import the file it was quantised from, and let thimble quantise, or read them as they are with --dequantize"
    )]
    Quantised { file: String, how: String },
    #[error("{file}: {problem}")]
    Unsupported { file: String, problem: String },
    #[error("{file}: tract-onnx, which must run the file for the proof, cannot: {problem}")]
    Runner { file: String, problem: String },
    #[error(
        "{file}: read as ALBERT, but the proof fails: the file and the model read out of it part at {place} (by {gap:.3e}, at most {limit:.1e} is rounding)"
    )]
    Parts {
        file: String,
        place: String,
        gap: f64,
        limit: f64,
    },
    #[error(
        "{file}: read as ALBERT, but the proof fails: {place} has the shape {theirs:?} in the file, and {ours:?} in the model read out of it"
    )]
    Shapes {
        file: String,
        place: String,
        theirs: Vec<usize>,
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
            | ImportError::Unrecognised { problem, .. }
            | ImportError::Runner { problem, .. } => problem,
            ImportError::Inside(inside) => &mut inside.problem,
            ImportError::Onnx(_)
            | ImportError::Quantised { .. }
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
    pub file: String,
    pub layers: usize,
    /// The values it stands between.
    pub from: String,
    pub to: String,
    pub problem: String,
    /// What works, where something does.
    pub advice: String,
}
