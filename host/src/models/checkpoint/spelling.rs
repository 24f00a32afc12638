//! How others spell the names of tensors: wrappers put parts before and between them, TensorFlow called the parameters
//! of a norm otherwise, and other implementations have names of their own for the same parts. In comes a stored name, out
//! comes transformers'.

use thimble_shared::model::{FamilyRow, Site};

/// What the module of the word embeddings is called in every family and implementation.
pub const WORD_TABLE: &str = "word_embeddings";

/// Modules that wrap others: DataParallel, torch.compile, DeepSpeed and FSDP, whose names stand wherever they wrap.
const WRAPPERS: [&str; 5] = [
    "module",
    "_orig_mod",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// A name without the wrappers in it. The last part is a tensor's own, whatever it is called.
pub fn unwrapped(stored: &str) -> String {
    let Some((modules, tensor)) = stored.rsplit_once('.') else {
        return stored.to_string();
    };
    let kept = modules.split('.').filter(|part| !WRAPPERS.contains(part));
    kept.chain([tensor]).collect::<Vec<_>>().join(".")
}

/// The name that the bare model has for a tensor of a class of transformers' own.
pub fn canonical(stored: &str, family: &FamilyRow) -> String {
    let name = unwrapped(stored);
    transformers(name.strip_prefix(family.names.prefix).unwrap_or(&name), family).0
}

/// A name that begins where the model or a head begins, as transformers spells it; and whether its words were another
/// implementation's.
pub fn transformers(name: &str, family: &FamilyRow) -> (String, bool) {
    let names = &family.names;
    let first_layer = format!("{}.", family.layer(Site { group: 0, inner: 0 }));
    let mut name = name.to_string();
    // TensorFlow's spelling of LayerNorm's parameters, kept by the first PyTorch ports.
    for (old, new) in [(".gamma", ".weight"), (".beta", ".bias")] {
        if let Some(base) = name.strip_suffix(old)
            && (base.ends_with("LayerNorm") || base.ends_with("layer_norm"))
        {
            name = format!("{base}{new}");
        }
    }
    let mut other = false;
    let only_layer = names
        .only_layer
        .and_then(|layer| name.strip_prefix(layer)?.strip_prefix('.'));
    if let Some(rest) = only_layer {
        name = format!("{first_layer}{rest}");
        other = true;
    }
    let (start, parts) = match name.strip_prefix(&first_layer) {
        Some(_) => (first_layer.len(), names.respelled_in_layer),
        None => (0, names.respelled),
    };
    let respelled = name[start..].rsplit_once('.').and_then(|(base, parameter)| {
        let (_, new) = parts.iter().find(|(old, _)| *old == base)?;
        Some(format!("{}{new}.{parameter}", &name[..start]))
    });
    match respelled {
        Some(new) => (new, true),
        None => (name, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_shared::model::ModelFamily;

    #[test]
    fn wrappers_and_other_words_become_transformers_names() {
        let layer = "encoder.albert_layer_groups.0.albert_layers.0.";
        let cases = [
            ("module.embeddings.x", "embeddings.x".to_string()),
            ("_orig_mod.module.pooler.weight", "pooler.weight".into()),
            ("a._orig_mod.b._fsdp_wrapped_module.c", "a.b.c".into()),
            ("my_module.x", "my_module.x".into()),
            ("x.module", "x.module".into()),
            ("pooler..weight", "pooler..weight".into()),
            (".x", ".x".into()),
            ("embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight".into()),
            ("predictions.LayerNorm.beta", "predictions.LayerNorm.bias".into()),
            ("head.gamma", "head.gamma".into()),
            (
                "encoder.layer_shared.attention.self.query.bias",
                format!("{layer}attention.query.bias"),
            ),
            (
                "encoder.layer_shared.output.LayerNorm.gamma",
                format!("{layer}full_layer_layer_norm.weight"),
            ),
            ("encoder.layer_shared.ffn.weight", format!("{layer}ffn.weight")),
            ("pooler.dense.bias", "pooler.bias".into()),
            ("cls.predictions.bias", "predictions.bias".into()),
            ("cls.seq_relationship.weight", "sop_classifier.classifier.weight".into()),
        ];
        for (stored, want) in cases {
            assert_eq!(transformers(&unwrapped(stored), ModelFamily::Albert.row()).0, want);
        }
    }
}
