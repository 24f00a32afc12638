//! What would make a foreign file smaller, by how much to the byte, and the command that does it.

use super::Fix;
use super::causes::Account;
use crate::onnx::{OnnxError, OnnxFile};
use crate::slim::{Options, SlimError, slim};

/// Fixes that save anything, the most first.
pub fn of(file: &OnnxFile, account: &Account) -> Result<Vec<Fix>, OnnxError> {
    let shown = file.path.display();
    let mut fixes = Vec::new();
    let kept = account.named_outputs.join(",");
    let dropped = account.unnamed_outputs.join(", ");
    let plain = Options::default();
    let named = Options {
        outputs: account.named_outputs.clone(),
        ..plain.clone()
    };
    let short = Options {
        short_names: true,
        ..plain.clone()
    };
    let mut ways = vec![
        (plain, "copies, dead weights, Identity nodes, doc strings and stack traces taken out; outputs bit-identical".to_string(), String::new()),
        (short, "the same, and short names for inner values".to_string(), " --short-names".to_string()),
    ];
    if !account.unnamed_outputs.is_empty() {
        ways.push((
            named,
            format!("the same, and without the output nobody named ({dropped})"),
            format!(" --outputs {kept}"),
        ));
    }
    let before = account.total();
    for (options, what, flags) in ways {
        let bytes = match slim(file, &options, "model.onnx.data") {
            Ok(slimmed) => slimmed.bytes(),
            Err(SlimError::Onnx(e)) if account.notes.is_empty() => return Err(e),
            // A missing external file has been named; there is nothing to count without it.
            Err(_) => continue,
        };
        if bytes < before {
            fixes.push(Fix {
                what,
                command: format!("thimble slim {shown} -o OUT.onnx{flags}"),
                bytes,
                saves: before - bytes,
            });
        }
    }
    fixes.sort_by_key(|f| std::cmp::Reverse(f.saves));
    Ok(fixes)
}
