//! What to do with a folder that holds no model's weights: the end of an error.

use super::foreign;
use super::listing::{is_dangling, kind_of, listed, name_of, names_in, weight_files};
use std::path::Path;
use thimble_shared::file_kind::FileKind;

/// What a link is whose file is missing: in the hub's cache, one that was never downloaded or was cleaned away.
pub const DANGLING: &str = "it is a link to a file that is not there; fetch it again";

/// What a Trainer's checkpoints begin with.
const STEP: &str = "checkpoint-";

/// What a Trainer writes beside a model.
const OF_TRAINERS: [&str; 7] = [
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scaler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "training_args.bin",
];

/// What else a folder without weights holds, and what to do then: the end of an error.
pub fn without_weights(dir: &Path) -> String {
    if foreign::advice_for_folder(dir).is_some() {
        return without_a_model(dir);
    }
    let stranger = weight_files(dir).into_iter().find_map(|path| {
        let kind = kind_of(&path).filter(FileKind::was_meant_as_weights)?;
        Some(format!("; {} is {kind}", name_of(&path)))
    });
    stranger.unwrap_or_else(|| without_a_model(dir))
}

/// What else a folder without a model's weights holds, and what to do then: the end of an error.
pub fn without_a_model(dir: &Path) -> String {
    if let Some(advice) = foreign::advice_for_folder(dir) {
        return format!("; {advice}");
    }
    let names = names_in(dir);
    if let Some(name) = names.iter().find(|name| is_dangling(&dir.join(name))) {
        return format!("; of {name}: {DANGLING}");
    }
    let mut steps: Vec<(u64, &String)> = names
        .iter()
        .filter_map(|name| Some((name.strip_prefix(STEP)?.parse().ok()?, name)))
        .filter(|(_, name)| dir.join(name).is_dir())
        .collect();
    steps.sort();
    if let Some((_, newest)) = steps.last() {
        let count = match steps.len() {
            1 => "a Trainer's checkpoint".to_string(),
            n => format!("the newest of {n} checkpoints of a Trainer"),
        };
        let path = dir.join(newest);
        return format!("; {newest} is {count}: name {} to take it", path.display());
    }
    let of_trainers: Vec<String> = OF_TRAINERS
        .iter()
        .filter(|name| names.iter().any(|n| n == *name))
        .map(|name| name.to_string())
        .collect();
    if !of_trainers.is_empty() {
        return format!(
            "; only a Trainer's state for resuming is there ({}), the model is missing: trainer.save_model(DIR) writes it",
            listed(&of_trainers)
        );
    }
    let weights: Vec<&String> = names
        .iter()
        .filter(|n| {
            [".safetensors", ".bin", ".pt", ".pth"]
                .iter()
                .any(|end| n.ends_with(end))
        })
        .collect();
    if let Some(name) = weights.first() {
        return format!("; {name} is there: name the file itself if it is the model");
    }
    match names.as_slice() {
        [] => "; the folder is empty".into(),
        names => format!("; there is only {}", listed(names)),
    }
}
