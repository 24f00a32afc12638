//! How others spell the names of ALBERT's tensors: wrappers put parts before and between them, TensorFlow called the parameters
//! of a norm otherwise, and other implementations have names of their own for the same parts. In comes a stored name, out
//! comes transformers'.

/// Modules that wrap others: DataParallel, torch.compile, DeepSpeed and FSDP, whose names stand wherever they wrap.
const WRAPPERS: [&str; 5] = [
    "module",
    "_orig_mod",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// Parts of one layer in BERT's words, as lonepatient's albert_pytorch and its descendants have them, and in transformers'.
const LAYER_PARTS: [(&str, &str); 11] = [
    ("attention.self.query", "attention.query"),
    ("attention.self.key", "attention.key"),
    ("attention.self.value", "attention.value"),
    ("attention.self.dense", "attention.dense"),
    ("attention.output.dense", "attention.dense"),
    ("attention.self.LayerNorm", "attention.LayerNorm"),
    ("attention.output.LayerNorm", "attention.LayerNorm"),
    ("intermediate.dense", "ffn"),
    ("output.dense", "ffn_output"),
    ("output.LayerNorm", "full_layer_layer_norm"),
    ("ffn.dense", "ffn"),
];
/// The same for what lies outside the layers.
const OTHER_PARTS: [(&str, &str); 6] = [
    ("pooler.dense", "pooler"),
    ("cls.predictions.transform.dense", "predictions.dense"),
    ("cls.predictions.transform.LayerNorm", "predictions.LayerNorm"),
    ("cls.predictions.decoder", "predictions.decoder"),
    ("cls.predictions", "predictions"),
    ("cls.seq_relationship", "sop_classifier.classifier"),
];
/// The one shared layer of such an implementation.
const SHARED_LAYER: &str = "encoder.layer_shared.";
const FIRST_LAYER: &str = "encoder.albert_layer_groups.0.albert_layers.0.";

/// A name without the wrappers in it. The last part is a tensor's own, whatever it is called.
pub fn unwrapped(stored: &str) -> String {
    let Some((modules, tensor)) = stored.rsplit_once('.') else {
        return stored.to_string();
    };
    let kept = modules.split('.').filter(|part| !WRAPPERS.contains(part));
    kept.chain([tensor]).collect::<Vec<_>>().join(".")
}

/// The name that the bare `AlbertModel` has for a tensor of a class of transformers' own.
pub fn canonical(stored: &str) -> String {
    let name = unwrapped(stored);
    transformers(name.strip_prefix("albert.").unwrap_or(&name)).0
}

/// A name that begins where the model or a head begins, as transformers spells it; and whether its words were another
/// implementation's.
pub fn transformers(name: &str) -> (String, bool) {
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
    if let Some(rest) = name.strip_prefix(SHARED_LAYER) {
        name = format!("{FIRST_LAYER}{rest}");
        other = true;
    }
    let (start, parts) = match name.strip_prefix(FIRST_LAYER) {
        Some(_) => (FIRST_LAYER.len(), &LAYER_PARTS[..]),
        None => (0, &OTHER_PARTS[..]),
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
            assert_eq!(transformers(&unwrapped(stored)).0, want);
        }
    }
}
