//! What stands in a folder: names in order, what a file is by its bytes, which files hold weights.

use super::map::Mapped;
use super::spelling::WORD_TABLE;
use crate::models::file_names::WEIGHTS;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use thimble_shared::file_kind::FileKind;

/// Where a checkpoint's parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The folder everything stands in.
    pub dir: PathBuf,
    pub config: PathBuf,
    pub weights: Vec<PathBuf>,
    /// For sharded checkpoints, the tensor names the index promises.
    pub promised: Option<BTreeSet<String>>,
    pub notes: Vec<String>,
}

/// Lists of weights in several files.
pub const SHARDED: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];

/// Files that trainers leave beside the weights and that are none.
const NO_WEIGHTS: [&str; 8] = [
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "training_args",
    "trainer_state",
    "adapter_model",
];

/// Files that are looked into for weights.
const MAX_LOOKED_AT: usize = 256;

/// How far into a file its tensors' names are searched; descriptions come before numbers.
const NAMES_WITHIN: usize = 8 << 20;

/// Most names an error lists.
const MOST_NAMES: usize = 6;

/// The last part of a path, for messages.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The names of a folder's entries in order.
pub fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Whether a path is a link to nothing.
pub fn is_dangling(path: &Path) -> bool {
    path.is_symlink() && !path.exists()
}

/// What the file at `path` is; none where it cannot be looked at, which whoever opens it will say.
pub fn kind_of(path: &Path) -> Option<FileKind> {
    Some(FileKind::of(Mapped::open(path).ok()?.bytes()))
}

/// Whether a folder holds weights: under one of the names that checkpoints have, or by their content.
pub fn holds_weights(dir: &Path) -> bool {
    let usual = WEIGHTS.iter().chain(&SHARDED).any(|name| dir.join(name).is_file());
    usual || weight_files(dir).iter().any(|path| names_an_albert(path))
}

/// The files of a folder that could hold weights, by name.
pub fn weight_files(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file() && !NO_WEIGHTS.iter().any(|name| name_of(path).starts_with(name)))
        .take(MAX_LOOKED_AT)
        .collect();
    paths.sort();
    paths
}

/// Whether a file of weights has the part every ALBERT has, be it as a module: folders hold inputs and other models' tensors too.
pub fn names_an_albert(path: &Path) -> bool {
    let word = WORD_TABLE.as_bytes();
    let Ok(file) = Mapped::open(path) else { return false };
    let weights = [FileKind::Safetensors, FileKind::Torch, FileKind::TorchLegacy];
    let head = &file.bytes()[..file.bytes().len().min(NAMES_WITHIN)];
    weights.contains(&FileKind::of(file.bytes())) && head.windows(word.len()).any(|w| w == word)
}

/// Names for an error, at most a few.
pub fn listed(names: &[String]) -> String {
    let shown = names.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Whether two files hold the same bytes.
pub fn same_bytes(one: &Path, other: &Path) -> bool {
    match (Mapped::open(one), Mapped::open(other)) {
        (Ok(one), Ok(other)) => one.bytes() == other.bytes(),
        _ => false,
    }
}
