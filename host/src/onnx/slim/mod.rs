//! Makes an ONNX file smaller without touching what it computes: equal tensors are kept once, Identity nodes folded, what no
//! output needs cut, doc strings and stack traces left out, numbers stored raw. In comes any ONNX file, out come the pieces
//! of the new one, borrowed from the old one's map where they are large; the exact size is known before anything is written.

mod chunks;
mod plan;
mod rewrite;

use crate::onnx::flow::Flow;
use crate::onnx::{OnnxError, OnnxFile};
pub use chunks::Chunks;
pub use plan::SlimPlan;
use rewrite::Rewriter;
use std::borrow::Cow;
use thimble_shared::onnx::reader::ModelView;

/// What `slim` may leave out and change beside what no output needs.
#[derive(Clone, Debug, Default)]
pub struct SlimOptions {
    /// Keep only these values: the graph's outputs, or inner ones, which become outputs.
    pub outputs: Vec<String>,
    /// Give inner values short names and nodes none.
    pub short_names: bool,
    /// Leave the model's own `metadata_props` out too: programs may read them.
    pub strip_metadata: bool,
    /// Leave declared shapes of inner values out: a runtime infers most of them, and where it cannot it fuses less and rounds
    /// differently.
    pub strip_shapes: bool,
    /// Put external data into the file.
    pub one_file: bool,
}

impl SlimOptions {
    /// Whether something was asked to go, whatever that does to the size.
    pub fn leaves_out(&self) -> bool {
        !self.outputs.is_empty() || self.strip_metadata || self.strip_shapes
    }
}

/// Why a file cannot be made smaller.
#[derive(Debug, thiserror::Error)]
pub enum SlimError {
    /// The file, or one its tensors point to, cannot be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// A value to keep is not in the graph.
    #[error("{file}: has no output or inner value '{name}'; {has}")]
    NoOutput {
        /// The ONNX file.
        file: String,
        /// The value asked for.
        name: String,
        /// What the graph has instead.
        has: String,
    },
    /// An inner value to keep has no declared type or rank, which an output needs.
    #[error(
        "{file}: nothing in it tells the type or the number of dimensions of '{name}', which an output must declare; run onnx.shape_inference on the file first, or name another value"
    )]
    Undeclared {
        /// The ONNX file.
        file: String,
        /// The value asked for.
        name: String,
    },
    /// External data was asked into one file, and protobuf cannot hold so much.
    #[error(
        "{file}: in one file it would take {bytes} bytes, and an ONNX file holds at most 2 GiB; leave --one-file out"
    )]
    TooLarge {
        /// The ONNX file.
        file: String,
        /// Bytes the one file would take.
        bytes: u64,
    },
}

/// What was taken out, in numbers a person asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SlimReport {
    /// Tensors equal to another one, dropped.
    pub duplicates: usize,
    /// Tensors equal to another one's transpose, now made by a Transpose node.
    pub transposed: usize,
    /// Identity nodes folded.
    pub identities: usize,
    /// Nodes that no kept output needs; Constant nodes that became duplicates are not counted.
    pub dead_nodes: usize,
    /// Initializers that no kept output needs.
    pub dead_tensors: usize,
    /// Numbers moved from typed fields to raw bytes.
    pub made_raw: usize,
}

/// The new file, not yet written.
pub struct Slimmed<'a> {
    /// The new ONNX file.
    pub model: Chunks<'a>,
    /// External data, if the input had it and it was not asked into one file.
    pub data: Option<Chunks<'a>>,
    /// What was taken out.
    pub done: SlimReport,
    layout: Layout,
}

impl Slimmed<'_> {
    /// Size of the new files together.
    pub fn bytes(&self) -> u64 {
        self.model.len + self.data.as_ref().map_or(0, |d| d.len)
    }
}

/// Bytes of a model, the external files it uses included.
pub fn model_bytes(file: &OnnxFile) -> u64 {
    let external: u64 = file
        .externals()
        .filter_map(|(_, bytes)| bytes.ok())
        .map(|b| b.len() as u64)
        .sum();
    file.bytes().len() as u64 + external
}

/// `data_name` is what the file will call its external data.
///
/// # Errors
/// Any [`SlimError`].
pub fn slim<'a>(file: &'a OnnxFile, options: &SlimOptions, data_name: &str) -> Result<Slimmed<'a>, SlimError> {
    Ok(slim_over(file, options, data_name, |_| None)?.0)
}

/// The same where the data may have to have a second name for a moment, which `passing` makes of it: with the model that
/// calls it so.
pub fn slim_over<'a>(
    file: &'a OnnxFile,
    options: &SlimOptions,
    data_name: &str,
    passing: impl FnOnce(&Chunks<'a>) -> Option<String>,
) -> Result<(Slimmed<'a>, Option<Chunks<'a>>), SlimError> {
    let view = file.view()?;
    let flow = Flow::of(&view).map_err(|e| file.wire_error(e))?;
    let plan = SlimPlan::new(file, &view, &flow, &options.outputs)?;
    let slimmed = write(file, &view, &plan, options, data_name)?;
    let again = match slimmed.data.as_ref().and_then(passing) {
        None => None,
        Some(name) => Some(
            Rewriter::new(file, &view, &plan, options, &name, slimmed.layout)
                .write()?
                .model,
        ),
    };
    Ok((slimmed, again))
}

/// How external data is laid out.
#[derive(Clone, Copy)]
struct Layout {
    align: u64,
    /// Tensors of fewer bytes go into the model: a place in another file has to be named.
    least: usize,
}

/// Tried in turn until the model is no larger than it was. Names cost bytes, and the new file may have the longer one: in
/// the end what is external goes into the model.
const LAYOUTS: [Layout; 4] = [
    Layout { align: 64, least: 128 },
    Layout { align: 1, least: 128 },
    Layout { align: 1, least: 4096 },
    Layout {
        align: 1,
        least: usize::MAX,
    },
];

/// The file as the plan has it.
pub fn write<'a>(
    file: &'a OnnxFile,
    view: &ModelView<'a>,
    plan: &SlimPlan<'a>,
    options: &SlimOptions,
    data_name: &str,
) -> Result<Slimmed<'a>, SlimError> {
    let before = model_bytes(file);
    let alone = file.externals().next().is_none();
    let layouts = if options.one_file || alone {
        &LAYOUTS[..1]
    } else {
        &LAYOUTS
    };
    let mut last = None;
    for &layout in layouts {
        let slimmed = Rewriter::new(file, view, plan, options, data_name, layout).write()?;
        let too_large = slimmed.model.len > i32::MAX as u64;
        if too_large && options.one_file {
            return Err(SlimError::TooLarge {
                file: file.path.display().to_string(),
                bytes: slimmed.model.len,
            });
        }
        if too_large && layout.least == usize::MAX {
            break;
        }
        if slimmed.bytes() <= before {
            return Ok(slimmed);
        }
        last = Some(slimmed);
    }
    match last {
        // The file as it is would be no copy without the data it refers to, and would hold what was to be left out.
        Some(slimmed) if !alone || options.leaves_out() => Ok(slimmed),
        // Nothing could be won, and rewriting costs a few bytes: the file as it is.
        _ => {
            let mut model = Chunks::default();
            model.push(Cow::Borrowed(file.bytes()));
            Ok(Slimmed {
                model,
                data: None,
                done: SlimReport::default(),
                layout: LAYOUTS[0],
            })
        }
    }
}
