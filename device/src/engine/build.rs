//! Network → tract: the embedding, one group of shared layers and the head, each a `TypedModel` with symbolic batch and
//! sequence, optimised once. A group's plan serves all of its layers, however many there are.

use crate::engine::context::Context;
use crate::engine::ops::attention::Attention;
use crate::engine::ops::embed::Embed;
use crate::engine::ops::feed_forward::FeedForward;
use crate::engine::ops::linear::Linear;
use crate::engine::ops::norm::Norm;
use crate::engine::ops::pool::{Normalize, Pool};
use crate::engine::weight::{WeightError, Weights};
use std::fmt;
use std::sync::Arc;
use thimble_shared::model::network::{HIDDEN, Layer, Network, OUT, Op, Output, Step, Value};
use thimble_shared::model::sentence::Pooling;
use thimble_shared::model::{Config, Role, Site};
use tract_core::internal::*;
use tract_core::ops::array::{Slice, TypedConcat};
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
    /// hidden, and keep where [`Plans::head_reads_mask`] says so → the values of [`Plans::outputs`].
    pub head: Plan,
    pub head_reads_mask: bool,
    pub outputs: Vec<Output>,
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
        let network = Network::of(self.config);
        let groups = network
            .groups
            .iter()
            .enumerate()
            .map(|(g, layers)| self.group(g, layers));
        let groups = groups.collect::<Result<_, _>>()?;
        Ok(Plans {
            head: self.head(&network)?,
            head_reads_mask: network.head_reads_mask(),
            embed: self.embed(&network.embed)?,
            groups,
            outputs: network.outputs,
        })
    }

    fn embed(&self, steps: &[Step]) -> Result<Plan, PlanError> {
        let mut wiring = Wiring::new("embedding");
        let ids = wiring.source("input_ids", i64::datum_type(), None)?;
        let types = wiring.source("token_type_ids", i64::datum_type(), None)?;
        let mut scope = Scope {
            tokens: vec![ids, types],
            ..Scope::default()
        };
        self.steps(steps, &mut wiring, &mut scope)?;
        let hidden = scope.get(&wiring, HIDDEN)?;
        wiring.finish(&[hidden])
    }

    fn group(&self, group: usize, layers: &[Layer]) -> Result<Plan, PlanError> {
        let mut wiring = Wiring::new(&format!("group {group}"));
        let mut hidden = wiring.source("hidden", f32::datum_type(), Some(self.config.hidden_size))?;
        let keep = wiring.source("keep", f32::datum_type(), None)?;
        for layer in layers {
            let mut scope = Scope {
                site: Some(layer.site),
                keep: Some(keep),
                values: vec![(HIDDEN, hidden)],
                ..Scope::default()
            };
            self.steps(&layer.steps, &mut wiring, &mut scope)?;
            hidden = scope.get(&wiring, OUT)?;
        }
        wiring.finish(&[hidden])
    }

    fn head(&self, network: &Network) -> Result<Plan, PlanError> {
        let mut wiring = Wiring::new("head");
        let hidden = wiring.source("hidden", f32::datum_type(), Some(self.config.hidden_size))?;
        let keep = match network.head_reads_mask() {
            true => Some(wiring.source("keep", f32::datum_type(), None)?),
            false => None,
        };
        let mut scope = Scope {
            keep,
            values: vec![(HIDDEN, hidden)],
            ..Scope::default()
        };
        self.steps(&network.head, &mut wiring, &mut scope)?;
        let last = network.output_of_last_layer();
        let outlet = |output: &Output| match last {
            Some(name) if name == output.name => Ok(hidden),
            _ => scope.get(&wiring, output.name),
        };
        let outlets: Vec<OutletId> = network.outputs.iter().map(outlet).collect::<Result<_, _>>()?;
        wiring.finish(&outlets)
    }

    fn steps(&self, steps: &[Step], wiring: &mut Wiring, scope: &mut Scope) -> Result<(), PlanError> {
        let mut steps = steps.iter();
        while let Some(step) = steps.next() {
            if let [next, ..] = steps.as_slice()
                && let Some(outlet) = self.feed_forward(step, next, wiring, scope)?
            {
                scope.values.push((next.output, outlet));
                steps.next();
                continue;
            }
            let outlet = self.step(step, wiring, scope)?;
            scope.values.push((step.output, outlet));
        }
        Ok(())
    }

    /// The two maps of a layer's feed-forward part as one op, if that is what the steps are. Nothing else reads what lies between.
    fn feed_forward(
        &self,
        first: &Step,
        second: &Step,
        wiring: &mut Wiring,
        scope: &Scope,
    ) -> Result<Option<OutletId>, PlanError> {
        let (
            Op::Linear {
                weight: Role::Up,
                input,
                ..
            },
            Op::Linear {
                weight: Role::Down,
                bias,
                input: between,
                ..
            },
        ) = (&first.op, &second.op)
        else {
            return Ok(None);
        };
        if *between != first.output {
            return Ok(None);
        }
        let feed_forward = FeedForward {
            up: self.linear(&first.op, scope)?,
            down: self.linear(&second.op, scope)?,
            context: self.context.clone(),
        };
        let input = scope.get(wiring, input)?;
        wiring.one(&bias.at(scope.site), feed_forward, &[input]).map(Some)
    }

    /// The op of a [`Op::Linear`].
    fn linear(&self, op: &Op, scope: &Scope) -> Result<Linear, PlanError> {
        let Op::Linear {
            weight,
            bias,
            activation,
            ..
        } = op
        else {
            return Err(WeightError::Missing(format!("{op:?}")).into());
        };
        let (name, bias) = (weight.at(scope.site), bias.at(scope.site));
        Ok(Linear {
            weights: vec![self.weights.linear(&name, &format!("{bias}.bias"))?],
            activation: activation.map(|(activation, _)| activation),
            context: self.context.clone(),
        })
    }

    fn step(&self, step: &Step, wiring: &mut Wiring, scope: &Scope) -> Result<OutletId, PlanError> {
        let weight = |role: Role| role.at(scope.site);
        match step.op {
            Op::Embed => {
                let embed = Embed {
                    word: self.weights.table(Role::Word.name())?,
                    kind: self.weights.table(Role::TokenType.name())?,
                    position: self.weights.table(Role::Position.name())?,
                    context: self.context.clone(),
                };
                wiring.one("embed", embed, &scope.tokens)
            }
            Op::LayerNorm { norm, input, residual } => {
                let mut inputs = vec![scope.get(wiring, input)?];
                if let Some(residual) = residual {
                    inputs.push(scope.get(wiring, residual.of)?);
                }
                let name = weight(norm);
                wiring.one(&name, self.norm(&name, wiring.width(inputs[0])?)?, &inputs)
            }
            Op::Linear { bias, input, .. } => {
                let linear = self.linear(&step.op, scope)?;
                // Named by the bias, which no two maps share: a tied decoder's matrix is the word table.
                wiring.one(&weight(bias), linear, &[scope.get(wiring, input)?])
            }
            Op::Attention { input } => self.attention(input, wiring, scope),
            Op::Pool { input, pooling } => self.pool(pooling, input, step.output, wiring, scope),
            Op::Concat { ref inputs } => {
                let inputs: Vec<OutletId> = inputs
                    .iter()
                    .map(|input| scope.get(wiring, input))
                    .collect::<Result<_, _>>()?;
                wiring.one(step.output, TypedConcat::new(1), &inputs)
            }
            Op::Normalize { input } => {
                let normalize = Normalize {
                    context: self.context.clone(),
                };
                wiring.one(step.output, normalize, &[scope.get(wiring, input)?])
            }
            Op::Column { input, column } => {
                let slice = Slice::new(2, column, column + 1);
                let name = format!("{}.column", step.output);
                let column = wiring.one(&name, slice, &[scope.get(wiring, input)?])?;
                wiring.one(step.output, AxisOp::Rm(2), &[column])
            }
            Op::AddVector { input, vector } => {
                let input = scope.get(wiring, input)?;
                let (name, width) = (weight(vector), wiring.width(input)?);
                let values = self.weights.vector(&name, width)?;
                let values = Tensor::from_shape(&[1, 1, width], values.values());
                let vector = wiring.constant(&name, values.map_err(|e| tract_error(&wiring.name, &e))?)?;
                wiring.one(step.output, math::add(), &[input, vector])
            }
            // The engine gives outputs the shape of the input's first two dimensions.
            Op::Choices { input } => scope.get(wiring, input),
        }
    }

    /// The query, key and value maps as one op, and the attention that reads them.
    fn attention(&self, input: Value, wiring: &mut Wiring, scope: &Scope) -> Result<OutletId, PlanError> {
        let part = |role: Role| {
            let name = role.at(scope.site);
            self.weights.linear(&name, &format!("{name}.bias"))
        };
        let projections = Linear {
            weights: [Role::Query, Role::Key, Role::Value]
                .map(part)
                .into_iter()
                .collect::<Result<_, _>>()?,
            activation: None,
            context: self.context.clone(),
        };
        let at = |name| Role::Head(name).at(scope.site);
        let mut inputs = wiring.all(&at("qkv"), projections, &[scope.get(wiring, input)?])?;
        inputs.push(scope.keep(wiring)?);
        let attention = Attention {
            heads: self.config.num_attention_heads,
            arithmetic: self.config.attention,
            context: self.context.clone(),
        };
        wiring.one(&at("attention"), attention, &inputs)
    }

    /// One vector of a row's tokens, named `output`; the first token is cut out, as no mask matters to it.
    fn pool(
        &self,
        pooling: Pooling,
        input: Value,
        output: Value,
        wiring: &mut Wiring,
        scope: &Scope,
    ) -> Result<OutletId, PlanError> {
        match pooling {
            Pooling::First => {
                let first = wiring.one("first_token", Slice::new(1, 0, 1), &[scope.get(wiring, input)?])?;
                wiring.one("first_row", AxisOp::Rm(1), &[first])
            }
            Pooling::Last | Pooling::Max | Pooling::Mean | Pooling::MeanSqrtLen | Pooling::WeightedMean => {
                let pool = Pool {
                    pooling,
                    context: self.context.clone(),
                };
                wiring.one(output, pool, &[scope.get(wiring, input)?, scope.keep(wiring)?])
            }
        }
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

/// What the steps of one part of the network read.
#[derive(Default)]
struct Scope {
    site: Option<Site>,
    /// Token ids and types.
    tokens: Vec<OutletId>,
    /// 1 for real tokens, 0 for padding.
    keep: Option<OutletId>,
    values: Vec<(Value, OutletId)>,
}

impl Scope {
    fn get(&self, wiring: &Wiring, value: Value) -> Result<OutletId, PlanError> {
        let found = self.values.iter().rfind(|(name, _)| *name == value);
        found.map(|(_, outlet)| *outlet).ok_or_else(|| wiring.missing(value))
    }

    fn keep(&self, wiring: &Wiring) -> Result<OutletId, PlanError> {
        self.keep.ok_or_else(|| wiring.missing("keep"))
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

    /// The last dimension of a value.
    fn width(&self, outlet: OutletId) -> Result<usize, PlanError> {
        let fact = self
            .model
            .outlet_fact(outlet)
            .map_err(|e| tract_error(&self.name, &e))?;
        let last = fact.shape.last().and_then(|dim| dim.to_usize().ok());
        last.ok_or_else(|| self.missing("a width that is known"))
    }

    fn missing(&self, what: &str) -> PlanError {
        PlanError::Tract {
            plan: self.name.clone(),
            problem: format!("{what} is missing"),
        }
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
