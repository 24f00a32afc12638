//! The computation, said once: steps on named values, from token ids to the outputs of the head. `artifact::emit` states them
//! in ONNX, the device's engine builds its plans of them.

use super::activation::Activation;
use super::config::Config;
use super::sentence::Pooling;
use super::weight::{Kind, Role, Site, WeightSpec};

/// The steps of a model. A group's layers run as often as [`Config::layer_groups`] says.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// From `input_ids` and `token_type_ids` to [`HIDDEN`].
    pub embed: Vec<Step>,
    /// The layers of each group, one after another, each from [`HIDDEN`] to [`OUT`].
    pub groups: Vec<Vec<Layer>>,
    /// From [`HIDDEN`], what the last layer gives, to the values of `outputs`.
    pub head: Vec<Step>,
    /// In the order that callers get them.
    pub outputs: Vec<Output>,
}

/// One layer with weights of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Which weights the steps read.
    pub site: Site,
    /// In the order they run.
    pub steps: Vec<Step>,
}

/// Name of a value within its part of the network.
pub type Value = &'static str;

/// The hidden states `[batch, seq, hidden]` that a layer or a head starts from, and that the embedding ends in.
pub const HIDDEN: Value = "hidden";

/// The output of hidden states, as other tools' files name it.
pub const HIDDEN_STATES: Value = "last_hidden_state";
/// The hidden states a layer ends in.
pub const OUT: Value = "out";

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What is computed.
    pub op: Op,
    /// Name of what comes out.
    pub output: Value,
}

/// What a step computes. Linear maps, LayerNorms and activations work on the last axis.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The sum of word, token type and position embeddings: `[batch, seq]` to `[batch, seq, embedding]`.
    Embed,
    /// LayerNorm of `input`, or of its sum with the residual, which is a value of the name `sum`.
    LayerNorm {
        /// Role of its gain and bias.
        norm: Role,
        /// Name of the value it reads.
        input: Value,
        /// What is added to the input first; `None` adds nothing.
        residual: Option<Residual>,
    },
    /// `input · weightᵀ + bias`, then perhaps an activation; before it the value has the name given there.
    Linear {
        /// Role of the matrix `[out, in]`.
        weight: Role,
        /// Role of the bias `[out]`.
        bias: Role,
        /// Name of the value it reads.
        input: Value,
        /// The function, and the name of the value before it.
        activation: Option<(Activation, Value)>,
    },
    /// Multi-head self-attention of `input` under the mask: softmax(q·kᵀ / √head_size + mask) · v.
    Attention {
        /// Name of the value that query, key and value maps read.
        input: Value,
    },
    /// One vector of a row's tokens: `[batch, seq, width]` to `[batch, width]`.
    Pool {
        /// Name of the value it reads.
        input: Value,
        /// Which tokens the vector is made of.
        pooling: Pooling,
    },
    /// Vectors of a row side by side: `[batch, width]` each.
    Concat {
        /// Names of the values it reads.
        inputs: Vec<Value>,
    },
    /// Each vector over its length, which counts as at least [`LEAST_LENGTH`](super::sentence::LEAST_LENGTH).
    Normalize {
        /// Name of the value it reads.
        input: Value,
    },
    /// One column of the last axis, which goes: `[batch, seq, width]` to `[batch, seq]`.
    Column {
        /// Name of the value it reads.
        input: Value,
        /// Index in the last axis, from 0.
        column: usize,
    },
    /// Adds a stored vector.
    AddVector {
        /// Name of the value it reads.
        input: Value,
        /// Role of the vector, as long as the last axis.
        vector: Role,
    },
    /// The rows of a batch become the choices of its questions: `[batch · choices, 1]` to `[batch, choices]`.
    Choices {
        /// Name of the value it reads.
        input: Value,
    },
}

/// What is added before a LayerNorm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residual {
    /// Name of the value that is added.
    pub of: Value,
    /// Name of the sum.
    pub sum: Value,
}

/// An output of the model, under Hugging Face's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Hugging Face's name, e.g. `logits`.
    pub name: Value,
    /// Which axes it has.
    pub extent: Extent,
}

/// The shape of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// `[batch, seq, width]`
    Tokens(usize),
    /// `[batch, seq]`
    Token,
    /// `[batch, width]`
    Row(usize),
    /// `[batch, choices]`
    Choice,
}

impl Extent {
    /// Whether there is something for every token.
    pub fn per_token(self) -> bool {
        match self {
            Extent::Tokens(_) | Extent::Token => true,
            Extent::Row(_) | Extent::Choice => false,
        }
    }
}

impl Op {
    /// Whether the operation reads the attention mask.
    pub fn reads_mask(&self) -> bool {
        match self {
            Op::Attention { .. } => true,
            Op::Pool { pooling, .. } => pooling.reads_mask(),
            Op::Embed
            | Op::LayerNorm { .. }
            | Op::Linear { .. }
            | Op::Concat { .. }
            | Op::Normalize { .. }
            | Op::Column { .. }
            | Op::AddVector { .. }
            | Op::Choices { .. } => false,
        }
    }
}

impl Network {
    /// The steps of an encoder, `embed` and in each layer `layer`, and those of a head behind them.
    pub(super) fn with_head(config: &Config, embed: Vec<Step>, layer: &[Step], head: HeadSteps) -> Network {
        let layer = |group: usize, inner: usize| Layer {
            site: Site { group, inner },
            steps: layer.to_vec(),
        };
        let group = |group: usize| (0..config.inner_group_num).map(|inner| layer(group, inner)).collect();
        Network {
            embed,
            groups: (0..config.num_hidden_groups).map(group).collect(),
            head: head.steps,
            outputs: head.outputs,
        }
    }

    /// Adds the tokens' hidden states to the outputs, as the first, where the model has one vector a text: tools that pool for
    /// themselves ask for them.
    pub fn give_hidden_states(&mut self, config: &Config) {
        if config.sentence.is_some() {
            let (name, extent) = (HIDDEN_STATES, Extent::Tokens(config.hidden_size));
            self.outputs.insert(0, Output { name, extent });
        }
    }

    /// Whether the head reads the attention mask.
    pub fn head_reads_mask(&self) -> bool {
        self.head.iter().any(|step| step.op.reads_mask())
    }

    /// The maps of the head that read one vector of a row, not each token's.
    pub fn maps_of_rows(&self) -> Vec<Role> {
        let (mut rows, mut maps) = (Vec::new(), Vec::new());
        for step in &self.head {
            let of_rows = match &step.op {
                Op::Pool { .. } => true,
                Op::Concat { inputs } => inputs.iter().all(|input| rows.contains(input)),
                Op::Linear { input, .. }
                | Op::Normalize { input }
                | Op::LayerNorm { input, .. }
                | Op::Column { input, .. }
                | Op::AddVector { input, .. }
                | Op::Choices { input }
                | Op::Attention { input } => rows.contains(input),
                Op::Embed => false,
            };
            if of_rows {
                rows.push(step.output);
                maps.extend(match step.op {
                    Op::Linear { weight, .. } => Some(weight),
                    _ => None,
                });
            }
        }
        maps
    }

    /// What the biases of the embeddings' last step belong to: a map, or a LayerNorm where nothing is projected.
    pub fn last_of_embeddings(&self) -> Option<Role> {
        match self.embed.last()?.op {
            Op::Linear { bias, .. } => Some(bias),
            Op::LayerNorm { norm, .. } => Some(norm),
            Op::AddVector { vector, .. } => Some(vector),
            Op::Embed
            | Op::Attention { .. }
            | Op::Pool { .. }
            | Op::Concat { .. }
            | Op::Normalize { .. }
            | Op::Column { .. }
            | Op::Choices { .. } => None,
        }
    }

    /// Each map of the embeddings that reads a LayerNorm: the norm, and the map.
    pub fn norms_and_maps_of_embeddings(&self) -> Vec<(Role, Role)> {
        let norm_of = |value: Value| {
            self.embed.iter().find_map(|step| match step.op {
                Op::LayerNorm { norm, .. } if step.output == value => Some(norm),
                _ => None,
            })
        };
        let pair = |step: &Step| match step.op {
            Op::Linear { weight, input, .. } => Some((norm_of(input)?, weight)),
            _ => None,
        };
        self.embed.iter().filter_map(pair).collect()
    }

    /// The output that is the last layer's result itself, if one is.
    pub fn output_of_last_layer(&self) -> Option<Value> {
        let made = |output: &Output| self.head.iter().any(|step| step.output == output.name);
        self.outputs
            .iter()
            .find(|output| !made(output))
            .map(|output| output.name)
    }
}

/// The sum of the embeddings, and its LayerNorm as `output`.
pub(super) fn embeddings(output: Value) -> Vec<Step> {
    let norm = Op::LayerNorm {
        norm: Role::EmbeddingNorm,
        input: "embed.sum",
        residual: None,
    };
    vec![step(Op::Embed, "embed.sum"), step(norm, output)]
}

/// A layer with post-LayerNorm, as in BERT: each half adds its input and normalizes the sum.
pub(super) fn post_norm_layer(config: &Config) -> Vec<Step> {
    let norm = |norm, input, of, sum| Op::LayerNorm {
        norm,
        input,
        residual: Some(Residual { of, sum }),
    };
    vec![
        step(Op::Attention { input: HIDDEN }, "ctx"),
        step(linear(Role::AttentionOutput, "ctx", None), "o"),
        step(norm(Role::AttentionNorm, "o", HIDDEN, "attn"), "mid"),
        step(linear(Role::Up, "mid", Some((config.activation, "up"))), "act"),
        step(linear(Role::Down, "act", None), "down"),
        step(norm(Role::FeedForwardNorm, "down", "mid", "ffn"), OUT),
    ]
}

/// A step that computes `op`.
pub(super) fn step(op: Op, output: Value) -> Step {
    Step { op, output }
}

/// A linear map with its own bias, and perhaps an activation.
pub(super) fn linear(role: Role, input: Value, activation: Option<(Activation, Value)>) -> Op {
    Op::Linear {
        weight: role,
        bias: role,
        input,
        activation,
    }
}

/// What a head adds to the network, step by step.
#[derive(Debug, Default)]
pub struct HeadSteps {
    steps: Vec<Step>,
    outputs: Vec<Output>,
}

impl HeadSteps {
    /// A step; gives the name of its value.
    pub fn step(&mut self, op: Op, output: Value) -> Value {
        self.steps.push(step(op, output));
        output
    }

    /// A linear map with its own bias.
    pub fn linear(&mut self, role: Role, input: Value, output: Value) -> Value {
        self.step(linear(role, input, None), output)
    }

    /// tanh(pooler · first token): Hugging Face's pooled output.
    pub fn pooled(&mut self, output: Value) -> Value {
        let pooling = Pooling::First;
        let first = self.step(Op::Pool { input: HIDDEN, pooling }, "first_token");
        self.step(linear(Role::Pooler, first, Some((Activation::Tanh, "pool"))), output)
    }

    /// Declares an output: the value of that name, or what the last layer gives where no step has made one.
    pub fn output(&mut self, name: Value, extent: Extent) {
        self.outputs.push(Output { name, extent });
    }
}

/// How often a weight is gone through per inference, and for how many tokens each time.
pub fn uses(config: &Config, weight: &WeightSpec, seq: usize) -> (usize, usize) {
    if weight.kind != Kind::Linear {
        return (0, 0);
    }
    match weight.site {
        Some(Site { group, .. }) => (config.layer_groups().iter().filter(|&&g| g == group).count(), seq),
        // Maps behind the pooling read one vector a row.
        None if weight.role == Role::Pooler || Network::of(config).maps_of_rows().contains(&weight.role) => (1, 1),
        None => (1, seq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Head;
    use crate::model::config::tests::tiny;

    #[test]
    fn what_is_pooled_is_mapped_once_a_row() {
        let cases: [(Head, &[&str]); 5] = [
            (Head::MaskedLm, &[]),
            (Head::PreTraining, &["pooler", "sop"]),
            (Head::SequenceClassification, &["pooler", "classifier"]),
            (Head::TokenClassification, &[]),
            (Head::SentenceEmbedding, &["dense"]),
        ];
        for (head, want) in cases {
            let maps = Network::of(&tiny(head)).maps_of_rows();
            let names: Vec<&str> = maps.iter().map(|role| role.name()).collect();
            assert_eq!(names, want, "{head:?}");
        }
    }

    #[test]
    fn every_weight_has_a_use_and_every_use_a_weight() {
        for head in Head::ALL {
            let config = tiny(head);
            let network = Network::of(&config);
            let mut used = vec![
                Role::Word,
                Role::Position,
                Role::TokenType,
                Role::Query,
                Role::Key,
                Role::Value,
            ];
            let layers = network.groups.iter().flatten().flat_map(|layer| &layer.steps);
            for step in network.embed.iter().chain(layers).chain(&network.head) {
                match &step.op {
                    Op::LayerNorm { norm, .. } => used.push(*norm),
                    Op::Linear { weight, bias, .. } => used.extend([*weight, *bias]),
                    Op::AddVector { vector, .. } => used.push(*vector),
                    Op::Embed
                    | Op::Attention { .. }
                    | Op::Pool { .. }
                    | Op::Concat { .. }
                    | Op::Normalize { .. }
                    | Op::Column { .. }
                    | Op::Choices { .. } => {}
                }
            }
            let mut there: Vec<Role> = config.weights().iter().map(|w| w.role).collect();
            for list in [&mut used, &mut there] {
                list.sort();
                list.dedup();
            }
            assert_eq!(used, there, "{head:?}");
        }
    }
}
