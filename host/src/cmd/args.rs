//! Arguments that several commands take, and how values are read.

use crate::models::read_options::ReadOptions;
use bytesize::ByteSize;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use std::path::PathBuf;
use thimble_shared::dtype::Format;
use thimble_shared::model::Head;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    Fp32,
    Fp16,
    /// int8 weights, f32 arithmetic
    W8,
    /// int8 weights and activations
    Int8,
    /// int8 weights and activations, each token around the middle of its range
    Int8a,
    /// int4 weights in blocks of 32, int8 activations
    Int4,
}

impl Precision {
    pub fn format(self) -> Format {
        match self {
            Precision::Fp32 => Format::F32,
            Precision::Fp16 => Format::F16,
            Precision::W8 => Format::W8,
            Precision::Int8 => Format::I8,
            Precision::Int8a => Format::I8A,
            Precision::Int4 => Format::I4,
        }
    }
}

/// How a model is read where its folder or file leaves it open.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Reading the source")]
pub struct SourceArgs {
    /// Make this head, whatever class config.json names
    #[arg(long, value_enum, value_name = "NAME")]
    pub head: Option<HeadName>,
    /// Merge this LoRA adapter of PEFT into the checkpoint
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Of an ONNX file: take the ALBERT that ends in this value, in place of the file's outputs; a list takes several
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub output_value: Vec<String>,
    /// Of a quantised ONNX file: take its weights as they are; what quantising cost stays lost
    #[arg(long)]
    pub dequantize: bool,
}

impl SourceArgs {
    /// What the readers take.
    pub fn options(&self) -> ReadOptions {
        ReadOptions {
            head: self.head.map(|name| name.0),
            adapter: self.adapter.clone(),
            output_values: self.output_value.clone(),
            dequantize: self.dequantize,
        }
    }
}

/// A head by the name the command line gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadName(pub Head);

impl ValueEnum for HeadName {
    fn value_variants<'a>() -> &'a [HeadName] {
        const ALL: [HeadName; Head::ALL.len()] = {
            let mut all = [HeadName(Head::None); Head::ALL.len()];
            let mut at = 0;
            while at < all.len() {
                all[at] = HeadName(Head::ALL[at]);
                at += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = self.0.row().flag;
        Some(PossibleValue::new(name).help(help))
    }
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct OnnxArgs {
    /// ONNX operator set, 13 to 18 [default: 17, or what a file of thimble's already has]
    #[arg(long)]
    pub opset: Option<i64>,
    /// Fix the sequence length [default: symbolic, or what a file of thimble's already has]
    #[arg(long, value_name = "N")]
    pub seq: Option<usize>,
}

#[derive(Debug, clap::Args)]
pub struct PayloadArgs {
    /// The unit's memory limit (MemoryMax=)
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub max_ram: Option<ByteSize>,
    /// The aarch64 thimble-device [default: where scripts/cross-build leaves it]
    #[arg(long, value_name = "FILE")]
    pub device_program: Option<PathBuf>,
}

/// A size in bytes, above 0.
pub fn bytes(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| format!("'{text}' is not a size; write 12MiB (1024²), 12MB (1000²) or bytes"))?;
    if size.as_u64() == 0 {
        Err("a budget of 0 bytes holds nothing".into())
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
