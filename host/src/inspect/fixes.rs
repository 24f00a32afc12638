//! What would make a foreign file smaller, by how much to the byte, and the command that does it.

use super::Fix;
use super::causes::Account;
use crate::models::onnx_import;
use crate::onnx::flow::Flow;
use crate::onnx::slim::{SlimError, SlimOptions, SlimPlan, write};
use crate::onnx::{OnnxError, OnnxFile};
use crate::render::text::{printable, shell, shell_path};
use std::rc::Rc;
use thimble_shared::artifact::emit::LowerOptions;
use thimble_shared::artifact::{self, Provenance};
use thimble_shared::dtype::Format;
use thimble_shared::model::ModelSpec;
use thimble_shared::onnx::reader::ModelView;

/// Fixes that save anything, the most first.
pub fn of<'a>(
    file: &'a OnnxFile,
    view: Rc<ModelView<'a>>,
    flow: Rc<Flow<'a>>,
    account: &Account,
) -> Result<Vec<Fix>, OnnxError> {
    let shown = shell_path(&file.path);
    let mut fixes = Vec::new();
    let before = account.total();
    let mut plan: Option<(Vec<String>, SlimPlan<'a>)> = None;
    for (options, what, flags) in ways(account, !view.declared.is_empty()) {
        // Ways that keep the same outputs share the plan: it is most of the work.
        let made = match plan.take() {
            Some((outputs, plan)) if outputs == options.outputs => Ok(plan),
            _ => SlimPlan::new(file, &view, &flow, &options.outputs),
        };
        let bytes = made.and_then(|made| {
            let (_, plan) = plan.insert((options.outputs.clone(), made));
            write(file, &view, plan, &options, "OUT.onnx.data")
        });
        let bytes = match bytes {
            Ok(slimmed) => slimmed.bytes(),
            Err(SlimError::Onnx(e)) if account.notes.is_empty() => return Err(e),
            // A missing external file has been named; there is nothing to count without it.
            Err(_) => continue,
        };
        // A flag that changes nothing is no fix.
        if bytes < before && fixes.iter().all(|f: &Fix| f.bytes != bytes) {
            fixes.push(Fix {
                what,
                command: format!("thimble slim {shown} -o OUT.onnx{flags}"),
                bytes,
                saves: before - bytes,
            });
        }
    }
    fixes.extend(artifacts(file, before));
    fixes.sort_by_key(|f| std::cmp::Reverse(f.saves));
    Ok(fixes)
}

/// A way to write the file anew: the options, what they do, and the flags that ask for it.
type Way = (SlimOptions, String, String);

/// The ways that may save something, the plainest first; `declared` is whether the file declares shapes of inner values.
fn ways(account: &Account, declared: bool) -> Vec<Way> {
    let kept = account.named_outputs.join(",");
    let dropped = printable(&account.unnamed_outputs.join(", "));
    let plain = SlimOptions::default();
    let named = SlimOptions {
        outputs: account.named_outputs.clone(),
        ..plain.clone()
    };
    let short = SlimOptions {
        short_names: true,
        ..plain.clone()
    };
    let bare = SlimOptions {
        strip_shapes: true,
        ..short.clone()
    };
    let mut ways = vec![
        (
            plain,
            "copies, dead weights, Identity nodes, doc strings and stack traces taken out; the graph computes the same, and a runtime that fuses it otherwise may round its last bits otherwise"
                .to_string(),
            String::new(),
        ),
        (
            short,
            "the same, and short names for inner values".to_string(),
            " --short-names".to_string(),
        ),
    ];
    if declared {
        ways.push((
            bare,
            "the same, and no declared shapes of inner values; a runtime may then fuse and round differently"
                .to_string(),
            " --short-names --strip-shapes".to_string(),
        ));
    }
    // The flag separates names by commas and has no way to say one that holds a comma.
    let sayable = account.named_outputs.iter().all(|name| !name.contains(','));
    if !account.unnamed_outputs.is_empty() && sayable {
        ways.push((
            named,
            format!("the same, and without the output nobody named ({dropped})"),
            format!(" --outputs={}", shell(kept.as_bytes())),
        ));
    }
    ways
}

/// What thimble's own files of the same model would take: known from the structure alone, so nothing is proven yet.
fn artifacts(file: &OnnxFile, before: u64) -> Vec<Fix> {
    let Ok(outline) = onnx_import::outline(file) else {
        return Vec::new();
    };
    let shown = shell_path(&file.path);
    let formats = [
        (Format::F32, "fp32", "one file, every weight once, fp32"),
        (Format::F16, "fp16", "the same in fp16"),
        (
            Format::I8,
            "int8",
            "the same in int8; thimble shrink finds what that costs, and mixes formats under a budget",
        ),
    ];
    let options = LowerOptions {
        seq: outline.seq,
        ..LowerOptions::default()
    };
    let mut fixes = Vec::new();
    for (format, flag, what) in formats {
        let graph = ModelSpec::uniform(outline.config.clone(), format);
        let provenance = Provenance {
            source_sha256: Some("0".repeat(64)),
            tokenizer_sha256: outline.tokenizer.is_some().then(|| "0".repeat(64)),
        };
        let Ok(bytes) = artifact::size(&graph, options, &provenance) else {
            continue;
        };
        if (bytes as u64) < before {
            fixes.push(Fix {
                what: format!("{what}; if the file proves to be that ALBERT, which thimble export checks"),
                command: format!("thimble export {shown} -o OUT.onnx --precision {flag}"),
                bytes: bytes as u64,
                saves: before - bytes as u64,
            });
        }
    }
    fixes
}
