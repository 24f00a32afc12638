//! Arguments that several commands take, and how values are read.

use crate::models::read_options::ReadOptions;
use bytesize::ByteSize;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use std::path::PathBuf;
use thimble_shared::artifact::runtime::Runtime;
use thimble_shared::dtype::Format;
use thimble_shared::model::Head;

/// A number format by the name the command line gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision(pub Format);

impl ValueEnum for Precision {
    fn value_variants<'a>() -> &'a [Precision] {
        const ALL: [Precision; Format::ALL.len()] = {
            let mut all = [Precision(Format::F32); Format::ALL.len()];
            let mut i = 0;
            while i < all.len() {
                all[i] = Precision(Format::ALL[i]);
                i += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let row = self.0.row();
        let value = PossibleValue::new(row.alias);
        Some(match row.help {
            Some(help) => value.help(help),
            None => value,
        })
    }
}

/// How a model is read where its folder or file leaves it open.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Reading the source")]
pub struct SourceArgs {
    /// Build this head instead of the class that config.json names
    #[arg(long, value_enum, value_name = "NAME")]
    pub head: Option<HeadName>,
    /// Merge this LoRA adapter of PEFT into the checkpoint
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Take the ALBERT that ends in this value of an ONNX file instead of the file's outputs; a list takes several
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub output_value: Vec<String>,
    /// Accept a quantized ONNX file and read its weights back to f32; the accuracy that quantizing cost stays lost
    #[arg(long)]
    pub dequantize: bool,
}

impl SourceArgs {
    /// What the readers take.
    pub fn options(&self) -> ReadOptions {
        ReadOptions {
            head: self.head.map(HeadName::head),
            adapter: self.adapter.clone(),
            output_values: self.output_value.clone(),
            dequantize: self.dequantize,
        }
    }
}

/// The heads by the names the command line gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeadName {
    /// Hidden states, and the pooler output if the model has a pooler
    None,
    /// Masked language modeling
    Mlm,
    /// Masked language modeling and sentence order
    Pretraining,
    /// Sequence classification or regression
    Sequence,
    /// Token classification
    Token,
    /// Extractive question answering
    Qa,
    /// Multiple choice
    Choice,
}

impl HeadName {
    /// The head it names.
    pub fn head(self) -> Head {
        match self {
            HeadName::None => Head::None,
            HeadName::Mlm => Head::MaskedLm,
            HeadName::Pretraining => Head::PreTraining,
            HeadName::Sequence => Head::SequenceClassification,
            HeadName::Token => Head::TokenClassification,
            HeadName::Qa => Head::QuestionAnswering,
            HeadName::Choice => Head::MultipleChoice,
        }
    }
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct OnnxArgs {
    /// Use this ONNX operator set, 13 to 18 [default: 17, or that of the thimble file read]
    #[arg(long)]
    pub opset: Option<i64>,
    /// Fix the sequence length [default: symbolic, or that of the thimble file read]
    #[arg(long, value_name = "N")]
    pub seq: Option<usize>,
    /// Write the file for this runtime: board (thimble-device), onnxruntime, or onnx (any reader of standard operators)
    #[arg(long = "for", value_name = "RUNTIME", default_value_t)]
    pub runtime: Runtime,
}

#[derive(Debug, clap::Args)]
pub struct PayloadArgs {
    /// Limit the unit's memory (MemoryMax=)
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub max_ram: Option<ByteSize>,
    /// Use this aarch64 thimble-device [default: where scripts/cross-build leaves it]
    #[arg(long, value_name = "FILE")]
    pub device_program: Option<PathBuf>,
}

/// A size in bytes, above 0.
pub fn bytes(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| format!("'{text}' is not a size; write 12MiB (1024²), 12MB (1000²) or bytes"))?;
    if size.as_u64() == 0 {
        Err("a budget of 0 bytes fits no file".into())
    } else {
        Ok(size)
    }
}

/// A number from 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err(format!("'{text}' is not a share; write a number from 0 to 1")),
    }
}

/// A number of rows.
pub fn rows(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (1..=1_000_000).contains(&n) => Ok(n),
        _ => Err(format!("'{text}' is not a number of rows; write 1 to 1000000")),
    }
}

/// A time above 0.
pub fn milliseconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err(format!("'{text}' is not a time; write milliseconds above 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_mb_and_mib_differ_and_zero_is_refused() {
        assert_eq!(bytes("12MiB").unwrap().as_u64(), 12 << 20);
        assert_eq!(bytes("12MB").unwrap().as_u64(), 12_000_000);
        assert_eq!(bytes("4096").unwrap().as_u64(), 4096);
        for bad in ["0", "0MiB", "twelve", "-1", "12 parsecs", ""] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
