//! Models of sentence-transformers: `modules.json` lists their parts, each in a folder of its own. In comes such a folder, out
//! come the folder of its transformer, how hidden states become an embedding, and the tensors of its dense layers.

use super::fields::Fields;
use super::map::Mapped;
use super::raw::{Dtype, RawTensor};
use super::{SourceError, json, tensors};
use crate::models::file_names::{CONFIG, TOKENIZER_CONFIG, WEIGHTS};
use crate::render::text::printable;
use serde_json::Value;
use std::path::{Path, PathBuf};
use thimble_shared::model::head::sentence::dense_weight;
use thimble_shared::model::sentence::{Dense, MOST_DENSE, MOST_PROMPT, Pooling, Sentence};
use thimble_shared::model::{Activation, Config};

/// Where the parts of a model are listed.
const MODULES: &str = "modules.json";
/// The folder of the transformer in the layout before version 2.
const OLD_TRANSFORMER: &str = "0_Transformer";
/// A classifier of SetFit's, a pickle of scikit-learn.
const SETFIT_HEAD: &str = "model_head.pkl";
/// What the types of its own parts begin with; others are code that comes with a model.
const NAMESPACE: &str = "sentence_transformers.";
/// Most parts of a model.
const MOST_PARTS: usize = 64;
/// Names an error or a note lists.
const MOST_NAMES: usize = 6;

/// Where a transformer's options stand; the second is what versions before 0.4 wrote for ALBERT.
const TEXTS: [&str; 2] = ["sentence_bert_config.json", "sentence_albert_config.json"];
/// Where prompts stand.
const PROMPTS: &str = "config_sentence_transformers.json";

/// The parts of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modules {
    root: PathBuf,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// The last word of its class where that is the library's own, else the whole.
    kind: String,
    folder: String,
}

impl Part {
    /// Whether it is one that transformers loads, of whatever head.
    fn is_transformer(&self) -> bool {
        self.kind.ends_with("Transformer")
    }

    /// The last word of its class.
    fn word(&self) -> &str {
        self.kind.rsplit('.').next().unwrap_or(&self.kind)
    }
}

impl Modules {
    /// The parts listed in a folder, or told by its folders in the old layout; none where it is no model of sentence-transformers.
    ///
    /// # Errors
    /// A list that is none, or one without a transformer.
    pub fn find(dir: &Path) -> Result<Option<Modules>, SourceError> {
        let list = dir.join(MODULES);
        let parts = if list.is_file() {
            listed(&list)?
        } else if dir.join(OLD_TRANSFORMER).is_dir() && !super::locate::has_weights(dir) {
            let mut names = super::listing::names_in(dir);
            names.retain(|name| name.starts_with(|c: char| c.is_ascii_digit()) && dir.join(name).is_dir());
            let part = |name: String| Part {
                kind: name.split_once('_').map_or(name.as_str(), |(_, kind)| kind).to_string(),
                folder: name,
            };
            names.into_iter().map(part).collect()
        } else {
            return Ok(None);
        };
        let modules = Modules {
            root: dir.to_path_buf(),
            parts,
        };
        if modules.parts.iter().any(Part::is_transformer) {
            return Ok(Some(modules));
        }
        Err(modules.without_transformer())
    }

    fn without_transformer(&self) -> SourceError {
        let router = self.parts.iter().find(|part| part.word() == "Router");
        let several = router.map_or(vec![], |part| routed(&self.root.join(&part.folder)));
        let problem = if several.is_empty() {
            let kinds: Vec<String> = self.parts.iter().map(|part| printable(&part.kind)).collect();
            format!(
                "it is a model of sentence-transformers whose modules are {}: none is a Transformer",
                named(&kinds)
            )
        } else {
            format!(
                "it is a router of sentence-transformers; name one of its transformers: {}",
                named(&several)
            )
        };
        refused(&self.root, problem)
    }

    /// The folder of the transformer.
    pub fn transformer(&self) -> PathBuf {
        match self.parts.iter().find(|part| part.is_transformer()) {
            Some(part) if !part.folder.is_empty() => self.root.join(&part.folder),
            _ => self.root.clone(),
        }
    }

    /// Whether hidden states are pooled: a CrossEncoder's and SPLADE's are not.
    pub fn pools(&self) -> bool {
        self.parts.iter().any(|part| part.word() == "Pooling")
    }

    /// What is read, for the user to read: the parts behind the transformer where they are `taken`.
    pub fn note(&self, taken: Option<&Embedding>) -> String {
        let transformer = self.parts.iter().find(|part| part.is_transformer());
        let folder = match transformer {
            Some(part) if !part.folder.is_empty() => &part.folder,
            _ => "this folder",
        };
        let others = self.parts.iter().filter(|part| !part.is_transformer());
        let mut left_out: Vec<&str> = match taken {
            Some(_) => vec![],
            None => others.map(Part::word).collect(),
        };
        if self.root.join(SETFIT_HEAD).is_file() {
            left_out.push("SetFit's classifier (model_head.pkl)");
        }
        let with = taken.map_or(String::new(), |embedding| format!(" with {}", embedding.sentence));
        format!(
            "a model of sentence-transformers: the transformer in {}{} is read, {} left out",
            printable(folder),
            printable(&with),
            match left_out.as_slice() {
                [] => "nothing is".to_string(),
                [only] => format!("{} is", printable(only)),
                several => format!("{} are", printable(&several.join(", "))),
            }
        )
    }

    /// How hidden states become the embedding.
    ///
    /// # Errors
    /// Parts that are not computed, by their names; options and weights that are none.
    pub fn embedding(&self) -> Result<Embedding, SourceError> {
        let list = self.root.join(MODULES);
        let bad = |problem: String| Err(refused(&list, problem));
        let mut embedding = Embedding::default();
        let mut pooled = false;
        for (at, part) in self.parts.iter().enumerate() {
            let folder = self.root.join(&part.folder);
            match part.kind.as_str() {
                "Transformer" if at == 0 => {}
                "Transformer" => return bad(format!("Transformer is module {at}, and must be the first")),
                "Pooling" if pooled => return bad("it has several Pooling modules".into()),
                "Pooling" => {
                    embedding.pool(&folder)?;
                    pooled = true;
                }
                // It is for training.
                "Dropout" => {}
                "Dense" | "Normalize" if !pooled => {
                    return bad(format!(
                        "{} stands before Pooling, and is computed behind it",
                        part.kind
                    ));
                }
                "Dense" if embedding.sentence.normalize => {
                    return bad("Dense stands behind Normalize, and is computed before it".into());
                }
                "Dense" => embedding.dense(&folder)?,
                "Normalize" => embedding.sentence.normalize = true,
                other => {
                    return bad(format!(
                        "module {} is none of Transformer, Pooling, Dense, Normalize, Dropout; --head none reads the transformer alone",
                        printable(other)
                    ));
                }
            }
        }
        let texts = Texts::read(&self.transformer(), &self.root)?;
        embedding.sentence.max_tokens = texts.max_tokens;
        embedding.sentence.prompt = texts.prompt;
        embedding.lower_case = texts.lower_case;
        embedding.files.extend(texts.files);
        embedding.notes.extend(texts.notes);
        if embedding.sentence.prompt.is_some() && !embedding.includes_prompt {
            return bad(
                "include_prompt is false, and every text has a prompt: its tokens cannot be left out of the pooling"
                    .into(),
            );
        }
        if list.is_file() {
            embedding.files.push(list);
        }
        Ok(embedding)
    }
}

/// How hidden states become an embedding, and what that needs.
#[derive(Debug)]
pub struct Embedding {
    pub sentence: Sentence,
    /// Whether texts are lower-cased, whatever the tokenizer does.
    pub lower_case: bool,
    pub notes: Vec<String>,
    /// The files its options were read from.
    pub files: Vec<PathBuf>,
    /// The hidden size its pooling was made for, and the file that says so.
    hidden: Option<(usize, PathBuf)>,
    includes_prompt: bool,
    layers: Vec<Layer>,
}

impl Default for Embedding {
    fn default() -> Embedding {
        Embedding {
            sentence: Sentence::pooled(Pooling::Mean),
            lower_case: false,
            notes: vec![],
            files: vec![],
            hidden: None,
            includes_prompt: true,
            layers: vec![],
        }
    }
}

/// A dense layer.
#[derive(Debug)]
struct Layer {
    config: PathBuf,
    inp: usize,
    out: usize,
    weights: Mapped,
    /// Bytes of the bias where the layer has none: zeros.
    no_bias: Option<Vec<u8>>,
}

/// The keys of a pooling's options before version 5.3, in the order its vectors have.
const POOLINGS: [(&str, Pooling); 6] = [
    ("pooling_mode_cls_token", Pooling::First),
    ("pooling_mode_max_tokens", Pooling::Max),
    ("pooling_mode_mean_tokens", Pooling::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", Pooling::WeightedMean),
    ("pooling_mode_lasttoken", Pooling::Last),
];

/// torch's activations that a dense layer may have; those of the library's own default first.
const ACTIVATIONS: [(&str, Option<Activation>); 5] = [
    ("activation.Tanh", Some(Activation::Tanh)),
    ("linear.Identity", None),
    ("activation.ReLU", Some(Activation::Relu)),
    ("activation.GELU", Some(Activation::Gelu)),
    ("activation.SiLU", Some(Activation::Silu)),
];

/// Torch's class for what follows a dense layer, if there is one.
pub fn class_of(activation: Option<Activation>) -> Option<String> {
    let (name, _) = ACTIVATIONS.iter().find(|(_, known)| *known == activation)?;
    Some(format!("torch.nn.modules.{name}"))
}

impl Embedding {
    fn pool(&mut self, folder: &Path) -> Result<(), SourceError> {
        let path = folder.join(CONFIG);
        let json = json::read(&path)?;
        let fields = Fields::of(&path, &json)?;
        let named = |value: &Value| {
            let name = value.as_str()?;
            Pooling::ALL.into_iter().find(|pooling| pooling.name() == name)
        };
        let modes = match fields.get("pooling_mode") {
            Some(Value::Array(list)) => list.iter().map(named).collect(),
            Some(one) => named(one).map(|one| vec![one]),
            None => {
                let chosen = |key: &str| Ok::<_, SourceError>(fields.flag(key)?.unwrap_or(false));
                let unknown = json.as_object().into_iter().flatten().find(|(key, value)| {
                    key.starts_with("pooling_mode_")
                        && **value == Value::Bool(true)
                        && !POOLINGS.iter().any(|(k, _)| k == key)
                });
                if let Some((key, _)) = unknown {
                    return fields.bad(&printable(key), "is a way of pooling that thimble does not compute");
                }
                let mut modes = vec![];
                for (key, pooling) in POOLINGS {
                    modes.extend(chosen(key)?.then_some(pooling));
                }
                if modes.is_empty() {
                    modes.push(Pooling::Mean);
                }
                Some(modes)
            }
        };
        let Some(modes) = modes else {
            return fields.bad(
                "pooling_mode",
                format!("must be of {}", Pooling::ALL.map(Pooling::name).join(", ")),
            );
        };
        let size = fields
            .size("embedding_dimension")?
            .or(fields.size("word_embedding_dimension")?);
        self.includes_prompt = fields.flag("include_prompt")?.unwrap_or(true);
        self.sentence.pooling = modes;
        if let Some(problem) = self.sentence.problem(usize::MAX) {
            return fields.bad("pooling_mode", problem);
        }
        self.hidden = size.map(|size| (size, path.clone()));
        self.files.push(path);
        Ok(())
    }

    fn dense(&mut self, folder: &Path) -> Result<(), SourceError> {
        let path = folder.join(CONFIG);
        let json = json::read(&path)?;
        let fields = Fields::of(&path, &json)?;
        if self.layers.len() == MOST_DENSE {
            return Err(refused(
                &path,
                format!("it is a dense layer more than {MOST_DENSE}, the most that are computed"),
            ));
        }
        for key in ["module_input_name", "module_output_name"] {
            if let Some(other) = fields.text(key)?.filter(|name| *name != "sentence_embedding") {
                return fields.bad(key, format!("is '{}', must be sentence_embedding", printable(other)));
            }
        }
        let needed = |key: &str| match fields.size(key)? {
            Some(size) => Ok(size),
            None => fields.bad(key, "is missing"),
        };
        let activation = match json.get("activation_function") {
            None => Some(ACTIVATIONS[0].1),
            Some(value) => {
                let name = value.as_str().and_then(|name| name.strip_prefix("torch.nn.modules."));
                name.and_then(|name| ACTIVATIONS.iter().find(|(known, _)| *known == name))
                    .map(|(_, a)| *a)
            }
        };
        let Some(activation) = activation else {
            let known = ACTIVATIONS.map(|(name, _)| name.rsplit('.').next().unwrap_or(name));
            return fields.bad(
                "activation_function",
                format!(
                    "is {}; torch's {} are computed",
                    printable(&json["activation_function"].to_string()),
                    known.join(", ")
                ),
            );
        };
        let (inp, out) = (needed("in_features")?, needed("out_features")?);
        let has_bias = fields.flag("bias")?.unwrap_or(true);
        let weights = WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        let Some(weights) = weights else {
            return Err(refused(
                folder,
                format!("it is a dense layer without {}", WEIGHTS.join(" or ")),
            ));
        };
        let weights = Mapped::open(&weights)?;
        {
            let tensors = tensors::stored(std::slice::from_ref(&weights), None)?.tensors;
            let wanted = |name: &str, shape: &[usize]| {
                let problem = match tensors.iter().find(|t| t.name == name) {
                    None => "is missing".to_string(),
                    Some(tensor) if tensor.shape == shape => return Ok(()),
                    Some(tensor) => format!("has shape {:?}, {} says {shape:?}", tensor.shape, path.display()),
                };
                Err(SourceError::Tensor {
                    path: weights.path.clone(),
                    tensor: name.into(),
                    problem,
                })
            };
            wanted("linear.weight", &[out, inp])?;
            if has_bias {
                wanted("linear.bias", &[out])?;
            }
        }
        self.sentence.dense.push(Dense { size: out, activation });
        self.layers.push(Layer {
            config: path.clone(),
            inp,
            out,
            weights,
            // The weight is there, so its rows are no number that only a text says.
            no_bias: (!has_bias).then(|| vec![0; 4 * out]),
        });
        self.files.push(path);
        Ok(())
    }

    /// The files of its dense layers.
    pub fn weights(&self) -> impl Iterator<Item = &Mapped> {
        self.layers.iter().map(|layer| &layer.weights)
    }

    /// Every file it was read from.
    pub fn paths(&self) -> Vec<PathBuf> {
        let weights = self.weights().map(|file| file.path.clone());
        self.files.iter().cloned().chain(weights).collect()
    }

    /// The tensors of its dense layers, by thimble's names.
    pub fn tensors(&self) -> Result<Vec<RawTensor<'_>>, SourceError> {
        let mut all = vec![];
        for (number, layer) in self.layers.iter().enumerate() {
            let Some(own) = dense_weight(number).map(|role| role.name()) else {
                continue;
            };
            let tensors = tensors::stored(std::slice::from_ref(&layer.weights), None)?.tensors;
            for (theirs, slot) in [("linear.weight", "weight"), ("linear.bias", "bias")] {
                let name = format!("{own}.{slot}");
                match &layer.no_bias {
                    Some(zeros) if slot == "bias" => all.push(RawTensor {
                        path: &layer.weights.path,
                        name,
                        dtype: Dtype::F32,
                        shape: vec![layer.out],
                        bytes: zeros,
                        view: None,
                    }),
                    _ => all.extend(
                        tensors
                            .iter()
                            .find(|t| t.name == theirs)
                            .map(|tensor| RawTensor { name, ..tensor.clone() }),
                    ),
                }
            }
        }
        Ok(all)
    }

    /// Whether its sizes follow from the transformer's.
    pub fn fits(&self, config: &Config) -> Result<(), SourceError> {
        let bad = |path: &Path, field: &str, has: usize, wanted: usize| {
            Err(SourceError::Config {
                path: path.to_path_buf(),
                field: field.into(),
                problem: format!("is {has}, what stands before it gives {wanted}"),
            })
        };
        if let Some((size, path)) = self.hidden.as_ref().filter(|(size, _)| *size != config.hidden_size) {
            return bad(path, "word_embedding_dimension", *size, config.hidden_size);
        }
        let mut size = config.hidden_size.saturating_mul(self.sentence.pooling.len());
        for layer in &self.layers {
            if layer.inp != size {
                return bad(&layer.config, "in_features", layer.inp, size);
            }
            size = layer.out;
        }
        Ok(())
    }
}

/// What becomes of texts before they are tokens.
#[derive(Debug, Default)]
pub struct Texts {
    pub max_tokens: Option<usize>,
    pub lower_case: bool,
    pub prompt: Option<String>,
    pub notes: Vec<String>,
    files: Vec<PathBuf>,
}

impl Texts {
    /// Whether a folder has files of sentence-transformers that say it.
    pub fn are_said(dir: &Path) -> bool {
        TEXTS.iter().chain([&PROMPTS]).any(|name| dir.join(name).is_file())
    }

    /// What the files in the transformer's folder, and in that around it, say.
    pub fn read(transformer: &Path, root: &Path) -> Result<Texts, SourceError> {
        let mut texts = Texts::default();
        if let Some(path) = TEXTS
            .iter()
            .map(|name| transformer.join(name))
            .find(|path| path.is_file())
        {
            let json = json::read(&path)?;
            let fields = Fields::of(&path, &json)?;
            texts.max_tokens = fields.size("max_seq_length")?;
            texts.lower_case = fields.flag("do_lower_case")?.unwrap_or(false);
            let read = &json["modality_config"]["text"]["method_output_name"];
            if let Some(other) = read.as_str().filter(|name| *name != "last_hidden_state") {
                let problem = format!("is '{}', last_hidden_state is pooled", printable(other));
                return fields.bad("method_output_name", problem);
            }
            texts.files.push(path);
        }
        let path = transformer.join(TOKENIZER_CONFIG);
        if texts.max_tokens.is_none() && path.is_file() {
            let json = json::read(&path)?;
            // Tokenizers without a length say 1e30.
            let length = json.get("model_max_length").and_then(Value::as_f64);
            texts.max_tokens = length.filter(|n| (1.0..LONGEST).contains(n)).map(|n| n as usize);
        }
        if texts.max_tokens == Some(0) {
            texts.max_tokens = None;
        }
        let path = root.join(PROMPTS);
        if path.is_file() {
            texts.prompts(&path)?;
        }
        Ok(texts)
    }

    fn prompts(&mut self, path: &Path) -> Result<(), SourceError> {
        let json = json::read(path)?;
        let fields = Fields::of(path, &json)?;
        let prompts = match fields.get("prompts") {
            None => None,
            Some(Value::Object(prompts)) => Some(prompts),
            Some(_) => return fields.bad("prompts", "is no object of texts"),
        };
        let mut others: Vec<String> = prompts
            .into_iter()
            .flatten()
            .filter(|(_, text)| text.as_str().is_some_and(|text| !text.is_empty()))
            .map(|(name, _)| name.clone())
            .collect();
        if let Some(name) = fields.text("default_prompt_name")? {
            let Some(prompt) = prompts.and_then(|prompts| prompts.get(name)).and_then(Value::as_str) else {
                return fields.bad(
                    "default_prompt_name",
                    format!("'{}' is none of the prompts", printable(name)),
                );
            };
            if prompt.len() > MOST_PROMPT {
                return fields.bad(
                    "prompts",
                    format!("a prompt of {} bytes, at most {MOST_PROMPT}", prompt.len()),
                );
            }
            self.prompt = (!prompt.is_empty()).then(|| prompt.to_string());
            others.retain(|other| other != name);
            if !prompt.is_empty() {
                self.notes
                    .push(format!("the prompt {} is put before every text", Value::from(prompt)));
            }
        }
        if !others.is_empty() {
            self.notes.push(format!(
                "its prompts {} are left out: write the one you want before the text",
                named(&others)
            ));
        }
        self.files.push(path.to_path_buf());
        Ok(())
    }
}

/// Tokens that no tokenizer is meant to cut at.
const LONGEST: f64 = 1e9;

fn refused(path: &Path, problem: String) -> SourceError {
    SourceError::Format {
        path: path.to_path_buf(),
        problem,
    }
}

/// Names for one line, at most a few.
fn named(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(MOST_NAMES).map(|name| printable(name)).collect();
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The transformers below a router, by their folders.
fn routed(dir: &Path) -> Vec<String> {
    let mut paths: Vec<PathBuf> = super::listing::names_in(dir)
        .into_iter()
        .map(|name| dir.join(name))
        .collect();
    paths.retain(|path| path.to_string_lossy().ends_with("Transformer") && path.is_dir());
    paths.iter().map(|path| path.display().to_string()).collect()
}

/// The parts that `modules.json` lists; their folders lie inside this one.
fn listed(path: &Path) -> Result<Vec<Part>, SourceError> {
    let json = json::read(path)?;
    let Some(list) = json.as_array() else {
        return Err(refused(
            path,
            "is no list of a model's parts, as sentence-transformers writes it".into(),
        ));
    };
    if list.len() > MOST_PARTS {
        return Err(refused(
            path,
            format!("{} parts, at most {MOST_PARTS} are read", list.len()),
        ));
    }
    let part = |entry: &Value| {
        let text = |key| entry.get(key).and_then(Value::as_str).map(str::to_string);
        let (class, folder) = (text("type")?, text("path")?);
        let plain = !folder.contains(['/', '\\', '\0']) && folder != ".." && folder != ".";
        let kind = match class.strip_prefix(NAMESPACE) {
            Some(own) => own.rsplit('.').next().unwrap_or(own).to_string(),
            None => class,
        };
        plain.then_some(Part { kind, folder })
    };
    let parts = list.iter().map(|entry| {
        part(entry).ok_or_else(|| {
            refused(
                path,
                "a part has no type, or its path is no folder inside this one".into(),
            )
        })
    });
    parts.collect()
}
