//! Arguments that several commands take, and how values are read.

use crate::boards::package::UnitOptions;
use crate::eval::columns::Columns;
use crate::eval::dataset::RowOptions;
use crate::eval::records::Form;
use crate::models::model_file::ModelSource;
use crate::models::read_options::ReadOptions;
use crate::render::text::{printable, say, size};
use bytesize::ByteSize;
use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use std::path::{Path, PathBuf};
use thimble_shared::artifact::emit::{LowerOptions, OPSETS};
use thimble_shared::artifact::runtime::Runtime;
use thimble_shared::board::memory::Need;
use thimble_shared::dtype::Format;
use thimble_shared::model::{AttentionArithmetic, Head};

/// Reads the name of a number format, in any spelling.
pub fn format() -> impl TypedValueParser<Value = Format> {
    let name = |format: Format| {
        let row = format.row();
        let name = PossibleValue::new(row.name).alias(row.alias).aliases(row.also);
        match row.help {
            Some(help) => name.help(help),
            None => name,
        }
    };
    PossibleValuesParser::new(Format::ALL.map(name)).try_map(|text| text.to_lowercase().parse::<Format>())
}

/// Reads the name of an arithmetic of attention.
pub fn attention() -> impl TypedValueParser<Value = AttentionArithmetic> {
    let names = AttentionArithmetic::ALL.map(AttentionArithmetic::name);
    PossibleValuesParser::new(names).try_map(|text| text.parse::<AttentionArithmetic>())
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
    /// Use this tokenizer.json, spiece.model, vocab.txt or their folder instead of the tokenizer beside the model
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Accept a quantized ONNX file and read its weights back to f32; the accuracy that quantizing cost stays lost
    #[arg(long)]
    pub dequantize: bool,
}

impl SourceArgs {
    /// The model at `path`, read so, with the tokenizer that is named.
    ///
    /// # Errors
    /// Where one of the two cannot be read.
    pub fn open(&self, path: &Path) -> anyhow::Result<ModelSource> {
        let source = ModelSource::open_with(path, &self.options())?;
        Ok(source.with_tokenizer(self.tokenizer.as_deref())?)
    }

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

/// What a user says of a file of rows whose content leaves it open.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Rows of inputs")]
pub struct RowArgs {
    /// Take the texts from this field or column; of a pair: NAME,NAME [default: told by the names data sets have]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub text_column: Vec<String>,
    /// Take the labels from this field or column [default: label, labels or another usual name]
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
    /// Read the rows in this form [default: told by the content]
    #[arg(long, value_enum, value_name = "FORM")]
    pub form: Option<Form>,
}

impl RowArgs {
    /// What the reader of rows takes; `file` is the option that names the file, and whether it was given.
    ///
    /// # Errors
    /// Where there is no file to read so, or the columns named are no text and no pair.
    pub fn options(&self, file: (&str, bool)) -> Result<RowOptions, String> {
        let named = !self.text_column.is_empty() || self.label_column.is_some() || self.form.is_some();
        if let ((option, false), true) = (file, named) {
            return Err(format!(
                "--text-column, --label-column and --form say how to read {option}; give it too"
            ));
        }
        if self.text_column.len() > 2 || self.text_column.iter().any(String::is_empty) {
            return Err("--text-column: name one column, or the two of a pair".into());
        }
        Ok(RowOptions {
            form: self.form,
            columns: Columns {
                text: self.text_column.clone(),
                label: self.label_column.clone(),
            },
        })
    }
}

fn opset_help() -> String {
    format!(
        "Use this ONNX operator set, {} to {} [default: {}, or that of the thimble file read]",
        OPSETS.start(),
        OPSETS.end(),
        LowerOptions::default().opset
    )
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct OnnxArgs {
    #[arg(long, help = opset_help())]
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
    /// Limit the units' memory (MemoryMax=) [default: half of the RAM of a known board]
    #[arg(long, value_name = "SIZE", value_parser = ram)]
    pub max_ram: Option<ByteSize>,
    /// Add a unit that measures the model at every boot (thimble-check.service)
    #[arg(long)]
    pub measure: bool,
    /// Use this thimble-device [default: the one found as docs/commands.md says]
    #[arg(long, value_name = "FILE")]
    pub device_program: Option<PathBuf>,
}

impl PayloadArgs {
    /// What the units are made of; `board_ram` is that of the board, where it is known.
    pub fn units(&self, board_ram: Option<u64>) -> UnitOptions {
        UnitOptions {
            max_ram: self.max_ram.map(|size| size.as_u64()),
            board_ram,
            measure: self.measure,
            by_digest: false,
        }
    }
}

/// What stands against the limit that the units hold a server to: nothing where serving is predicted to need no more. A limit that a
/// user gave is the user's to decide, so it is a warning.
pub fn limit_too_low(units: &UnitOptions, need: Need) -> Option<String> {
    let limit = units.memory().filter(|limit| *limit < need.total())?;
    let needs = format!(
        "the {} that serving this model {} is predicted to need",
        size(need.total()),
        match need.tokenizer {
            0 => "with token ids",
            _ => "with texts",
        }
    );
    match units.max_ram {
        Some(_) => {
            say(&format!(
                "warning: --max-ram {} is below {needs}: the system slows a server down that takes more, or ends it; --max-ram {} \
                 holds it",
                size(limit),
                need.total()
            ));
            None
        }
        None => Some(format!(
            "half of the board's RAM, {}, which the server may have, is below {needs}; --max-ram gives it more",
            size(limit)
        )),
    }
}

/// What is said of a board's server whose model has no tokenizer.
pub fn without_tokenizer(model: &Path) {
    say(&format!(
        "warning: {}: no tokenizer that the model was written with lies beside it: the server takes token ids only, and refuses texts",
        printable(&model.display().to_string())
    ));
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

/// A size of RAM in bytes: a program that needs less than 1 KiB is none, so whoever writes 24 means 24MiB.
pub fn ram(text: &str) -> Result<ByteSize, String> {
    let size = bytes(text)?;
    match size.as_u64() {
        n if n < LEAST_RAM => Err(format!(
            "{n} bytes of RAM hold no program; with a unit it is {n}MiB or {n}KiB"
        )),
        _ => Ok(size),
    }
}

/// Bytes below which a size of RAM is one whose unit was forgotten.
const LEAST_RAM: u64 = 1 << 10;

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
    fn a_format_is_known_by_both_of_its_names() {
        let command = || clap::Command::new("x").arg(clap::Arg::new("f").ignore_case(true).value_parser(format()));
        let read = |text: &str| -> Option<Format> {
            let matches = command().try_get_matches_from(["x", text]).ok()?;
            matches.get_one::<Format>("f").copied()
        };
        let cases = [
            ("i8", Some(Format::I8)),
            ("int8", Some(Format::I8)),
            ("i8a", Some(Format::I8A)),
            ("int8a", Some(Format::I8A)),
            ("f32", Some(Format::F32)),
            ("fp32", Some(Format::F32)),
            ("float16", Some(Format::F16)),
            ("w8", Some(Format::W8)),
            ("int4", Some(Format::I4)),
            ("INT4", Some(Format::I4)),
            ("i5", None),
        ];
        for (text, want) in cases {
            assert_eq!(read(text), want, "{text}");
        }
        // What the library reads in files is taken here too.
        for text in [
            "f32", "fp32", "f16", "fp16", "w8", "i8", "int8", "i8a", "int8a", "i4", "int4",
        ] {
            assert_eq!(read(text), text.parse().ok(), "{text}");
        }
    }

    #[test]
    fn ram_without_a_unit_is_refused_with_one() {
        assert!(ram("24").unwrap_err().contains("24MiB"));
        assert_eq!(ram("24MiB").unwrap().as_u64(), 24 << 20);
        assert_eq!(ram("25165824").unwrap().as_u64(), 25_165_824);
    }

    #[test]
    fn a_limit_below_what_serving_needs_is_refused_unless_a_user_gave_it() {
        let need = Need {
            program: 20 << 20,
            activations: 0,
            file: 0,
            copy: 0,
            tokenizer: 10 << 20,
        };
        let units = |max_ram, board_ram| UnitOptions {
            max_ram,
            board_ram,
            ..UnitOptions::default()
        };
        assert_eq!(limit_too_low(&units(None, None), need), None);
        assert_eq!(limit_too_low(&units(None, Some(60 << 20)), need), None);
        let low = limit_too_low(&units(None, Some(50 << 20)), need).unwrap();
        assert!(
            low.contains("25.0 MiB") && low.contains("30.0 MiB that serving this model with texts"),
            "{low}"
        );
        assert_eq!(
            limit_too_low(&units(None, Some(50 << 20)), need.with_tokenizer(0)),
            None
        );
        assert_eq!(limit_too_low(&units(Some(1 << 20), Some(1 << 30)), need), None);
    }

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
