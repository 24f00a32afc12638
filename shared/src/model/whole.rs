//! A model as a whole, encoder and head together: its weights, its network, and what must hold of its configuration. The parts
//! stand in `config`, `weight`, `network`, `family` and `head`, and none of them reads this file.

use super::attention::AttentionArithmetic;
use super::config::{Config, ConfigError};
use super::head::AnswerKind;
use super::network::{HeadSteps, Network};
use super::sentence::Sentence;
use super::weight::{Role, Site, WeightList, WeightSpec};
use crate::dtype::{I4_BLOCK, I8_INPUTS};

/// The largest value any size field may take: keeps every product of two within u64 and refuses absurd files early.
const MAX_DIM: usize = 1 << 24;
const MAX_LAYERS: usize = 1024;

/// Whether a weight fits `most` bytes in every format, padding included. On a 32-bit board a product that wraps would make
/// a huge table look like a small one whose bytes are all there.
fn addressable(shape: &[usize], most: u64) -> bool {
    // No format pads a dimension by more than an int4 block, and none takes more than four bytes a number.
    let padded = |&n: &usize| (n as u64).checked_next_multiple_of(I4_BLOCK as u64);
    let bytes = shape.iter().try_fold(4u64, |bytes, n| bytes.checked_mul(padded(n)?));
    bytes.is_some_and(|bytes| bytes <= most)
}

/// The error of a field that does not hold.
fn bad(field: &'static str, problem: String) -> Result<(), ConfigError> {
    Err(ConfigError { field, problem })
}

impl Config {
    /// Every weight of the model, in the order files store them.
    pub fn weights(&self) -> Vec<WeightSpec> {
        let (mut list, family) = (WeightList::default(), self.family.row());
        (family.embedding_weights)(&mut list, self);
        for site in Site::all(self) {
            list.at(Some(site));
            (family.layer_weights)(&mut list, self);
        }
        list.at(None);
        if self.pooler {
            list.linear(Role::Pooler, self.hidden_size, self.hidden_size);
        }
        (self.head.row().weights)(self, &mut list);
        list.done()
    }

    /// Everything that must hold before shapes are derived from the fields.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_sizes()?;
        self.check_encoder()?;
        self.check_head()?;
        for weight in self.weights() {
            if !addressable(&weight.shape, isize::MAX as u64) {
                return bad(
                    "weights",
                    format!(
                        "{} {:?} is larger than this machine can address",
                        weight.name, weight.shape
                    ),
                );
            }
        }
        Ok(())
    }

    /// Whether the outputs are values rather than decisions: a sequence classifier whose loss is the squared error, as
    /// transformers chooses it for `problem_type` regression and for one label without `problem_type`.
    pub fn predicts_values(&self) -> bool {
        self.head.answer() == AnswerKind::Labels && (self.regression || (self.labels.len() == 1 && !self.multi_label))
    }

    /// The version of the `thimble.graph` text that brought what this network has.
    pub fn since(&self) -> u32 {
        let own = match (&self.sentence, self.hidden_shift) {
            (Some(_), _) => Sentence::SINCE,
            (None, true) => 2,
            (None, false) => 1,
        };
        own.max(self.family.row().since).max(self.attention.since())
    }

    /// Each size by itself.
    fn check_sizes(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("vocab_size", self.vocab_size, MAX_DIM),
            ("embedding_size", self.embedding_size, MAX_DIM),
            ("hidden_size", self.hidden_size, MAX_DIM),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_hidden_groups", self.num_hidden_groups, MAX_LAYERS),
            ("inner_group_num", self.inner_group_num, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_DIM),
            ("intermediate_size", self.intermediate_size, MAX_DIM),
            ("max_position_embeddings", self.max_position_embeddings, MAX_DIM),
            ("type_vocab_size", self.type_vocab_size, MAX_DIM),
        ];
        for (field, value, max) in sizes {
            if value == 0 || value > max {
                return bad(field, format!("is {value}, must be 1 to {max}"));
            }
        }
        Ok(())
    }

    /// What layers, groups and attention heads ask of each other.
    fn check_encoder(&self) -> Result<(), ConfigError> {
        let steps = self.num_hidden_layers.saturating_mul(self.inner_group_num);
        if steps > MAX_LAYERS {
            return bad(
                "inner_group_num",
                format!("{steps} layers in all, at most {MAX_LAYERS} are built"),
            );
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return bad(
                "num_attention_heads",
                format!(
                    "{} does not divide hidden_size {}",
                    self.num_attention_heads, self.hidden_size
                ),
            );
        }
        if self.num_hidden_groups > self.num_hidden_layers {
            return bad(
                "num_hidden_groups",
                format!(
                    "{} groups for {} layers leave some unused",
                    self.num_hidden_groups, self.num_hidden_layers
                ),
            );
        }
        let family = self.family.row();
        if family.defaults.embedding_size.is_none() && self.embedding_size != self.hidden_size {
            return bad(
                "embedding_size",
                format!(
                    "is {}, must be hidden_size {} in {}",
                    self.embedding_size, self.hidden_size, family.name
                ),
            );
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0) {
            return bad(
                "layer_norm_eps",
                format!("is {}, must be finite and not negative", self.layer_norm_eps),
            );
        }
        self.check_attention()
    }

    /// That int8 sums over a head's width, and over all tokens, fit int32.
    fn check_attention(&self) -> Result<(), ConfigError> {
        let most = self.head_size().max(self.max_position_embeddings);
        match self.attention {
            AttentionArithmetic::Int8 if most > I8_INPUTS => bad(
                "attention",
                format!("int8 sums hold {I8_INPUTS} products, and a head or a sequence has {most}; use f32"),
            ),
            AttentionArithmetic::Int8 | AttentionArithmetic::F32 => Ok(()),
        }
    }

    /// What goes with the head and what does not.
    fn check_head(&self) -> Result<(), ConfigError> {
        if self.head.needs_pooler() && !self.pooler {
            return bad("pooler", format!("the {} head needs it", self.head.name()));
        }
        if self.tied_decoder && !self.head.has_decoder() {
            return bad("tied_decoder", format!("the {} head has no decoder", self.head.name()));
        }
        if self.hidden_shift && !self.head.row().gives_hidden {
            return bad(
                "hidden_shift",
                format!("the {} head gives no hidden states", self.head.name()),
            );
        }
        if self.head.row().has_labels == self.labels.is_empty() {
            return bad(
                "labels",
                format!("{} names for a {} head", self.labels.len(), self.head.name()),
            );
        }
        if self.sentence.is_some() != (self.head.answer() == AnswerKind::Embedding) {
            return bad("sentence", format!("does not go with the {} head", self.head.name()));
        }
        if let Some(problem) = self.sentence.as_ref().and_then(|sentence| sentence.problem(MAX_DIM)) {
            return bad("sentence", problem);
        }
        if self.regression && self.head.answer() != AnswerKind::Labels {
            return bad("regression", format!("the {} head has none", self.head.name()));
        }
        Ok(())
    }
}

impl Network {
    /// The network of a model.
    pub fn of(config: &Config) -> Network {
        let mut head = HeadSteps::default();
        (config.head.row().steps)(config, &mut head);
        let family = config.family.row();
        Network::with_head(config, (family.embed)(), &(family.layer)(config), head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Head;
    use crate::model::config::tests::tiny;

    #[test]
    fn a_weight_whose_bytes_wrap_is_not_a_small_one() {
        let board32 = i32::MAX as u64;
        let cases: [(&[usize], bool); 5] = [
            (&[30_000, 128], true),
            (&[65_536, 65_536], false),
            (&[1 << 15, 1 << 14], false),
            (&[MAX_DIM, MAX_DIM], false),
            (&[MAX_DIM], true),
        ];
        for (shape, fits) in cases {
            assert_eq!(addressable(shape, board32), fits, "{shape:?}");
        }
        assert!(addressable(&[MAX_DIM, MAX_DIM], i64::MAX as u64));
        assert!(!addressable(&[usize::MAX, 2], board32) && !addressable(&[usize::MAX; 3], i64::MAX as u64));
    }

    #[test]
    fn albert_base_has_its_published_parameter_count() {
        let config = Config {
            vocab_size: 30000,
            embedding_size: 128,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            pooler: true,
            ..tiny(Head::None)
        };
        assert_eq!(
            config.weights().iter().map(WeightSpec::elements).sum::<usize>(),
            11_683_584
        );
    }

    #[test]
    fn impossible_configs_are_refused_by_field() {
        type Spoil = fn(&mut Config);
        let cases: [(&str, Spoil); 6] = [
            ("inner_group_num", |c| c.inner_group_num = 1000),
            ("num_attention_heads", |c| c.num_attention_heads = 5),
            ("hidden_size", |c| c.hidden_size = usize::MAX),
            ("num_hidden_groups", |c| c.num_hidden_groups = 4),
            ("layer_norm_eps", |c| c.layer_norm_eps = f32::NAN),
            ("labels", |c| c.labels = vec!["x".into()]),
        ];
        for (field, spoil) in cases {
            let mut config = tiny(Head::MaskedLm);
            spoil(&mut config);
            assert_eq!(config.check().unwrap_err().field, field);
        }
    }
}
