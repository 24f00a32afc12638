//! Sentence embeddings, as sentence-transformers computes them: the tokens' hidden states pooled in one or more ways side by
//! side, then dense layers, then perhaps a length of 1.

use super::{AnswerKind, ClassName, HeadRow};
use crate::model::config::Config;
use crate::model::network::{Extent, HIDDEN, HIDDEN_STATES, HeadSteps, Op, Value};
use crate::model::sentence::{MOST_DENSE, Pooling};
use crate::model::weight::{Role, WeightList};

pub(super) const ROW: HeadRow = HeadRow {
    name: "sentence embedding",
    flag: ("sentence", "Sentence embedding"),
    class: ClassName::Own("SentenceTransformer"),
    answer: AnswerKind::Embedding,
    answered_by: OUTPUT,
    needs_pooler: false,
    has_decoder: false,
    has_labels: false,
    takes_choices: false,
    gives_hidden: true,
    told_by: &[],
    modules: &[],
    weights,
    steps,
};

/// The output's name in ONNX files of sentence-transformers and Optimum.
pub const OUTPUT: Value = "sentence_embedding";

/// The weight of each dense layer, its value before the activation, and its value.
const DENSE: [(Role, Value, Value); MOST_DENSE] = [
    (Role::Head("dense"), "dense_map", "dense_out"),
    (Role::Head("dense2"), "dense2_map", "dense2_out"),
    (Role::Head("dense3"), "dense3_map", "dense3_out"),
    (Role::Head("dense4"), "dense4_map", "dense4_out"),
];

/// The weight of the dense layer `number`, from 0.
pub fn dense_weight(number: usize) -> Option<Role> {
    DENSE.get(number).map(|(role, ..)| *role)
}

fn weights(config: &Config, list: &mut WeightList) {
    let Some(sentence) = &config.sentence else { return };
    if config.hidden_shift {
        list.vector(Role::HiddenShift, config.hidden_size);
    }
    let mut size = config.hidden_size.saturating_mul(sentence.pooling.len());
    for (dense, (role, ..)) in sentence.dense.iter().zip(DENSE) {
        list.linear(role, dense.size, size);
        size = dense.size;
    }
}

fn steps(config: &Config, head: &mut HeadSteps) {
    let Some(sentence) = &config.sentence else { return };
    let mut hidden = HIDDEN;
    if config.hidden_shift {
        let (input, vector) = (HIDDEN, Role::HiddenShift);
        hidden = head.step(Op::AddVector { input, vector }, HIDDEN_STATES);
    }
    // The value of the step that ends the head is the output.
    let several = sentence.pooling.len() > 1;
    let mut left = usize::from(several) + sentence.dense.len() + usize::from(sentence.normalize);
    let name = |own: Value, left: usize| if left == 0 { OUTPUT } else { own };
    let mut inputs = vec![];
    for &pooling in &sentence.pooling {
        let own = match pooling {
            Pooling::First => "pool_first",
            Pooling::Last => "pool_last",
            Pooling::Max => "pool_max",
            Pooling::Mean => "pool_mean",
            Pooling::MeanSqrtLen => "pool_mean_sqrt_len",
            Pooling::WeightedMean => "pool_weighted_mean",
        };
        inputs.push(head.step(Op::Pool { input: hidden, pooling }, name(own, left)));
    }
    let mut value = inputs.first().copied().unwrap_or(hidden);
    if several {
        left -= 1;
        value = head.step(Op::Concat { inputs }, name("pooled", left));
    }
    for (layer, (role, before, own)) in sentence.dense.iter().zip(DENSE) {
        left = left.saturating_sub(1);
        let op = Op::Linear {
            weight: role,
            bias: role,
            input: value,
            activation: layer.activation.map(|activation| (activation, before)),
        };
        value = head.step(op, name(own, left));
    }
    if sentence.normalize {
        value = head.step(Op::Normalize { input: value }, OUTPUT);
    }
    head.output(value, Extent::Row(sentence.size(config.hidden_size)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Head;
    use crate::model::config::tests::tiny;
    use crate::model::network::Network;
    use crate::model::sentence::{Dense, Sentence};

    #[test]
    fn the_last_step_makes_the_output() {
        let dense = Dense {
            size: 5,
            activation: None,
        };
        let cases: [(&[Pooling], usize, bool, usize); 5] = [
            (&[Pooling::Mean], 0, false, 24),
            (&[Pooling::Mean, Pooling::Last], 0, false, 48),
            (&[Pooling::Max], 0, true, 24),
            (&[Pooling::First], 2, false, 5),
            (&[Pooling::First, Pooling::Mean], 1, true, 5),
        ];
        for (pooling, count, normalize, size) in cases {
            let sentence = Sentence {
                pooling: pooling.to_vec(),
                dense: vec![dense; count],
                normalize,
                ..Sentence::pooled(Pooling::Mean)
            };
            let config = Config {
                sentence: Some(sentence.clone()),
                ..tiny(Head::SentenceEmbedding)
            };
            config.check().unwrap();
            let network = Network::of(&config);
            let made = network.head.iter().filter(|step| step.output == OUTPUT).count();
            assert_eq!(made, 1, "{sentence}");
            assert_eq!(network.head.last().unwrap().output, OUTPUT, "{sentence}");
            assert_eq!(network.outputs[0].extent, Extent::Row(size), "{sentence}");
        }
    }
}
