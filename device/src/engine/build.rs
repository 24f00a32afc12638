//! Graph → tract: the embedding, one group of shared layers and the head, each a `TypedModel` with symbolic batch and
//! sequence, optimised once. A group's plan serves all of its layers, however many there are.

use crate::engine::context::Context;
use crate::engine::ops::attention::Attention;
use crate::engine::ops::embed::Embed;
use crate::engine::ops::linear::Linear;
use crate::engine::ops::norm::Norm;
use crate::engine::weight::{WeightError, Weights};
use std::fmt;
use std::sync::Arc;
use thimble_shared::model::{Activation, Config, HIDDEN_SHIFT, Head, layer_weight};
use tract_core::internal::*;
use tract_core::ops::array::Slice;
use tract_core::ops::math;

/// One optimised `TypedModel`, ready to run.
pub struct Plan {
    pub name: String,
    runnable: Arc<TypedRunnableModel>,
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Weight(#[from] WeightError),
    #[error("plan '{plan}': {problem}")]
    Tract { plan: String, problem: String },
}

impl Plan {
    fn new(name: &str, model: TypedModel) -> Result<Plan, PlanError> {
        let runnable = model
            .into_optimized()
            .and_then(|m| m.into_runnable())
            .map_err(|e| tract_error(name, &e))?;
        Ok(Plan {
            name: name.to_string(),
            runnable,
        })
    }

    pub fn run(&self, inputs: TVec<TValue>) -> Result<TVec<TValue>, PlanError> {
        self.runnable.run(inputs).map_err(|e| tract_error(&self.name, &e))
    }

    pub fn model(&self) -> &TypedModel {
        self.runnable.model()
    }
}

/// Every node in evaluation order: name, op, what the op says of itself, and the fact it makes.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        let model = self.model();
        for &id in self.runnable.order_without_consts() {
            let node = model.node(id);
            let facts: Vec<String> = node.outputs.iter().map(|o| format!("{:?}", o.fact)).collect();
            let inputs: Vec<&str> = node.inputs.iter().map(|i| model.node(i.node).name.as_str()).collect();
            writeln!(
                f,
                "  {} = {}({}) -> {}",
                node.name,
                node.op.name(),
                inputs.join(", "),
                facts.join(", ")
            )?;
            for line in node.op.info().unwrap_or_default() {
                writeln!(f, "      {line}")?;
            }
        }
        Ok(())
    }
}

fn tract_error(plan: &str, error: &TractError) -> PlanError {
    // The chain of causes in one line, outermost first.
    PlanError::Tract {
        plan: plan.to_string(),
        problem: format!("{error:#}"),
    }
}

/// The plans of one model.
pub struct Plans {
    /// ids, token types `[batch, seq]` i64 → hidden `[batch, seq, hidden]`.
    pub embed: Plan,
    /// hidden, keep `[batch, seq]` f32 → hidden; one per group.
    pub groups: Vec<Plan>,
    /// hidden → the head's outputs, named by [`Plans::outputs`].
    pub head: Plan,
    /// Hugging Face's names of the head's outputs, and whether each has one row per token.
    pub outputs: Vec<(&'static str, bool)>,
}

/// Builds plans whose ops share one context and read one file.
pub struct Builder<'a> {
    weights: Weights<'a>,
    config: &'a Config,
    context: &'a Arc<Context>,
}

impl<'a> Builder<'a> {
    pub fn new(weights: Weights<'a>, context: &'a Arc<Context>) -> Builder<'a> {
        Builder {
            config: &weights.artifact.graph.config,
            weights,
            context,
        }
    }

    pub fn build(&self) -> Result<Plans, PlanError> {
        let groups = (0..self.config.num_hidden_groups)
            .map(|g| self.group(g))
            .collect::<Result<_, _>>()?;
        let (head, outputs) = self.head()?;
        Ok(Plans {
            embed: self.embed()?,
            groups,
            head,
            outputs,
        })
    }

    fn embed(&self) -> Result<Plan, PlanError> {
        let mut wiring = Wiring::new("embedding");
        let ids = wiring.source("input_ids", i64::datum_type(), None)?;
        let types = wiring.source("token_type_ids", i64::datum_type(), None)?;
        let embed = Embed {
            word: self.weights.table("word")?,
            kind: self.weights.table("type")?,
            position: self.weights.table("position")?,
            context: self.context.clone(),
        };
        let x = wiring.one("embed", embed, &[ids, types])?;
        let x = wiring.one("embed_norm", self.norm("embed_norm", self.config.embedding_size)?, &[x])?;
        let hidden = wiring.one("map", self.linear(&["map"], None)?, &[x])?;
        wiring.finish(&[hidden])
    }

    fn group(&self, group: usize) -> Result<Plan, PlanError> {
        let mut wiring = Wiring::new(&format!("group {group}"));
        let hidden = self.config.hidden_size;
        let mut h = wiring.source("hidden", f32::datum_type(), Some(hidden))?;
        let keep = wiring.source("keep", f32::datum_type(), None)?;
        for inner in 0..self.config.inner_group_num {
            let at = |part: &str| layer_weight(group, inner, part);
            let qkv = self.linear(&[&at("q"), &at("k"), &at("v")], None)?;
            let qkv = wiring.all(&at("qkv"), qkv, &[h])?;
            let attention = Attention {
                heads: self.config.num_attention_heads,
                context: self.context.clone(),
            };
            let x = wiring.one(&at("attention"), attention, &[qkv[0], qkv[1], qkv[2], keep])?;
            let x = wiring.one(&at("o"), self.linear(&[&at("o")], None)?, &[x])?;
            let x = wiring.one(&at("attn_norm"), self.norm(&at("attn_norm"), hidden)?, &[x, h])?;
            let y = wiring.one(
                &at("up"),
                self.linear(&[&at("up")], Some(self.config.activation))?,
                &[x],
            )?;
            let y = wiring.one(&at("down"), self.linear(&[&at("down")], None)?, &[y])?;
            h = wiring.one(&at("ffn_norm"), self.norm(&at("ffn_norm"), hidden)?, &[y, x])?;
        }
        wiring.finish(&[h])
    }

    fn head(&self) -> Result<(Plan, Vec<(&'static str, bool)>), PlanError> {
        let mut wiring = Wiring::new("head");
        let h = wiring.source("hidden", f32::datum_type(), Some(self.config.hidden_size))?;
        let mut outlets = vec![];
        let mut outputs: Vec<(&'static str, bool)> = vec![];
        match self.config.head {
            Head::None => {
                outputs.push(("last_hidden_state", true));
                outlets.push(self.unshifted(&mut wiring, h)?);
            }
            Head::MaskedLm | Head::PreTraining => {
                let name = if self.config.head == Head::MaskedLm {
                    "logits"
                } else {
                    "prediction_logits"
                };
                outputs.push((name, true));
                outlets.push(self.masked_lm(&mut wiring, h)?);
            }
            Head::TokenClassification => {
                outputs.push(("logits", true));
                outlets.push(wiring.one("classifier", self.linear(&["classifier"], None)?, &[h])?);
            }
            Head::QuestionAnswering => {
                let spans = wiring.one("qa", self.linear(&["qa"], None)?, &[h])?;
                for (i, name) in ["start_logits", "end_logits"].into_iter().enumerate() {
                    let column = wiring.one(&format!("{name}.column"), Slice::new(2, i, i + 1), &[spans])?;
                    outputs.push((name, true));
                    outlets.push(wiring.one(name, AxisOp::Rm(2), &[column])?);
                }
            }
            Head::SequenceClassification | Head::MultipleChoice => {}
        }
        if self.config.pooler {
            let first = wiring.one("first_token", Slice::new(1, 0, 1), &[h])?;
            let first = wiring.one("first_row", AxisOp::Rm(1), &[first])?;
            let pooled = wiring.one("pooler", self.linear(&["pooler"], Some(Activation::Tanh))?, &[first])?;
            match self.config.head {
                Head::None => {
                    outputs.push(("pooler_output", false));
                    outlets.push(pooled);
                }
                Head::PreTraining => {
                    outputs.push(("sop_logits", false));
                    outlets.push(wiring.one("sop", self.linear(&["sop"], None)?, &[pooled])?);
                }
                Head::SequenceClassification | Head::MultipleChoice => {
                    outputs.push(("logits", false));
                    outlets.push(wiring.one("classifier", self.linear(&["classifier"], None)?, &[pooled])?);
                }
                // A pooler these heads do not read.
                Head::MaskedLm | Head::TokenClassification | Head::QuestionAnswering => {}
            }
        }
        Ok((wiring.finish(&outlets)?, outputs))
    }

    /// The last layer's result as Hugging Face has it: the vector that the layers' numbers lie below it is added again.
    fn unshifted(&self, wiring: &mut Wiring, h: OutletId) -> Result<OutletId, PlanError> {
        if !self.config.hidden_shift {
            return Ok(h);
        }
        let width = self.config.hidden_size;
        let shift = self.weights.vector(HIDDEN_SHIFT, width)?;
        let shift = Tensor::from_shape(&[1, 1, width], shift.values()).map_err(|e| tract_error(&wiring.name, &e))?;
        let shift = wiring.constant(HIDDEN_SHIFT, shift)?;
        wiring.one("last_hidden_state", math::add(), &[h, shift])
    }

    fn masked_lm(&self, wiring: &mut Wiring, h: OutletId) -> Result<OutletId, PlanError> {
        let x = wiring.one(
            "mlm.dense",
            self.linear(&["mlm.dense"], Some(self.config.activation))?,
            &[h],
        )?;
        let x = wiring.one("mlm.norm", self.norm("mlm.norm", self.config.embedding_size)?, &[x])?;
        let weight = if self.config.tied_decoder {
            "word"
        } else {
            "mlm.decoder"
        };
        let decoder = Linear {
            weights: vec![self.weights.linear_with_bias(weight, "mlm.decoder.bias")?],
            activation: None,
            context: self.context.clone(),
        };
        wiring.one("mlm.decoder", decoder, &[x])
    }

    fn linear(&self, names: &[&str], activation: Option<Activation>) -> Result<Linear, PlanError> {
        let weights = names.iter().map(|n| self.weights.linear(n)).collect::<Result<_, _>>()?;
        Ok(Linear {
            weights,
            activation,
            context: self.context.clone(),
        })
    }

    fn norm(&self, name: &str, len: usize) -> Result<Norm, PlanError> {
        Ok(Norm {
            weight: self.weights.vector(&format!("{name}.weight"), len)?,
            bias: self.weights.vector(&format!("{name}.bias"), len)?,
            eps: self.config.layer_norm_eps,
            context: self.context.clone(),
        })
    }
}

/// A model being wired.
struct Wiring {
    name: String,
    model: TypedModel,
    batch: Symbol,
    seq: Symbol,
}

impl Wiring {
    fn new(name: &str) -> Wiring {
        let model = TypedModel::default();
        let (batch, seq) = (model.symbols.sym("batch"), model.symbols.sym("seq"));
        Wiring {
            name: name.to_string(),
            model,
            batch,
            seq,
        }
    }

    /// An input `[batch, seq]`, or `[batch, seq, width]`.
    fn source(&mut self, name: &str, datum: DatumType, width: Option<usize>) -> Result<OutletId, PlanError> {
        let mut shape: TVec<TDim> = tvec!(self.batch.clone().into(), self.seq.clone().into());
        shape.extend(width.map(TDim::from));
        self.model
            .add_source(name, datum.fact(shape))
            .map_err(|e| tract_error(&self.name, &e))
    }

    fn constant(&mut self, name: &str, value: Tensor) -> Result<OutletId, PlanError> {
        self.model
            .add_const(name, value)
            .map_err(|e| tract_error(&self.name, &e))
    }

    fn all(
        &mut self,
        name: &str,
        op: impl Into<Box<dyn TypedOp>>,
        inputs: &[OutletId],
    ) -> Result<TVec<OutletId>, PlanError> {
        self.model
            .wire_node(name, op, inputs)
            .map_err(|e| tract_error(&self.name, &e))
    }

    fn one(&mut self, name: &str, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> Result<OutletId, PlanError> {
        Ok(self.all(name, op, inputs)?[0])
    }

    fn finish(mut self, outputs: &[OutletId]) -> Result<Plan, PlanError> {
        self.model
            .select_output_outlets(outputs)
            .map_err(|e| tract_error(&self.name, &e))?;
        Plan::new(&self.name, self.model)
    }
}
