//! Dataset to calibrate and verify on: rows of text or of token ids in any form of `records`, safetensors as the device reads
//! them, or made-up token sequences. Out come rows, one inference each, ids and masks flat in row-major order. A context too
//! long for one inference becomes several rows, the windows a question is answered in.

mod made_up;
mod record;
mod row;
mod tensors;

pub use made_up::made_up;
pub use row::{IGNORED, Row};

use super::columns::{self, Columns};
use super::record::{Record, RecordError};
use super::records::{Form, Records};
use crate::models::tokenizer::TokenizerSource;
use crate::models::tokenizer_json::{Encoded, TokenizeError, Tokenizer};
use made_up::MADE_UP;
use record::Line;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tensors::tensors;
use thimble_device::engine::tensors::TensorError;
use thimble_shared::files;
use thimble_shared::model::{AnswerKind, Config};
use thimble_shared::random::Random;

/// Why inputs cannot be read. `path` is always the file of inputs.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// The operating system could not read it.
    #[error("{path}: {cause}", path = .path.display())]
    Io {
        /// The file of inputs.
        path: PathBuf,
        /// What the operating system said.
        #[source]
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
    #[error("{path}, line {line}: a text needs a tokenizer beside the model (tokenizer.json, spiece.model or vocab.txt), and there is none; --tokenizer names one", path = .path.display())]
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
    Tokenize(#[from] TokenizeError),
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
    pub unlabeled: usize,
}

/// What a user says of a file of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowOptions {
    /// Its form, where the content is not to tell it.
    pub form: Option<Form>,
    /// Which columns hold texts and labels.
    pub columns: Columns,
}

/// Hugging Face's label of a row whose class is not told.
const UNTOLD: i64 = -1;

/// Seed of the rows made up: the same every time, so that results can be repeated.
const SEED: u64 = 0x7468_696d_626c_6531;

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
        let tokenizer = tokenizer.map(|source| source.open(config)).transpose()?;
        mask = tokenizer.as_ref().and_then(|t| t.mask_id());
        rows(path, &bytes, config, tokenizer.as_ref(), most, options)?
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
        tokenizer: Option<&Tokenizer>,
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
            let tokenizer = tokenizer.ok_or(RowError::NoTokenizer)?;
            self.scarce = tokenizer.scarce();
            self.encode(&texts, config, tokenizer).map_err(RowError::Tokenize)?
        };
        // Positions of an answer are those of the first window.
        if let Some(row) = rows.first_mut() {
            row.labels = line.labels()?;
            if config.head.answer() == AnswerKind::Labels && row.labels.as_deref() == Some(&[UNTOLD]) {
                row.labels = None;
                self.unlabeled += 1;
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
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Row>, TokenizeError> {
        let row = |encoded: &[Encoded]| Row::of(encoded, tokenizer.pad_id(), config.head.takes_choices());
        if let (AnswerKind::Span, [(question, Some(context))]) = (config.head.answer(), texts) {
            let windows = tokenizer.windows(question, context)?;
            self.unknown += usize::from(windows.iter().any(|w| w.unknown));
            return Ok(windows.iter().map(|w| row(std::slice::from_ref(w))).collect());
        }
        let encode = |(text, pair): &(&str, Option<&str>)| tokenizer.encode(text, *pair);
        let encoded = texts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        self.truncated += encoded.iter().filter(|e| e.truncated).count();
        self.unknown += encoded.iter().filter(|e| e.unknown).count();
        Ok(vec![row(&encoded)])
    }

    /// Notes where the mask token stands; without a tokenizer it is the one the family's vocabularies have.
    fn find_blanks(&mut self, config: &Config, mask: Option<i64>) {
        if !config.head.has_decoder() {
            return;
        }
        let mask = mask.unwrap_or(config.family.row().ids.mask);
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
        let unlabeled = (self.unlabeled > 0).then(|| {
            format!(
                "{} rows have the label -1, which tells no class; they count as rows without a label",
                self.unlabeled
            )
        });
        let more = [unknown, masked, empty, unlabeled].into_iter().flatten();
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
    tokenizer: Option<&Tokenizer>,
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
                .add(&record, config, tokenizer, &columns)
                .map_err(|told| match told {
                    RowError::Row(problem) => Refused(bad(RecordError {
                        line: Some(record.line),
                        problem,
                    })),
                    RowError::NoTokenizer => Refused(InputsError::NoTokenizer {
                        path: path.to_path_buf(),
                        line: record.line,
                    }),
                    RowError::Tokenize(error) => Refused(error.into()),
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

/// What is wrong with one row.
enum RowError {
    Row(String),
    NoTokenizer,
    Tokenize(TokenizeError),
}

impl From<String> for RowError {
    fn from(problem: String) -> RowError {
        RowError::Row(problem)
    }
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

/// `most` of `count` indices in order, drawn at random but the same every time: whatever order a file has, sorted by label
/// or alternating, must not decide what is drawn.
pub fn sample(count: usize, most: usize) -> Vec<usize> {
    let mut drawn: Vec<(u64, usize)> = (0..count).map(|i| (Random(SEED ^ i as u64).next(), i)).collect();
    drawn.sort_unstable();
    let mut indices: Vec<usize> = drawn.into_iter().take(most).map(|(_, i)| i).collect();
    indices.sort_unstable();
    indices
}
