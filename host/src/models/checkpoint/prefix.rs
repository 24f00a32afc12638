//! Where in a file's names the model begins: wrappers and classes of one's own put it behind a prefix, and heads beside it. In
//! come stored names, out come the prefix that all of the model's share, and the part of a name behind it.

use super::SourceError;
use super::raw::RawTensor;
use super::spelling::unwrapped;
use std::collections::BTreeMap;
use thimble_shared::model::{FamilyRow, Role};

/// Parts of the model itself.
pub const MODEL_PARTS: [&str; 3] = ["embeddings", "encoder", "pooler"];

/// What stands before the model's names: as the file has it, and without wrappers. Word embeddings tell it, since every
/// model has them; where there are several models, a map that only the family has.
pub fn prefix(raw: &[RawTensor], family: &FamilyRow) -> Result<(String, String), SourceError> {
    let before = |mark: &str| -> BTreeMap<String, String> {
        let pair = |t: &RawTensor| {
            let name = unwrapped(&t.name);
            let model = name.strip_suffix(mark).filter(|p| p.is_empty() || p.ends_with('.'))?;
            // A wrapper inside the mark leaves nothing that could be shown instead.
            let as_stored = t.name.strip_suffix(mark).unwrap_or(model);
            Some((model.to_string(), as_stored.to_string()))
        };
        raw.iter().filter_map(pair).collect()
    };
    let (words, mappings) = (
        before(&family.weight(Role::Word, None)),
        family
            .names
            .mark
            .map(|map| before(&family.weight(map, None)))
            .unwrap_or_default(),
    );
    let mut found: Vec<(&String, &String)> = words.iter().filter(|(p, _)| mappings.contains_key(*p)).collect();
    if found.is_empty() {
        found.extend(mappings.iter().chain(&words));
    }
    match found.as_slice() {
        [(a, _), (b, _), ..] if a != b => Err(SourceError::Format {
            path: raw.first().map(|t| t.path.to_path_buf()).unwrap_or_default(),
            problem: format!(
                "it holds several {}s, whose names begin with '{a}' and '{b}'; save the one that is meant alone",
                family.name
            ),
        }),
        [(model, as_stored), ..] => Ok((as_stored.to_string(), model.to_string())),
        [] => {
            let usual = raw.iter().any(|t| unwrapped(&t.name).starts_with(family.names.prefix));
            let prefix = if usual { family.names.prefix } else { "" };
            Ok((prefix.into(), prefix.into()))
        }
    }
}

/// The part of `name` that is the model's or a head's, where the model's names begin with `model`. Heads lie within the model
/// or beside any of the modules it lies in.
/// `optional` are the parts that not every head reads.
pub fn part<'n>(name: &'n str, model: &str, optional: &[String]) -> Option<&'n str> {
    let first = |rest: &str| rest.split('.').next().unwrap_or_default().to_string();
    let is_head = |part: &str| part == "cls" || (!MODEL_PARTS.contains(&part) && optional.iter().any(|o| o == part));
    if let Some(rest) = name.strip_prefix(model) {
        let part = first(rest);
        if MODEL_PARTS.contains(&part.as_str()) || is_head(&part) {
            return Some(rest);
        }
    }
    let mut outer = model.trim_end_matches('.');
    while !outer.is_empty() {
        outer = outer.rsplit_once('.').map_or("", |(shorter, _)| shorter);
        let dot = usize::from(!outer.is_empty());
        let rest = name.strip_prefix(&model[..outer.len() + dot]);
        if let Some(rest) = rest.filter(|rest| is_head(&first(rest))) {
            return Some(rest);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_shared::model::ModelFamily;

    #[test]
    fn heads_are_found_beside_the_modules_the_model_lies_in() {
        let cases = [
            ("albert.pooler.weight", "albert.", Some("pooler.weight")),
            ("classifier.weight", "albert.", Some("classifier.weight")),
            ("model.classifier.weight", "model.albert.", Some("classifier.weight")),
            ("classifier.weight", "encoder.albert.", Some("classifier.weight")),
            ("encoder.classifier.weight", "encoder.", Some("classifier.weight")),
            ("encoder.encoder.x", "encoder.", Some("encoder.x")),
            ("encoder.x", "", Some("encoder.x")),
            ("encoder.x", "bert.", None),
            ("mask_predictor.weight", "encoder.", None),
            ("pooler.weight", "bert.", None),
            ("lstm.classifier.weight", "bert.", None),
        ];
        let optional = ModelFamily::Albert.row().optional_parts();
        for (name, model, want) in cases {
            assert_eq!(part(name, model, &optional), want, "{name} under {model}");
        }
    }
}
