//! Dataset to calibrate and verify on: rows of text or of token ids in any form of `records`, safetensors as the device reads
//! them, or made-up token sequences. Out come rows, one inference each, ids and masks flat in row-major order. A context too
//! long for one inference becomes several rows, the windows a question is answered in.

use super::columns::{self, Columns};
use super::records::{Form, Record, RecordError, Records};
use crate::models::tokenizer::TokenizerSource;
use crate::models::tokenizer_json::{Encoded, TokeniseError, Tokeniser};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use thimble_device::engine::Input;
use thimble_device::engine::tensors::{Tensor, TensorError, TensorFile};
use thimble_shared::decode::context_of_ids;
use thimble_shared::files;
use thimble_shared::model::{AnswerKind, Config};
use thimble_shared::random::Random;
use thimble_shared::terminal::printable;

/// Why inputs cannot be read. `path` is always the file of inputs.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// The operating system could not read it.
    #[error("{path}: {cause}", path = .path.display())]
    Io {
        /// The file of inputs.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// A line is no input of this model.
    #[error("{path}, line {line}: {problem}", path = .path.display())]
    Line {
        /// The file of inputs.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with the line.
        problem: String,
    },
    /// The file as a whole holds no rows of this model.
    #[error("{path}: {problem}", path = .path.display())]
    Rows {
        /// The file of inputs.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is missing or does not fit the model.
    #[error("{path}: tensor {tensor}: {problem}", path = .path.display())]
    Tensor {
        /// The file of inputs.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file holds no inputs.
    #[error("{path}: no inputs in it; {expected}", path = .path.display())]
    Empty {
        /// The file of inputs.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// Every input is padding throughout.
    #[error("{path}: attention_mask is 0 throughout in each of its {count} inputs, so nothing can be compared; mark real tokens with 1", path = .path.display())]
    Masked {
        /// The file of inputs.
        path: PathBuf,
        /// How many inputs it has.
        count: usize,
    },
    /// A text stands where the model has no tokenizer.
    #[error("{path}, line {line}: a text needs a tokenizer beside the model (tokenizer.json, spiece.model or vocab.txt), and there is none", path = .path.display())]
    NoTokenizer {
        /// The file of inputs.
        path: PathBuf,
        /// Line of the text, counted from 1.
        line: usize,
    },
    /// A safetensors file of inputs is damaged or has other types.
    #[error(transparent)]
    Safetensors(#[from] TensorError),
    /// A text cannot be split, or the tokenizer is another model's.
    #[error(transparent)]
    Tokenise(#[from] TokeniseError),
}

/// One inference's input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// `[1, seq]`, or `[1, choices, seq]` for multiple choice.
    pub shape: Vec<usize>,
    /// Flat, as many as `shape` says.
    pub input_ids: Vec<i64>,
    /// 1 for real tokens, 0 for padding; as many as `input_ids`.
    pub attention_mask: Vec<i64>,
    /// As many as `input_ids`.
    pub token_type_ids: Vec<i64>,
    /// What is right: one class or choice, or one tag per token with -100 where nothing is asked.
    pub labels: Option<Vec<i64>>,
    /// What is right where the model gives values: one for each of its labels.
    pub targets: Option<Vec<f32>>,
    /// Positions of the mask token, where the model fills blanks.
    pub blanks: Vec<usize>,
}

/// Rows to run, with what was odd about them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// Whether they came from a file; made-up ones say little about real text.
    pub given: bool,
    /// In the order of the file; several for a context in windows.
    pub rows: Vec<Row>,
    /// Texts cut to the model's length.
    pub truncated: usize,
    /// Texts of which nothing but unknown tokens is left.
    pub unknown: usize,
    /// Dataset left out because no token of theirs is real.
    pub masked: usize,
    /// What is odd about the tokenizer, where texts were split with it.
    pub scarce: Option<String>,
    /// What the file was taken for, where that is not plain to see.
    pub read_as: Option<String>,
    /// Rows of a table left out because they hold no text.
    pub empty: usize,
    /// Rows whose label is -1, which data sets give where the label is not told.
    pub unlabelled: usize,
}

/// What a user says of a file of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowOptions {
    /// Its form, where the content is not to tell it.
    pub form: Option<Form>,
    /// Which columns hold texts and labels.
    pub columns: Columns,
}

impl Row {
    /// The row of a text (one encoding) or of a question's choices (several, padded to the longest).
    pub fn of(encoded: &[Encoded], pad: i64, choices: bool) -> Row {
        let seq = encoded.iter().map(|e| e.ids.len()).max().unwrap_or(0);
        let mut row = Row {
            shape: if choices {
                vec![1, encoded.len(), seq]
            } else {
                vec![1, seq]
            },
            ..Row::default()
        };
        for one in encoded {
            let padding = seq - one.ids.len();
            row.input_ids
                .extend(one.ids.iter().copied().chain(std::iter::repeat_n(pad, padding)));
            row.token_type_ids
                .extend(one.types.iter().copied().chain(std::iter::repeat_n(0, padding)));
            row.attention_mask
                .extend(std::iter::repeat_n(1, one.ids.len()).chain(std::iter::repeat_n(0, padding)));
        }
        row
    }

    /// A row of token ids, all real and of type 0.
    pub fn sequence(ids: &[i64]) -> Row {
        Row {
            shape: vec![1, ids.len()],
            input_ids: ids.to_vec(),
            attention_mask: vec![1; ids.len()],
            token_type_ids: vec![0; ids.len()],
            ..Row::default()
        }
    }

    /// Which tokens may be part of an answer to a question.
    pub fn context(&self) -> Vec<bool> {
        context_of_ids(&self.input_ids, Some(&self.token_type_ids), Some(&self.attention_mask))
    }

    /// Tokens per sequence.
    pub fn seq(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    /// What the engine takes.
    pub fn input(&self) -> Input {
        Input {
            shape: self.shape.clone(),
            input_ids: self.input_ids.clone(),
            attention_mask: Some(self.attention_mask.clone()),
            token_type_ids: Some(self.token_type_ids.clone()),
        }
    }

    /// Everything that must hold before a model of `config` runs it.
    ///
    /// # Errors
    /// What is wrong with the row, for people.
    pub fn check(&self, config: &Config) -> Result<(), String> {
        let wanted = if config.head.takes_choices() { 3 } else { 2 };
        if self.shape.len() != wanted || self.shape.first() != Some(&1) {
            return Err(format!(
                "its shape is {:?}, one input of this model has {wanted} dimensions",
                self.shape
            ));
        }
        let count = self
            .shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .unwrap_or(usize::MAX);
        if count == 0 {
            return Err("it has no tokens".into());
        }
        if self.seq() > config.max_position_embeddings {
            return Err(format!(
                "{} tokens, the model's positions end at {}",
                self.seq(),
                config.max_position_embeddings
            ));
        }
        for (name, values, limit) in [
            ("input_ids", &self.input_ids, config.vocab_size),
            ("attention_mask", &self.attention_mask, 2),
            ("token_type_ids", &self.token_type_ids, config.type_vocab_size),
        ] {
            if values.len() != count {
                return Err(format!("{name} has {} values, input_ids {count}", values.len()));
            }
            if let Some((at, value)) = values.iter().enumerate().find(|(_, v)| !(0..limit as i64).contains(*v)) {
                return Err(format!("{name}[{at}] is {value}, must be 0 to {}", limit - 1));
            }
        }
        if let Some(targets) = &self.targets {
            check_targets(targets, config)?;
        }
        self.labels
            .as_deref()
            .map_or(Ok(()), |labels| self.check_labels(labels, config))
    }

    fn check_labels(&self, labels: &[i64], config: &Config) -> Result<(), String> {
        let Some((wanted, classes)) = config.head.answer().labels(config, &self.shape) else {
            return Err(format!("labels are given, a {} head compares none", config.head.name()));
        };
        if labels.len() != wanted {
            return Err(format!(
                "{} labels, the {} head takes {wanted}",
                labels.len(),
                config.head.name()
            ));
        }
        match labels
            .iter()
            .find(|&&l| l != IGNORED && !(0..classes as i64).contains(&l))
        {
            Some(label) => Err(format!("label {label} is not one of 0 to {}", classes as i64 - 1)),
            None => Ok(()),
        }
    }
}

fn check_targets(targets: &[f32], config: &Config) -> Result<(), String> {
    if targets.len() != config.labels.len() {
        return Err(format!(
            "{} values are given as labels, the model has {}",
            targets.len(),
            config.labels.len()
        ));
    }
    match targets.iter().find(|t| !t.is_finite()) {
        Some(target) => Err(format!("label {target} is beyond f32")),
        None => Ok(()),
    }
}

/// Whether a model's answers can be held against classes: values, and what no label is compared with, cannot.
fn compares_labels(config: &Config) -> bool {
    !config.predicts_values() && config.head.answer().labels(config, &[]).is_some()
}

/// Hugging Face's label of a token that is not asked.
pub const IGNORED: i64 = -100;
/// Hugging Face's label of a row whose class is not told.
const UNTOLD: i64 = -1;

/// Rows made up when none are given.
const MADE_UP: usize = 64;
/// Longest made-up sequence.
const MADE_UP_TOKENS: usize = 64;

/// At most `most` rows of the file at `path`, drawn from all of it, or made-up ones without a path.
///
/// # Errors
/// Any [`InputsError`].
pub fn load(
    path: Option<&Path>,
    config: &Config,
    tokenizer: Option<&TokenizerSource>,
    most: Option<usize>,
) -> Result<Dataset, InputsError> {
    load_with(path, config, tokenizer, most, &RowOptions::default())
}

/// The same of a file of which the user says more.
///
/// # Errors
/// Where the file cannot be read, a row is malformed, or it cannot be told which fields hold the texts.
pub fn load_with(
    path: Option<&Path>,
    config: &Config,
    tokenizer: Option<&TokenizerSource>,
    most: Option<usize>,
    options: &RowOptions,
) -> Result<Dataset, InputsError> {
    let most = most.unwrap_or(usize::MAX);
    let Some(path) = path else {
        let mut inputs = Dataset {
            rows: made_up(config, most.min(MADE_UP), SEED),
            ..Dataset::default()
        };
        inputs.find_blanks(config, None);
        return Ok(inputs);
    };
    let mut mask = None;
    let named = path.extension().is_some_and(|e| e == "safetensors");
    let bytes = match named {
        true => None,
        false => Some(files::read(path).map_err(|cause| InputsError::Io {
            path: path.to_path_buf(),
            cause,
        })?),
    };
    let mut inputs = if let Some(bytes) = bytes.filter(|bytes| !is_safetensors(bytes)) {
        let tokeniser = tokenizer.map(|source| source.open(config)).transpose()?;
        mask = tokeniser.as_ref().and_then(|t| t.mask_id());
        rows(path, &bytes, config, tokeniser.as_ref(), most, options)?
    } else {
        tensors(path, config, most)?
    };
    inputs.drop_masked(path)?;
    inputs.find_blanks(config, mask);
    Ok(inputs)
}

impl Dataset {
    /// Adds the rows of one record.
    fn add(
        &mut self,
        record: &Record,
        config: &Config,
        tokeniser: Option<&Tokeniser>,
        columns: &Columns,
    ) -> Result<(), RowError> {
        let line = Line {
            object: &record.fields,
            config,
            columns,
            typed: record.typed,
        };
        // A value of a table that is empty is none.
        let texts = || {
            columns
                .text
                .first()
                .is_some_and(|name| columns::field(&record.fields, name).is_some())
        };
        if !record.typed && !record.fields.contains_key("input_ids") && !texts() {
            self.empty += 1;
            return Ok(());
        }
        let mut rows = if record.fields.contains_key("input_ids") {
            vec![line.ids()?]
        } else {
            let texts = line.texts()?;
            let tokeniser = tokeniser.ok_or(RowError::NoTokenizer)?;
            self.scarce = tokeniser.scarce();
            self.encode(&texts, config, tokeniser).map_err(RowError::Tokenise)?
        };
        // Positions of an answer are those of the first window.
        if let Some(row) = rows.first_mut() {
            row.labels = line.labels()?;
            if config.head.answer() == AnswerKind::Labels && row.labels.as_deref() == Some(&[UNTOLD]) {
                row.labels = None;
                self.unlabelled += 1;
            }
            row.targets = line.targets()?;
        }
        rows.iter().try_for_each(|row| row.check(config))?;
        self.rows.append(&mut rows);
        Ok(())
    }

    /// The rows of one line's texts: one, or one for each window over a question's context.
    fn encode(
        &mut self,
        texts: &[(&str, Option<&str>)],
        config: &Config,
        tokeniser: &Tokeniser,
    ) -> Result<Vec<Row>, TokeniseError> {
        let row = |encoded: &[Encoded]| Row::of(encoded, tokeniser.pad_id(), config.head.takes_choices());
        if let (AnswerKind::Span, [(question, Some(context))]) = (config.head.answer(), texts) {
            let windows = tokeniser.windows(question, context)?;
            self.unknown += usize::from(windows.iter().any(|w| w.unknown));
            return Ok(windows.iter().map(|w| row(std::slice::from_ref(w))).collect());
        }
        let encode = |(text, pair): &(&str, Option<&str>)| tokeniser.encode(text, *pair);
        let encoded = texts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        self.truncated += encoded.iter().filter(|e| e.truncated).count();
        self.unknown += encoded.iter().filter(|e| e.unknown).count();
        Ok(vec![row(&encoded)])
    }

    /// Notes where the mask token stands; without a tokenizer it is the one ALBERT's vocabularies have.
    fn find_blanks(&mut self, config: &Config, mask: Option<i64>) {
        if !config.head.has_decoder() {
            return;
        }
        let mask = mask.unwrap_or(MASK);
        for row in &mut self.rows {
            let ids = row.input_ids.iter().zip(&row.attention_mask).enumerate();
            row.blanks = ids
                .filter(|(_, (id, m))| **id == mask && **m != 0)
                .map(|(i, _)| i)
                .collect();
        }
    }

    /// Leaves out rows without a real token: nothing of them is compared.
    fn drop_masked(&mut self, path: &Path) -> Result<(), InputsError> {
        let count = self.rows.len();
        self.rows.retain(|row| row.attention_mask.contains(&1));
        self.masked = count - self.rows.len();
        if self.rows.is_empty() {
            return Err(InputsError::Masked {
                path: path.to_path_buf(),
                count,
            });
        }
        Ok(())
    }

    /// What a person should know of the inputs: how many texts are nothing but unknown tokens, how many inputs were left out,
    /// and whether the tokenizer fits.
    pub fn warnings(&self) -> Vec<String> {
        let unknown = (self.unknown > 0).then(|| {
            format!(
                "{} texts become nothing but unknown tokens: the tokenizer does not know their characters",
                self.unknown
            )
        });
        let masked = (self.masked > 0).then(|| {
            format!(
                "{} inputs without a real token (attention_mask 0 throughout) were left out",
                self.masked
            )
        });
        let empty = (self.empty > 0).then(|| format!("{} rows without a text were left out", self.empty));
        let unlabelled = (self.unlabelled > 0).then(|| {
            format!(
                "{} rows have the label -1, which tells no class; they count as rows without a label",
                self.unlabelled
            )
        });
        let more = [unknown, masked, empty, unlabelled].into_iter().flatten();
        self.scarce.clone().into_iter().chain(more).collect()
    }

    /// Leaves out rows that repeat an earlier one, whatever their labels: how many went.
    pub fn drop_repeats(&mut self) -> usize {
        let before = self.rows.len();
        let mut seen = BTreeSet::new();
        self.rows.retain(|row| {
            let parts = [&row.input_ids, &row.attention_mask, &row.token_type_ids];
            seen.insert((row.shape.clone(), parts.map(Clone::clone)))
        });
        before - self.rows.len()
    }
}

/// Whether the bytes begin as a safetensors file does: the length of the header, and the header's brace.
fn is_safetensors(bytes: &[u8]) -> bool {
    match bytes.split_first_chunk::<8>() {
        Some((length, rest)) => rest.starts_with(b"{") && u64::from_le_bytes(*length) <= rest.len() as u64,
        None => false,
    }
}

fn rows(
    path: &Path,
    bytes: &[u8],
    config: &Config,
    tokeniser: Option<&Tokeniser>,
    most: usize,
    options: &RowOptions,
) -> Result<Dataset, InputsError> {
    let bad = |error: RecordError| match error.line {
        Some(line) => InputsError::Line {
            path: path.to_path_buf(),
            line,
            problem: error.problem,
        },
        None => InputsError::Rows {
            path: path.to_path_buf(),
            problem: error.problem,
        },
    };
    let records = Records::open(bytes, options.form, &options.columns.text).map_err(bad)?;
    let (columns, read_as) = match records.header() {
        Some(header) => options.columns.of_table(header).map_err(|problem| InputsError::Rows {
            path: path.to_path_buf(),
            problem,
        })?,
        None => (options.columns.clone(), String::new()),
    };
    let mut inputs = Dataset {
        given: true,
        read_as: records
            .form()
            .map(|form| format!("{}: read as {form}{read_as}", path.display())),
        ..Dataset::default()
    };
    records
        .take(&sample(records.len(), most), |record| {
            inputs
                .add(&record, config, tokeniser, &columns)
                .map_err(|told| match told {
                    RowError::Row(problem) => Refused(bad(RecordError {
                        line: Some(record.line),
                        problem,
                    })),
                    RowError::NoTokenizer => Refused(InputsError::NoTokenizer {
                        path: path.to_path_buf(),
                        line: record.line,
                    }),
                    RowError::Tokenise(error) => Refused(error.into()),
                })
        })
        .map_err(|refused: Refusal| match refused {
            Refusal::Record(error) => bad(error),
            Refusal::Input(error) => error,
        })?;
    if inputs.rows.is_empty() {
        return Err(InputsError::Empty {
            path: path.to_path_buf(),
            expected: r#"expected one JSON object per line with "text" or "input_ids", a JSON array of them, a table with a header line (CSV, TSV), or one text per line"#,
        });
    }
    Ok(inputs)
}

/// What ends the reading of rows: a record that does not parse, or one that is no input of the model.
enum Refusal {
    Record(RecordError),
    Input(InputsError),
}

use Refusal::Input as Refused;

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Refusal {
        Refusal::Record(error)
    }
}

/// What is wrong with one row.
enum RowError {
    Row(String),
    NoTokenizer,
    Tokenise(TokeniseError),
}

impl From<String> for RowError {
    fn from(problem: String) -> RowError {
        RowError::Row(problem)
    }
}

/// `most` of `count` indices in order, drawn at random but the same every time: whatever order a file has, sorted by label
/// or alternating, must not decide what is drawn.
pub fn sample(count: usize, most: usize) -> Vec<usize> {
    let mut drawn: Vec<(u64, usize)> = (0..count).map(|i| (Random(SEED ^ i as u64).next(), i)).collect();
    drawn.sort_unstable();
    let mut indices: Vec<usize> = drawn.into_iter().take(most).map(|(_, i)| i).collect();
    indices.sort_unstable();
    indices
}

/// One row's fields.
struct Line<'a> {
    object: &'a Map<String, Value>,
    config: &'a Config,
    columns: &'a Columns,
    /// Whether numbers are told from texts.
    typed: bool,
}

impl<'a> Line<'a> {
    fn get(&self, names: &[&str]) -> Option<&'a Value> {
        names
            .iter()
            .find_map(|name| self.object.get(*name))
            .filter(|v| !v.is_null())
    }

    fn text(&self, name: &str) -> Result<&'a str, String> {
        match self.object.get(name) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(format!("\"{}\" must be a string", printable(name))),
        }
    }

    /// The texts to encode: one, or one per choice.
    fn texts(&self) -> Result<Vec<(&'a str, Option<&'a str>)>, String> {
        let names = self.columns.texts(self.object)?;
        let first = self.text(names[0])?;
        if !self.config.head.takes_choices() {
            let pair = names.get(1).map(|name| self.text(name)).transpose()?;
            return Ok(vec![(first, pair)]);
        }
        let choices = match self.get(&["choices"]) {
            Some(Value::Array(choices)) if !choices.is_empty() => {
                let text = |c: &'a Value| c.as_str().ok_or(r#""choices" must be texts"#.to_string());
                choices.iter().map(text).collect::<Result<Vec<_>, _>>()?
            }
            _ => columns::choices(self.object),
        };
        if choices.is_empty() {
            return Err(r#"multiple choice needs "choices", a list of texts, or fields choice0, choice1 …"#.into());
        }
        Ok(choices.into_iter().map(|choice| (first, Some(choice))).collect())
    }

    fn ids(&self) -> Result<Row, String> {
        let (inner, input_ids) = integers("input_ids", &self.object["input_ids"])?;
        let same = |name: &str, default: i64| match self.get(&[name]) {
            None => Ok(vec![default; input_ids.len()]),
            Some(value) => match integers(name, value)? {
                (shape, values) if shape == inner => Ok(values),
                (shape, _) => Err(format!("{name} has shape {shape:?}, input_ids {inner:?}")),
            },
        };
        let (attention_mask, token_type_ids) = (same("attention_mask", 1)?, same("token_type_ids", 0)?);
        // A batch of one, as a tokenizer's return_tensors gives it, is the row itself.
        let shape = match inner.as_slice() {
            [1, seq] if !self.config.head.takes_choices() => vec![1, *seq],
            inner => [&[1], inner].concat(),
        };
        Ok(Row {
            shape,
            input_ids,
            attention_mask,
            token_type_ids,
            ..Row::default()
        })
    }

    fn labels(&self) -> Result<Option<Vec<i64>>, String> {
        let value = self.columns.label(self.object).filter(|_| compares_labels(self.config));
        let value = value.map(|(_, value)| value);
        let one = |v: &Value| self.label(v);
        match value {
            None => Ok(None),
            Some(Value::Array(list)) => list.iter().map(one).collect::<Result<Vec<_>, _>>().map(Some),
            Some(value) => Ok(Some(vec![one(value)?])),
        }
    }

    /// A regression's values: a number, or one for each label.
    fn targets(&self) -> Result<Option<Vec<f32>>, String> {
        let value = self
            .columns
            .label(self.object)
            .filter(|_| self.config.predicts_values());
        let value = value.map(|(_, value)| value);
        let one = |v: &Value| {
            let number = match v {
                Value::String(text) if !self.typed => text.trim().parse::<f64>().ok(),
                value => value.as_f64(),
            };
            let number = number.ok_or_else(|| format!("label {v} must be a number: the model gives values"))?;
            Ok(number as f32)
        };
        match value {
            None => Ok(None),
            Some(Value::Array(list)) => list.iter().map(one).collect::<Result<Vec<_>, _>>().map(Some),
            Some(value) => Ok(Some(vec![one(value)?])),
        }
    }

    /// A class by number or by name.
    fn label(&self, value: &Value) -> Result<i64, String> {
        if let Some(number) = value.as_i64() {
            return Ok(number);
        }
        let name = value
            .as_str()
            .ok_or_else(|| format!("label {value} must be a whole number or a label's name"))?;
        let labels = &self.config.labels;
        let at = labels.iter().position(|l| l == name);
        if at.is_none() && !self.typed {
            // In a table a class's number is a text too; where names are numbers themselves, only names are taken.
            let number = whole_number(name).filter(|_| !labels.iter().any(|label| whole_number(label).is_some()));
            if let Some(number) = number {
                return Ok(number);
            }
            if let Some(at) = labels.iter().position(|l| l == name.trim()) {
                return Ok(at as i64);
            }
        }
        at.map(|i| i as i64).ok_or_else(|| {
            format!(
                "label '{name}' is not one of the model's: {}",
                self.config.labels.join(", ")
            )
        })
    }
}

/// A whole number as a table spells it: pandas writes 3.0 where a column has gaps.
fn whole_number(text: &str) -> Option<i64> {
    let text = text.trim();
    text.strip_suffix(".0").unwrap_or(text).parse().ok()
}

/// A list of integers, or a list of equally long ones: its shape and its numbers.
fn integers(name: &str, value: &Value) -> Result<(Vec<usize>, Vec<i64>), String> {
    let list = value
        .as_array()
        .ok_or_else(|| format!("{name} must be a list of integers"))?;
    let flat = |list: &[Value]| -> Result<Vec<i64>, String> {
        list.iter()
            .map(|v| v.as_i64().ok_or_else(|| format!("{name}: {v} is not an integer")))
            .collect()
    };
    if !list.first().is_some_and(Value::is_array) {
        return Ok((vec![list.len()], flat(list)?));
    }
    let mut values = Vec::new();
    let mut seq = None;
    for row in list {
        let row = flat(
            row.as_array()
                .ok_or_else(|| format!("{name} mixes lists and integers"))?,
        )?;
        if *seq.get_or_insert(row.len()) != row.len() {
            return Err(format!(
                "{name}: the choices must be equally long (pad them and give attention_mask)"
            ));
        }
        values.extend(row);
    }
    Ok((vec![list.len(), seq.unwrap_or(0)], values))
}

const IDS: &str = "input_ids";

/// Rows of a safetensors file: `input_ids` and what goes with it, alone or under prefixes (`s16.input_ids`).
fn tensors(path: &Path, config: &Config, most: usize) -> Result<Dataset, InputsError> {
    let file = TensorFile::read(path)?;
    let prefixes: BTreeSet<String> = file
        .names()
        .filter_map(|name| name.strip_suffix(IDS))
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .map(str::to_string)
        .collect();
    let mut rows = Vec::new();
    for prefix in &prefixes {
        rows.extend(prefixed(path, &file, prefix, config)?);
    }
    if rows.is_empty() {
        return Err(InputsError::Empty {
            path: path.to_path_buf(),
            expected: "expected a tensor input_ids",
        });
    }
    let rows = sample(rows.len(), most).into_iter().map(|i| rows[i].clone()).collect();
    Ok(Dataset {
        given: true,
        rows,
        ..Dataset::default()
    })
}

/// The rows under one prefix.
fn prefixed(path: &Path, file: &TensorFile, prefix: &str, config: &Config) -> Result<Vec<Row>, InputsError> {
    let bad = |tensor: &str, problem: String| InputsError::Tensor {
        path: path.to_path_buf(),
        tensor: format!("{prefix}{tensor}"),
        problem,
    };
    let tensor = |name: &str| file.integers(&format!("{prefix}{name}"));
    let ids = tensor(IDS)?.ok_or_else(|| bad(IDS, "is not there".into()))?;
    let (count, shape) = split(&ids.shape, config).map_err(|problem| bad(IDS, problem))?;
    if count == 0 {
        return Ok(vec![]);
    }
    // With at least one row, the file's own size bounds this product.
    let size: usize = shape.iter().product();
    let like = |name: &'static str, default: i64| -> Result<Tensor<i64>, InputsError> {
        match tensor(name)? {
            None => Ok(Tensor {
                shape: ids.shape.clone(),
                data: vec![default; ids.data.len()],
            }),
            Some(t) if t.shape == ids.shape => Ok(t),
            Some(t) => Err(bad(name, format!("has shape {:?}, input_ids {:?}", t.shape, ids.shape))),
        }
    };
    let (mask, types) = (like("attention_mask", 1)?, like("token_type_ids", 0)?);
    let labels = match compares_labels(config) {
        true => tensor("labels")?,
        false => None,
    };
    if let Some(labels) = labels.as_ref().filter(|l| l.shape.first() != Some(&count)) {
        return Err(bad(
            "labels",
            format!("has shape {:?}, there are {count} inputs", labels.shape),
        ));
    }
    let targets = targets(file, &format!("{prefix}labels"), count, config).map_err(|problem| bad("labels", problem))?;
    let mut rows = Vec::with_capacity(count);
    for i in 0..count {
        let part = |t: &Tensor<i64>| t.data[i * size..(i + 1) * size].to_vec();
        let row = Row {
            shape: shape.clone(),
            input_ids: part(&ids),
            attention_mask: part(&mask),
            token_type_ids: part(&types),
            labels: labels.as_ref().map(|l| {
                let each = l.data.len() / count;
                l.data[i * each..(i + 1) * each].to_vec()
            }),
            targets: targets.as_ref().map(|t| {
                let each = t.len() / count;
                t[i * each..(i + 1) * each].to_vec()
            }),
            blanks: vec![],
        };
        row.check(config)
            .map_err(|problem| bad(IDS, format!("row {i}: {problem}")))?;
        rows.push(row);
    }
    Ok(rows)
}

/// A regression's values in the tensor `name`, floats or integers, of `count` rows.
fn targets(file: &TensorFile, name: &str, count: usize, config: &Config) -> Result<Option<Vec<f32>>, String> {
    if !config.predicts_values() {
        return Ok(None);
    }
    let (shape, data) = match (file.floats(name), file.integers(name)) {
        (Ok(Some(t)), _) => (t.shape, t.data),
        (_, Ok(Some(t))) => (t.shape, t.data.iter().map(|&v| v as f32).collect()),
        (Ok(None), _) | (_, Ok(None)) => return Ok(None),
        (Err(problem), Err(_)) => return Err(problem.to_string()),
    };
    if shape.first() != Some(&count) {
        return Err(format!("has shape {shape:?}, there are {count} inputs"));
    }
    Ok(Some(data))
}

/// How many rows a tensor of `shape` holds, and the shape of each. A multiple-choice model takes two dimensions as the
/// choices of one question.
fn split(shape: &[usize], config: &Config) -> Result<(usize, Vec<usize>), String> {
    match (shape, config.head.takes_choices()) {
        ([batch, seq], false) => Ok((*batch, vec![1, *seq])),
        ([choices, seq], true) => Ok((1, vec![1, *choices, *seq])),
        ([batch, choices, seq], true) => Ok((*batch, vec![1, *choices, *seq])),
        (_, false) => Err(format!("has shape {shape:?}, must be [batch, seq]")),
        (_, true) => Err(format!(
            "has shape {shape:?}, must be [choices, seq] or [batch, choices, seq]"
        )),
    }
}

/// Seed of the rows made up: the same every time, so that results can be repeated.
const SEED: u64 = 0x7468_696d_626c_6531;

/// Ids ALBERT's vocabularies give to the special tokens: <pad> 0, <unk> 1, [CLS] 2, [SEP] 3, [MASK] 4.
const CLS: i64 = 2;
const SEP: i64 = 3;
/// The id of `[MASK]` in ALBERT's vocabularies, taken where no tokenizer tells.
pub const MASK: i64 = 4;

/// `count` token sequences of different lengths, seeded: `[CLS]`, random tokens, `[SEP]`, every other one a pair; for a masked LM
/// some tokens are masked, for multiple choice each row has three choices.
pub fn made_up(config: &Config, count: usize, seed: u64) -> Vec<Row> {
    let mut random = Random(seed);
    let longest = config.max_tokens().min(MADE_UP_TOKENS);
    let shortest = longest.min(8);
    let masks = config.head.has_decoder();
    let mut rows = Vec::with_capacity(count);
    for i in 0..count {
        let seq = shortest + random.below(longest - shortest + 1);
        let choices = if config.head.takes_choices() { 3 } else { 1 };
        let mut row = Row {
            attention_mask: vec![1; choices * seq],
            ..Row::default()
        };
        row.shape = if config.head.takes_choices() {
            vec![1, choices, seq]
        } else {
            vec![1, seq]
        };
        for _ in 0..choices {
            // The first text ends here; without a second one it ends with the sequence.
            let end = if i % 2 == 1 && seq >= 5 {
                2 + random.below(seq - 4)
            } else {
                seq - 1
            };
            for at in 0..seq {
                let id = match at {
                    0 => CLS,
                    _ if at == end || at == seq - 1 => SEP,
                    _ if masks && random.below(7) == 0 => MASK,
                    _ => 5 + random.below(config.vocab_size.saturating_sub(5).max(1)) as i64,
                };
                row.input_ids.push(id.min(config.vocab_size as i64 - 1));
                row.token_type_ids
                    .push(i64::from(at > end && config.type_vocab_size > 1));
            }
        }
        rows.push(row);
    }
    rows
}
