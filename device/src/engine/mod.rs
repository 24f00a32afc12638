//! What a caller sees: an [`Engine`] made from a model's bytes, token ids in, Hugging Face's named outputs out. It checks
//! inputs, cuts off the padding all sequences share, runs the plans layer by layer and widens the outputs again.

pub(crate) mod build;
pub(crate) mod context;
pub(crate) mod elementwise;
#[allow(unsafe_code)]
pub mod kernels;
pub(crate) mod ops;
pub(crate) mod profile;
#[cfg(test)]
mod shapes;
pub mod tensors;
#[allow(unsafe_code)]
pub(crate) mod threads;
#[allow(unsafe_code)]
pub(crate) mod tile;
pub(crate) mod weight;

use crate::engine::build::{Builder, Plan, PlanError, Plans};
use crate::engine::context::{Context, Observer};
use crate::engine::kernels::{KernelError, Kernels};
use crate::engine::profile::Profile;
use crate::engine::tensors::Tensor;
use crate::engine::threads::{Pool, PoolError};
use crate::engine::weight::Weights;
use crate::image::Image;
use std::fmt::Write;
use std::sync::Arc;
use thimble_shared::artifact::{self, Artifact, ArtifactError};
use thimble_shared::board::memory::{self, Need, Work};
use thimble_shared::model::Config;
use thimble_shared::model::network::{Extent, Output};
use thimble_shared::model::weight::Kind;
use tract_core::internal::{Datum, IntoTValue, TValue, TVec, Tensor as TractTensor, TractError, tvec};

/// What is free to choose when an engine is made.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Threads to compute with; 0 and 1 both mean the caller's own.
    pub threads: usize,
    /// A kernel's name (see [`Kernels::available`]) instead of the best one, or `portable`.
    pub force_kernel: Option<String>,
}

/// Why an engine cannot be made or an input not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file is not thimble's or contradicts itself.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A kernel is not on this CPU or fails its self-test.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Threads could not be started.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A plan could not be built, or an op failed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The input does not fit the model.
    #[error(transparent)]
    Input(#[from] InputError),
}

/// Why an input cannot be run; `at` counts in the flat tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// The shape has another number of dimensions than the model takes, or an empty one.
    #[error("input_ids have shape {shape:?}, this model takes {wanted}")]
    Rank {
        /// Shape of the input.
        shape: Vec<usize>,
        /// Dimensions the model takes.
        wanted: &'static str,
    },
    /// A tensor has more or fewer values than the shape says.
    #[error("{tensor} has {found} values, the shape needs {wanted}")]
    Length {
        /// Which tensor.
        tensor: &'static str,
        /// Values it has.
        found: usize,
        /// Values the shape needs.
        wanted: usize,
    },
    /// Sequences longer than the model's position table.
    #[error("{seq} tokens, the model's positions end at {max}")]
    TooLong {
        /// Tokens per sequence, padding included.
        seq: usize,
        /// `max_position_embeddings`.
        max: usize,
    },
    /// More tokens than tensors of this model can have on this machine.
    #[error("{tokens} tokens at once are more than this machine can address; run fewer rows at a time")]
    TooMany {
        /// Tokens of all rows, padding included.
        tokens: usize,
    },
    /// A value is outside its range.
    #[error("{tensor}[{at}] is {value}, must be 0 to {max}")]
    Value {
        /// Which tensor.
        tensor: &'static str,
        /// Index in the flat tensor.
        at: usize,
        /// What stands there.
        value: i64,
        /// The largest value allowed; the least is 0.
        max: usize,
    },
}

/// Token ids and what goes with them, row-major. `shape` is `[batch, seq]`, or `[batch, choices, seq]` for multiple choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// `[batch, seq]` or `[batch, choices, seq]`; the other fields have its product of values.
    pub shape: Vec<usize>,
    /// Rows of the model's vocabulary.
    pub input_ids: Vec<i64>,
    /// 1 for real tokens, 0 for padding; all real when left out.
    pub attention_mask: Option<Vec<i64>>,
    /// All 0 when left out.
    pub token_type_ids: Option<Vec<i64>>,
}

impl Input {
    /// One sequence, every token real.
    pub fn sequence(ids: &[i64]) -> Input {
        Input {
            shape: vec![1, ids.len()],
            input_ids: ids.to_vec(),
            ..Input::default()
        }
    }
}

/// Outputs by Hugging Face's names, in the head's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs(pub Vec<(String, Tensor<f32>)>);

impl Outputs {
    /// The output of that name; `None` where the head has none.
    pub fn get(&self, name: &str) -> Option<&Tensor<f32>> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, t)| t)
    }
}

/// An input checked and cut to what is computed.
struct Batch {
    rows: usize,
    /// Tokens per row that are computed.
    seq: usize,
    /// Tokens per row as given.
    full: usize,
    ids: Vec<i64>,
    types: Vec<i64>,
    keep: Vec<f32>,
}

/// A model ready to run: its plans, kernels and threads. The weights stay in the image they are computed from.
pub struct Engine {
    artifact: Artifact,
    context: Arc<Context>,
    plans: Plans,
    layers: Vec<usize>,
    /// Most numbers that a tensor has for one token.
    widest: usize,
}

impl Engine {
    /// Opens the model in `image`, checks the kernels and builds the plans. No weight is copied.
    ///
    /// # Errors
    /// [`EngineError::Artifact`] where the file is not thimble's or damaged, [`EngineError::Kernel`] where a kernel is not there
    /// or fails its self-test, [`EngineError::Pool`] where threads cannot be started, [`EngineError::Plan`] where a plan cannot
    /// be built.
    pub fn new(image: Arc<Image>, options: EngineOptions) -> Result<Engine, EngineError> {
        let artifact = artifact::open(image.bytes())?;
        let kernels = Kernels::choose(options.force_kernel.as_deref())?;
        let context = Context::new(kernels, Pool::new(options.threads)?);
        let plans = Builder::new(Weights::new(&image, &artifact), &context).build()?;
        let config = &artifact.graph.config;
        let weights = config.weights();
        // What a table gives is as wide as what the next map reads.
        let maps = weights.iter().filter(|w| w.kind == Kind::Linear);
        Ok(Engine {
            layers: config.layer_groups(),
            widest: maps.flat_map(|w| w.shape.iter().copied()).max().unwrap_or(1),
            artifact,
            context,
            plans,
        })
    }

    /// The network's hyperparameters.
    pub fn config(&self) -> &Config {
        &self.artifact.graph.config
    }

    /// What the file states: network, formats, provenance and where each tensor is.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// The kernels chosen for this CPU, or forced.
    pub fn kernels(&self) -> &Kernels {
        &self.context.kernels
    }

    /// Threads it computes with, the caller's own included; at least 1.
    pub fn threads(&self) -> usize {
        self.context.pool.threads()
    }

    /// Layers of the network, shared ones counted each time they run.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// What one pass is expected to need, bytes; `file` is the model's size. `whole` says that all of it is resident, whatever is
    /// read.
    pub fn need(&self, rows: usize, seq: usize, file: u64, whole: bool) -> Need {
        let graph = &self.artifact.graph;
        let formats: Vec<_> = memory::linears(&graph.config, &graph.formats).collect();
        let threads = self.threads();
        let work = Work { rows, seq, threads };
        let unread = if whole {
            0
        } else {
            memory::unread(&graph.config, &graph.formats, work)
        };
        memory::need(&graph.config, &formats, work, file.saturating_sub(unread))
    }

    /// Takes the times of everything computed from here on, until `Profile::stop`.
    pub fn profile(&self) -> &Profile {
        &self.context.profile
    }

    /// Calls `observer` with what enters every linear map, or nobody. Costs nothing while nobody is set.
    pub fn observe(&self, observer: Option<Observer>) {
        self.context.set_observer(observer);
    }

    /// The outputs under Hugging Face's names, in their order.
    pub fn outputs(&self) -> &[Output] {
        &self.plans.outputs
    }

    /// The plan of the embedding, one of each group in order, and the head's.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        [&self.plans.embed]
            .into_iter()
            .chain(&self.plans.groups)
            .chain([&self.plans.head])
    }

    /// The plans node by node, with the kernels that were chosen.
    pub fn describe(&self) -> String {
        let mut text = format!("{:?}\n", self.context);
        for plan in self.plans() {
            let _ = write!(text, "{plan}");
        }
        let _ = writeln!(text, "layers run groups {:?}", self.layers);
        text
    }

    /// Runs one input, all rows in one pass, and gives the head's outputs. Values at padded positions are unspecified.
    ///
    /// # Errors
    /// [`EngineError::Input`] where the input does not fit the model, [`EngineError::Plan`] where an op fails.
    pub fn run(&self, input: &Input) -> Result<Outputs, EngineError> {
        let batch = self.check(input)?;
        let keep = batch.keep()?;
        let mut hidden = self.embed(&batch)?;
        for layer in 0..self.layers.len() {
            hidden = self.layer(layer, hidden, &keep)?;
        }
        self.head(hidden, keep, &batch, input)
    }

    /// The hidden state after the embedding and after every layer: `layers() + 1` tensors `[rows, seq, hidden]`, cut to
    /// the tokens that are computed.
    ///
    /// # Errors
    /// Those of [`Engine::run`].
    pub fn hidden_states(&self, input: &Input) -> Result<Vec<Tensor<f32>>, EngineError> {
        let batch = self.check(input)?;
        let keep = batch.keep()?;
        let mut hidden = self.embed(&batch)?;
        let mut states = vec![to_tensor(&hidden)?];
        for layer in 0..self.layers.len() {
            hidden = self.layer(layer, hidden, &keep)?;
            states.push(to_tensor(&hidden)?);
        }
        Ok(states)
    }

    /// One layer alone: `hidden` is `[rows, seq, hidden_size]`, `keep` 1 or 0 for each of the `rows * seq` tokens.
    ///
    /// # Errors
    /// [`EngineError::Input`] for a layer the network does not have or another shape, [`EngineError::Plan`] where an op fails.
    pub fn run_layer(&self, layer: usize, hidden: &Tensor<f32>, keep: &[f32]) -> Result<Tensor<f32>, EngineError> {
        let &[rows, seq, width] = hidden.shape.as_slice() else {
            let wanted = "hidden states [rows, seq, hidden_size]";
            return Err(InputError::Rank {
                shape: hidden.shape.clone(),
                wanted,
            }
            .into());
        };
        let length = |tensor, found, wanted| {
            if found == wanted {
                Ok(())
            } else {
                Err(InputError::Length { tensor, found, wanted })
            }
        };
        length("hidden", hidden.data.len(), rows * seq * width)?;
        length("hidden", width, self.config().hidden_size)?;
        length("keep", keep.len(), rows * seq)?;
        if layer >= self.layers.len() {
            let max = self.layers.len().saturating_sub(1);
            return Err(InputError::Value {
                tensor: "layer",
                at: 0,
                value: layer as i64,
                max,
            }
            .into());
        }
        let keep = value(&[rows, seq], keep)?;
        to_tensor(&self.layer(layer, value(&hidden.shape, &hidden.data)?, &keep)?)
    }

    fn embed(&self, batch: &Batch) -> Result<TValue, EngineError> {
        self.context.enter_layer(None);
        let shape = [batch.rows, batch.seq];
        only(
            &self.plans.embed,
            tvec!(value(&shape, &batch.ids)?, value(&shape, &batch.types)?),
        )
    }

    fn layer(&self, layer: usize, hidden: TValue, keep: &TValue) -> Result<TValue, EngineError> {
        self.context.enter_layer(Some(layer));
        only(&self.plans.groups[self.layers[layer]], tvec!(hidden, keep.clone()))
    }

    fn head(&self, hidden: TValue, keep: TValue, batch: &Batch, input: &Input) -> Result<Outputs, EngineError> {
        self.context.enter_layer(None);
        let mut inputs = tvec!(hidden);
        inputs.extend(self.plans.head_reads_mask.then_some(keep));
        let values = self.plans.head.run(inputs)?;
        let mut outputs = Outputs::default();
        for (output, value) in self.plans.outputs.iter().zip(&values) {
            let mut tensor = to_tensor(value)?;
            match output.extent {
                Extent::Tokens(_) | Extent::Token => batch.widen(&mut tensor),
                // The rows of the batch are the choices of its questions.
                Extent::Choice => tensor.shape = input.shape[..2].to_vec(),
                Extent::Row(_) => {}
            }
            outputs.0.push((output.name.to_string(), tensor));
        }
        Ok(outputs)
    }

    fn check(&self, input: &Input) -> Result<Batch, InputError> {
        let config = self.config();
        let choices = config.head.takes_choices();
        let (wanted, rank) = if choices {
            ("[batch, choices, seq]", 3)
        } else {
            ("[batch, seq]", 2)
        };
        let shape = &input.shape;
        if shape.len() != rank || shape.contains(&0) {
            return Err(InputError::Rank {
                shape: shape.clone(),
                wanted,
            });
        }
        let full = shape[rank - 1];
        let count = shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .unwrap_or(usize::MAX);
        let rows = count / full;
        let length = |tensor, found| {
            if found == count {
                Ok(())
            } else {
                Err(InputError::Length {
                    tensor,
                    found,
                    wanted: count,
                })
            }
        };
        length("input_ids", input.input_ids.len())?;
        if full > config.max_position_embeddings {
            return Err(InputError::TooLong {
                seq: full,
                max: config.max_position_embeddings,
            });
        }
        // No tensor has more bytes than a slice can: on a 32-bit board a larger product would look small.
        let most = isize::MAX.unsigned_abs() / size_of::<f32>();
        if count.checked_mul(self.widest).is_none_or(|numbers| numbers > most) {
            return Err(InputError::TooMany { tokens: count });
        }
        within("input_ids", &input.input_ids, config.vocab_size)?;
        if let Some(types) = &input.token_type_ids {
            length("token_type_ids", types.len())?;
            within("token_type_ids", types, config.type_vocab_size)?;
        }
        let mut seq = full;
        if let Some(mask) = &input.attention_mask {
            length("attention_mask", mask.len())?;
            within("attention_mask", mask, 2)?;
            // A row without any real token attends to all of its positions alike, so all of them count.
            let real = |row: &[i64]| row.iter().rposition(|&m| m != 0).map_or(full, |last| last + 1);
            seq = mask.chunks_exact(full).map(real).max().unwrap_or(full);
        }
        let cut =
            |values: &[i64]| -> Vec<i64> { values.chunks_exact(full).flat_map(|row| &row[..seq]).copied().collect() };
        Ok(Batch {
            rows,
            seq,
            full,
            ids: cut(&input.input_ids),
            types: input.token_type_ids.as_deref().map_or_else(|| vec![0; rows * seq], cut),
            keep: match &input.attention_mask {
                Some(mask) => cut(mask).iter().map(|&m| m as f32).collect(),
                None => vec![1.0; rows * seq],
            },
        })
    }
}

impl Batch {
    fn keep(&self) -> Result<TValue, EngineError> {
        value(&[self.rows, self.seq], &self.keep)
    }

    /// Gives a per-token output its full length again; tokens that were not computed are 0.
    fn widen(&self, tensor: &mut Tensor<f32>) {
        if self.seq == self.full {
            return;
        }
        let width = tensor.data.len() / (self.rows * self.seq);
        let mut data = vec![0.0; self.rows * self.full * width];
        let rows = data.chunks_exact_mut(self.full * width);
        for (to, from) in rows.zip(tensor.data.chunks_exact(self.seq * width)) {
            to[..from.len()].copy_from_slice(from);
        }
        tensor.data = data;
        tensor.shape[1] = self.full;
    }
}

fn value<T: Datum + Copy>(shape: &[usize], data: &[T]) -> Result<TValue, EngineError> {
    Ok(TractTensor::from_shape(shape, data)
        .map_err(|e| outside(&e))?
        .into_tvalue())
}

fn to_tensor(value: &TValue) -> Result<Tensor<f32>, EngineError> {
    let plain = value.try_as_plain_ram().map_err(|e| outside(&e))?;
    let data = plain.as_slice::<f32>().map_err(|e| outside(&e))?.to_vec();
    Ok(Tensor {
        shape: value.shape().to_vec(),
        data,
    })
}

/// Runs a plan that has one output.
fn only(plan: &Plan, inputs: TVec<TValue>) -> Result<TValue, EngineError> {
    let mut outputs = plan.run(inputs)?;
    outputs.pop().ok_or_else(|| {
        PlanError::Tract {
            plan: plan.name.clone(),
            problem: "no output".into(),
        }
        .into()
    })
}

/// A tensor that tract would not take in or give out.
fn outside(error: &TractError) -> EngineError {
    PlanError::Tract {
        plan: "input or output".into(),
        problem: format!("{error:#}"),
    }
    .into()
}

/// Every value of `values` must be at least 0 and below `end`.
fn within(tensor: &'static str, values: &[i64], end: usize) -> Result<(), InputError> {
    match values
        .iter()
        .position(|&v| usize::try_from(v).map_or(true, |v| v >= end))
    {
        Some(at) => Err(InputError::Value {
            tensor,
            at,
            value: values[at],
            max: end - 1,
        }),
        None => Ok(()),
    }
}
