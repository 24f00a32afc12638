//! The names of Google's models in TensorFlow, turned into Hugging Face's. In comes a variable's name, out comes the name that
//! transformers' own conversion gives it and whether its matrix is transposed, or the word that it is no weight.
//! What is replaced stands in the family's row.

use std::collections::HashSet;
use thimble_shared::model::FamilyRow;

/// Parts of a name that only optimizers write.
const OPTIMIZER: [&str; 7] = [
    "adam_m",
    "adam_v",
    "lamb_m",
    "lamb_v",
    "AdamWeightDecayOptimizer",
    "AdamWeightDecayOptimizer_1",
    "global_step",
];

/// Where one of Hugging Face's tensors comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    pub name: String,
    /// TensorFlow multiplies by `[in, out]`, Hugging Face stores `[out, in]`.
    pub transposed: bool,
}

/// Whether a variable belongs to the training, not to the model: a slot, which stands below the name of the variable it belongs
/// to, or a scalar such as the step.
pub fn is_of_training(name: &str, shape: &[usize], all: &HashSet<&str>) -> bool {
    let below = name.match_indices('/').any(|(at, _)| all.contains(&name[..at]));
    shape.is_empty() || below || name.split('/').any(|part| OPTIMIZER.contains(&part))
}

/// Hugging Face's name of a variable.
pub fn convert(variable: &str, family: &FamilyRow) -> Converted {
    let replaced = family.names.tensorflow;
    let mut name = replaced
        .iter()
        .fold(variable.to_string(), |name, (from, to)| name.replace(from, to));
    // The classifier of Google's fine-tuning scripts stands outside every scope.
    if !name.contains('/') && (name.contains("output_bias") || name.contains("output_weights")) {
        name = format!("classifier/{name}");
    }
    name = name.replace("seq_relationship/output_", "sop_classifier/classifier/output_");
    // transformers' conversion puts SQuAD's layer into `classifier`, which its class for it does not have: that is `qa_outputs`.
    name = name.replace("squad/output_", "qa_outputs/output_");
    let mut parts: Vec<&str> = name.split('/').filter(|part| *part != "cls").collect();
    let last = parts.pop().unwrap_or_default();
    let parameter = match last {
        "kernel" | "gamma" | "output_weights" => Some("weight"),
        "beta" | "output_bias" => Some("bias"),
        _ => None,
    };
    parts.push(parameter.unwrap_or(last));
    if last.ends_with("_embeddings") {
        parts.push("weight");
    }
    Converted {
        name: parts.join("."),
        transposed: last == "kernel",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_shared::model::ModelFamily;

    // One row a variable of Google's checkpoints, so it is not cut into parts.
    #[test]
    fn names_become_those_of_transformers_conversion() {
        let layer = "albert.encoder.albert_layer_groups.0.albert_layers.0";
        let inner = "bert/encoder/transformer/group_0/inner_group_0";
        let cases = [
            (
                "bert/embeddings/word_embeddings",
                "albert.embeddings.word_embeddings.weight".to_string(),
                false,
            ),
            (
                "module/bert/embeddings/LayerNorm/gamma",
                "albert.embeddings.LayerNorm.weight".into(),
                false,
            ),
            (
                "bert/encoder/embedding_hidden_mapping_in/kernel",
                "albert.encoder.embedding_hidden_mapping_in.weight".into(),
                true,
            ),
            (
                &format!("{inner}/attention_1/self/query/kernel"),
                format!("{layer}.attention.query.weight"),
                true,
            ),
            (
                &format!("{inner}/attention_1/self/value/bias"),
                format!("{layer}.attention.value.bias"),
                false,
            ),
            (
                &format!("{inner}/attention_1/output/dense/kernel"),
                format!("{layer}.attention.dense.weight"),
                true,
            ),
            (
                &format!("{inner}/LayerNorm/beta"),
                format!("{layer}.attention.LayerNorm.bias"),
                false,
            ),
            (
                &format!("{inner}/LayerNorm_1/gamma"),
                format!("{layer}.full_layer_layer_norm.weight"),
                false,
            ),
            (
                &format!("{inner}/ffn_1/intermediate/dense/kernel"),
                format!("{layer}.ffn.weight"),
                true,
            ),
            (
                &format!("{inner}/ffn_1/intermediate/output/dense/bias"),
                format!("{layer}.ffn_output.bias"),
                false,
            ),
            (
                "bert/encoder/transformer/group_11/inner_group_3/ffn_1/intermediate/dense/bias",
                "albert.encoder.albert_layer_groups.11.albert_layers.3.ffn.bias".into(),
                false,
            ),
            ("bert/pooler/dense/kernel", "albert.pooler.weight".into(), true),
            ("cls/predictions/output_bias", "predictions.bias".into(), false),
            (
                "cls/predictions/transform/dense/kernel",
                "predictions.dense.weight".into(),
                true,
            ),
            (
                "cls/predictions/transform/LayerNorm/gamma",
                "predictions.LayerNorm.weight".into(),
                false,
            ),
            (
                "cls/seq_relationship/output_weights",
                "sop_classifier.classifier.weight".into(),
                false,
            ),
            (
                "cls/seq_relationship/output_bias",
                "sop_classifier.classifier.bias".into(),
                false,
            ),
            ("output_weights", "classifier.weight".into(), false),
            ("output_bias", "classifier.bias".into(), false),
            ("cls/squad/output_weights", "qa_outputs.weight".into(), false),
        ];
        for (variable, name, transposed) in cases {
            assert_eq!(
                convert(variable, ModelFamily::Albert.row()),
                Converted { name, transposed },
                "{variable}"
            );
        }
    }

    #[test]
    fn what_an_optimizer_keeps_is_told_from_weights() {
        let all = HashSet::from(["bert/pooler/dense/kernel", "output_bias"]);
        for (name, shape, want) in [
            ("bert/pooler/dense/kernel", vec![2, 2], false),
            ("bert/pooler/dense/kernel/adam_m", vec![2, 2], true),
            ("bert/pooler/dense/kernel/ExponentialMovingAverage", vec![2, 2], true),
            ("bert/pooler/dense/bias/lamb_v", vec![2], true),
            ("output_bias/Momentum", vec![2], true),
            ("output_bias_2", vec![2], false),
            ("beta1_power", vec![], true),
            ("global_step", vec![1], true),
        ] {
            assert_eq!(is_of_training(name, &shape, &all), want, "{name}");
        }
    }
}
