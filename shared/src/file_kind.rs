//! What a file is, told by its bytes and never by its name. In comes a whole file, out comes its kind; a kind that holds no
//! model prints as what it is and what to do then. Only marks are looked at: a file of a readable kind may still be damaged.

use std::fmt;

/// The kinds of file that people give where a model is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Begins as an ONNX `ModelProto` does.
    Onnx,
    /// A whole safetensors file.
    Safetensors,
    /// A zip archive of `torch.save`, as torch writes since 1.6.
    Torch,
    /// The stream of pickles that `torch.save` wrote before 1.6.
    TorchLegacy,
    /// A `*.index.json` that names the shards of a checkpoint.
    ShardIndex,
    /// No bytes at all.
    Empty,
    /// What git leaves in the place of a large file; the size of the file it stands for.
    LfsPointer(Option<u64>),
    /// A page of a web server.
    Html,
    /// What a server of files answers instead of a file.
    ErrorPage,
    /// ONNX Runtime's own format.
    OrtFlatbuffer,
    /// A flatbuffer of TensorFlow Lite.
    TfLite,
    /// A program that torch compiled.
    TorchScript,
    /// A safetensors file that ends early: the bytes that are there, and those that its header asks for.
    CutSafetensors {
        /// Bytes of the file.
        have: u64,
        /// Bytes it should have; at least so many where its header is cut short.
        want: u64,
    },
    /// A zip archive without the directory at its end.
    CutZip(u64),
    /// Another zip archive.
    Zip,
    /// Arrays of numpy, one or several.
    Numpy,
    /// Keras' or h5py's weights.
    Hdf5,
    /// llama.cpp's format.
    Gguf,
    /// Weights of flax.
    Msgpack,
    /// The vocabulary of sentencepiece.
    SentencePiece,
    /// A tokenizer.json.
    TokenizerJson,
    /// A config.json.
    ConfigJson,
    /// Any other JSON.
    Json,
    /// A pickle that `torch.save` did not write.
    Pickle,
    /// A tar archive.
    Tar,
    /// Something packed, by the program that packs so.
    Packed(&'static str),
    /// The index of a TensorFlow checkpoint.
    TensorFlowIndex,
    /// A graph or SavedModel of TensorFlow.
    TensorFlowGraph,
    /// A program or library.
    Program,
    /// An XML document, such as OpenVINO's.
    Xml,
    /// Any other text.
    Text,
    /// None of these.
    Unknown,
}

/// How much of a file's beginning is taken for text.
const LOOKED_AT: usize = 512;
/// How far keys are searched for in JSON.
const JSON_LOOKED_AT: usize = 1 << 20;
/// Most of a zip archive's directory that is looked at.
const DIRECTORY: usize = 4 << 20;
/// A zip archive's end record may be followed by a comment of 64 KiB.
const END_RECORD: usize = 22 + 65535;
/// Longest header that safetensors takes; a longer one is its reader's to refuse.
const MAX_HEADER: u64 = 100_000_000;
/// `torch.save`'s magic number, 0x1950a86a20f9469cfc6c, as a pickle stores it and as protocols 0 and 1 spell it.
const TORCH_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const TORCH_MAGIC_TEXT: &[u8] = b"L119547037146038801333356L\n";
/// The last eight bytes of a LevelDB table.
const TABLE_MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();

impl FileKind {
    /// What `bytes`, a whole file, are.
    pub fn of(bytes: &[u8]) -> FileKind {
        if bytes.is_empty() {
            return FileKind::Empty;
        }
        marked(bytes)
            .or_else(|| text(bytes))
            .or_else(|| safetensors(bytes))
            .unwrap_or_else(|| protobuf(bytes))
    }

    /// Whether it may hold the weights of a checkpoint.
    pub fn is_checkpoint(&self) -> bool {
        use FileKind::{Safetensors, ShardIndex, Torch, TorchLegacy};
        matches!(self, Safetensors | Torch | TorchLegacy | ShardIndex)
    }

    /// Whether somebody who keeps it in a model's folder takes it for the weights.
    pub fn was_meant_as_weights(&self) -> bool {
        match self {
            FileKind::LfsPointer(_)
            | FileKind::Html
            | FileKind::ErrorPage
            | FileKind::TorchScript
            | FileKind::CutSafetensors { .. }
            | FileKind::CutZip(_)
            | FileKind::Zip
            | FileKind::Numpy
            | FileKind::Hdf5
            | FileKind::Gguf
            | FileKind::Msgpack
            | FileKind::Pickle
            | FileKind::Tar
            | FileKind::Packed(_)
            | FileKind::OrtFlatbuffer
            | FileKind::TfLite => true,
            FileKind::Onnx
            | FileKind::Safetensors
            | FileKind::Torch
            | FileKind::TorchLegacy
            | FileKind::ShardIndex
            | FileKind::Empty
            | FileKind::SentencePiece
            | FileKind::TokenizerJson
            | FileKind::ConfigJson
            | FileKind::Json
            | FileKind::TensorFlowIndex
            | FileKind::TensorFlowGraph
            | FileKind::Program
            | FileKind::Xml
            | FileKind::Text
            | FileKind::Unknown => false,
        }
    }

    /// Whether it may be ONNX: it begins so, or nothing is known of it.
    pub fn may_be_onnx(&self) -> bool {
        matches!(self, FileKind::Onnx | FileKind::Unknown | FileKind::Empty)
    }
}

/// Formats that begin or end with a mark of their own.
fn marked(bytes: &[u8]) -> Option<FileKind> {
    let at = |offset: usize, mark: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(mark));
    let starts: [(&[u8], FileKind); 16] = [
        (b"version https://git-lfs", FileKind::LfsPointer(pointer_size(bytes))),
        (b"\x89HDF\r\n\x1a\n", FileKind::Hdf5),
        (b"GGUF", FileKind::Gguf),
        (b"\x93NUMPY", FileKind::Numpy),
        (b"\x1f\x8b", FileKind::Packed("gzip")),
        (b"BZh", FileKind::Packed("bzip2")),
        (b"\xfd7zXZ\0", FileKind::Packed("xz")),
        (b"\x28\xb5\x2f\xfd", FileKind::Packed("zstd")),
        (b"\x04\x22\x4d\x18", FileKind::Packed("lz4")),
        (b"7z\xbc\xaf\x27\x1c", FileKind::Packed("7z")),
        (b"Rar!\x1a\x07", FileKind::Packed("rar")),
        (b"\x7fELF", FileKind::Program),
        (b"MZ\x90\0", FileKind::Program),
        (b"\xcf\xfa\xed\xfe", FileKind::Program),
        (TORCH_MAGIC_TEXT, FileKind::TorchLegacy),
        (b"PK\x05\x06", FileKind::Zip),
    ];
    if let Some((_, kind)) = starts.into_iter().find(|(mark, _)| bytes.starts_with(mark)) {
        return Some(kind);
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return Some(zip(bytes));
    }
    if at(4, b"ORTM") {
        return Some(FileKind::OrtFlatbuffer);
    }
    if at(4, b"TFL3") {
        return Some(FileKind::TfLite);
    }
    if at(257, b"ustar") {
        return Some(FileKind::Tar);
    }
    if bytes.len() >= 48 && bytes.ends_with(&TABLE_MAGIC) {
        return Some(FileKind::TensorFlowIndex);
    }
    pickle(bytes).or_else(|| msgpack(bytes))
}

/// `size 123` in a Git LFS pointer.
fn pointer_size(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(&bytes[..bytes.len().min(LOOKED_AT)]).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("size ")?.trim().parse().ok())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}

/// Which archive a file that begins as a zip does is, by the names in the directory at its end. Archives inside it have
/// directories of their own, which are not looked at.
fn zip(bytes: &[u8]) -> FileKind {
    let tail = bytes.len().saturating_sub(END_RECORD);
    let Some(end) = bytes[tail..].windows(4).rposition(|w| w == b"PK\x05\x06") else {
        return FileKind::CutZip(bytes.len() as u64);
    };
    let names = zip_names(bytes, tail + end);
    let has = |end: &[u8]| names.iter().any(|name| name.ends_with(end));
    if has(b"constants.pkl") {
        FileKind::TorchScript
    } else if has(b"data.pkl") {
        FileKind::Torch
    } else if has(b".npy") {
        FileKind::Numpy
    } else {
        FileKind::Zip
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(bytes.get(at..at.checked_add(N)?)?);
    Some(u64::from_le_bytes(wide))
}

/// The names in the directory of a zip archive whose end record is at `end`.
fn zip_names(bytes: &[u8], end: usize) -> Vec<&[u8]> {
    // An archive of more than 4 GiB has its numbers in a wider record, which the twenty bytes before the end record lead to.
    let wide = end.checked_sub(20).filter(|&at| bytes[at..].starts_with(b"PK\x06\x07"));
    let start = match wide.and_then(|locator| number::<8>(bytes, locator + 8)) {
        Some(record) => usize::try_from(record)
            .ok()
            .and_then(|at| number::<8>(bytes, at.checked_add(48)?)),
        None => number::<4>(bytes, end + 16),
    };
    let start = start
        .and_then(|start| usize::try_from(start).ok())
        .unwrap_or(usize::MAX);
    let mut rest = bytes.get(start..end).unwrap_or_default();
    rest = &rest[..rest.len().min(DIRECTORY)];
    let mut names = Vec::new();
    while rest.starts_with(b"PK\x01\x02") {
        let len = |at| number::<2>(rest, at).map_or(0, |len| len as usize);
        let name = 46..46 + len(28);
        names.extend(rest.get(name.clone()));
        rest = rest.get(name.end + len(30) + len(32)..).unwrap_or_default();
    }
    names
}

fn pickle(bytes: &[u8]) -> Option<FileKind> {
    let [0x80, 2..=5, opcode, ..] = bytes else { return None };
    if contains(&bytes[..bytes.len().min(32)], &TORCH_MAGIC) {
        return Some(FileKind::TorchLegacy);
    }
    // Opcodes that a first value begins with: containers, globals, strings, numbers, marks and frames.
    b"}](c)X\x8c\x8a\x95KJMNUG".contains(opcode).then_some(FileKind::Pickle)
}

/// A map of msgpack whose first key is a word.
fn msgpack(bytes: &[u8]) -> Option<FileKind> {
    let rest = match bytes {
        [0x81..=0x8f, rest @ ..] => rest,
        [0xde, _, _, rest @ ..] => rest,
        _ => return None,
    };
    let (len, key) = match rest {
        [mark @ 0xa1..=0xbf, key @ ..] => (usize::from(mark & 0x1f), key),
        [0xd9, len, key @ ..] => (usize::from(*len), key),
        _ => return None,
    };
    let word = key
        .get(..len)?
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b"_.-/ ".contains(b));
    word.then_some(FileKind::Msgpack)
}

/// A file that begins with a length of eight bytes and JSON: whole, or how much of it is there.
fn safetensors(bytes: &[u8]) -> Option<FileKind> {
    let length = u64::from_le_bytes(bytes.first_chunk::<8>().copied()?);
    if bytes.get(8) != Some(&b'{') || (length > MAX_HEADER && protobuf(bytes) != FileKind::Unknown) {
        return None;
    }
    if length > MAX_HEADER {
        return Some(FileKind::Safetensors);
    }
    let have = bytes.len() as u64;
    let want = safetensors_len(bytes, length);
    Some(if have < want {
        FileKind::CutSafetensors { have, want }
    } else {
        FileKind::Safetensors
    })
}

/// How long a safetensors file is by its header of `length` bytes; where that is cut short, how long it is at least.
fn safetensors_len(bytes: &[u8], length: u64) -> u64 {
    let start = length.saturating_add(8);
    let header = usize::try_from(start).ok().and_then(|end| bytes.get(8..end));
    start.saturating_add(header.map_or(0, data_end))
}

/// How many bytes stand behind the last tensor of a safetensors file.
pub fn bytes_too_many(bytes: &[u8]) -> Option<u64> {
    let length = u64::from_le_bytes(bytes.first_chunk::<8>().copied()?);
    let more = (bytes.len() as u64).checked_sub(safetensors_len(bytes, length))?;
    Some(more).filter(|&more| more > 0)
}

/// The highest end among the `"data_offsets":[begin,end]` of a header.
fn data_end(header: &[u8]) -> u64 {
    const KEY: &[u8] = b"\"data_offsets\"";
    let mut end = 0;
    let mut rest = header;
    while let Some(at) = rest.windows(KEY.len()).position(|w| w == KEY) {
        rest = &rest[at + KEY.len()..];
        let list = rest.split(|&b| b == b']').next().unwrap_or_default();
        let last = list.rsplit(|&b| b == b',').next().unwrap_or_default();
        let number = std::str::from_utf8(last).ok().and_then(|n| n.trim().parse().ok());
        end = end.max(number.unwrap_or(0));
    }
    end
}

fn text(bytes: &[u8]) -> Option<FileKind> {
    let head = &bytes[..bytes.len().min(LOOKED_AT)];
    // A character may be cut in two at the end of the part looked at.
    let whole = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() && bytes.len() > head.len() => {
            std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return None,
    };
    if whole.chars().any(|c| c.is_control() && !"\t\n\r\u{c}".contains(c)) {
        return None;
    }
    let start = prologue(whole).to_ascii_lowercase();
    let begins = |starts: &[&str]| starts.iter().any(|tag| start.starts_with(tag));
    Some(if begins(&["<!doctype html", "<html", "<head", "<body"]) {
        FileKind::Html
    } else if begins(&ERRORS) {
        FileKind::ErrorPage
    } else if start.starts_with('<') {
        FileKind::Xml
    } else if start.starts_with('{') || list(&start) {
        json(&bytes[..bytes.len().min(JSON_LOOKED_AT)])
    } else {
        FileKind::Text
    })
}

/// How the answers of servers begin that have no such file or show it to nobody: those of S3 and its like, and of the hub.
const ERRORS: [&str; 6] = [
    "<error>",
    "entry not found",
    "repository not found",
    "invalid username or password",
    "{\"error\":\"",
    "{\"error\": \"",
];

/// A text without the declarations and comments that may stand before a page or a document.
fn prologue(text: &str) -> &str {
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        let after = |start: &str, end: &str| Some(rest.strip_prefix(start)?.split_once(end)?.1.trim_start());
        match after("<!--", "-->")
            .or_else(|| after("<?xml", "?>"))
            .filter(|rest| !rest.is_empty())
        {
            Some(after) => rest = after,
            None => return rest,
        }
    }
}

/// Whether a text begins as a list of JSON does; vocabularies begin with `[PAD]`.
fn list(start: &str) -> bool {
    let first = |rest: &str| rest.trim_start().chars().next();
    let inside = start.strip_prefix('[').and_then(first);
    inside.is_some_and(|c| "{[]\"-0123456789".contains(c))
}

fn json(head: &[u8]) -> FileKind {
    let has = |key: &str| contains(head, format!("\"{key}\"").as_bytes());
    if has("weight_map") {
        FileKind::ShardIndex
    } else if has("added_tokens") && has("model") {
        FileKind::TokenizerJson
    } else if ["model_type", "architectures", "hidden_size", "plbert"]
        .into_iter()
        .any(has)
    {
        FileKind::ConfigJson
    } else {
        FileKind::Json
    }
}

/// Protocol buffers have no mark: the first field's number and type tell whose they are.
fn protobuf(bytes: &[u8]) -> FileKind {
    match bytes {
        // `pieces`, whose first field is a text and whose second a float; a GraphDef's `node` has two texts.
        [0x0a, _, 0x0a, len, rest @ ..] => match rest.get(usize::from(*len)) {
            Some(0x15) => FileKind::SentencePiece,
            Some(0x12) => FileKind::TensorFlowGraph,
            _ => FileKind::Unknown,
        },
        [0x0a, _, _, 0x0a, len, rest @ ..] if rest.get(usize::from(*len)) == Some(&0x12) => FileKind::TensorFlowGraph,
        // A SavedModel's version is 1, and its graphs stand where an ONNX file has the name of the program that wrote it.
        [0x08, 0x01, 0x12, 0x80..=0xff, ..] => FileKind::TensorFlowGraph,
        // The fields of ModelProto: numbers 1 and 5, and texts, graph, operator sets and metadata.
        [0x08 | 0x28 | 0x12 | 0x1a | 0x22 | 0x32 | 0x3a | 0x42 | 0x72, ..] => FileKind::Onnx,
        _ => FileKind::Unknown,
    }
}

impl fmt::Display for FileKind {
    /// What a file of this kind is and what to do with it. One arm a kind, so it is not cut into parts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            FileKind::LfsPointer(size) => {
                f.write_str("a Git LFS pointer, not the file itself")?;
                if let Some(size) = size {
                    write!(f, ", which has {size} bytes")?;
                }
                "; fetch it with git lfs pull"
            }
            FileKind::CutSafetensors { have, want } => {
                return write!(
                    f,
                    "a safetensors file that is cut short: it ends after {have} of {want} bytes; fetch it again"
                );
            }
            FileKind::CutZip(have) => {
                return write!(
                    f,
                    "a zip archive that is cut short: after {have} bytes it has no end record; fetch it again"
                );
            }
            FileKind::Packed(program) => {
                return write!(f, "packed with {program}; unpack it and name the model inside");
            }
            FileKind::Onnx => "an ONNX file",
            FileKind::Safetensors => {
                "the weights of a checkpoint (safetensors); thimble export makes an ONNX file of it"
            }
            FileKind::Torch | FileKind::TorchLegacy => {
                "the weights of a checkpoint (torch.save); thimble export makes an ONNX file of it"
            }
            FileKind::ShardIndex => "the index of a sharded checkpoint; thimble export makes an ONNX file of it",
            FileKind::Empty => "an empty file",
            FileKind::Html => "an HTML page, not a model: a sign-in or error page was saved; fetch the file again",
            FileKind::ErrorPage => "a server's error message (file not found or access denied); fetch the file again",
            FileKind::OrtFlatbuffer => {
                "ONNX Runtime's own format (.ort), which only ONNX Runtime reads; name the .onnx file it was made from"
            }
            FileKind::TfLite => "a TensorFlow Lite model; name the checkpoint it was made from",
            FileKind::TorchScript => {
                "a TorchScript program, not a state dict; save the weights with torch.save(torch.jit.load(FILE).state_dict(), NEW)"
            }
            FileKind::Zip => "a zip archive that torch.save did not write; unpack it and name the model inside",
            FileKind::Numpy => "arrays of numpy; save the model's state_dict() with torch.save or safetensors",
            FileKind::Hdf5 => {
                "an HDF5 file of Keras; load it with the class that config.json names, from_tf=True, in transformers before 4.50, \
                 and save_pretrained it to another folder"
            }
            FileKind::Gguf => "a GGUF file of llama.cpp; name the checkpoint it was made from",
            FileKind::Msgpack => {
                "a msgpack file of flax; load it with the class that config.json names, from_flax=True, in transformers before 4.50, \
                 and save_pretrained it to another folder"
            }
            FileKind::SentencePiece => {
                "a tokenizer (sentencepiece), not a model; name the folder or the weights beside it"
            }
            FileKind::TokenizerJson => {
                "a tokenizer (tokenizer.json), not a model; name the folder or the weights beside it"
            }
            FileKind::ConfigJson => "a configuration, not the weights; name its folder",
            FileKind::Json => "a JSON text, not a model",
            FileKind::Pickle => {
                "a pickle that torch.save did not write; nothing in it is executed, so where it is trusted: \
                 torch.save(pickle.load(open(FILE, 'rb')), NEW)"
            }
            FileKind::Tar => {
                "a tar archive; unpack it and name the model inside (torch before 0.2 saved so: load and save it again there)"
            }
            FileKind::TensorFlowIndex => {
                "the index of a TensorFlow checkpoint; thimble export makes an ONNX file of it"
            }
            FileKind::TensorFlowGraph => "a graph of TensorFlow; name the checkpoint it was made from",
            FileKind::Program => "a program, not a model",
            FileKind::Xml => {
                "an XML document, such as OpenVINO's; name the .onnx file or the checkpoint it was made from"
            }
            FileKind::Text => "a text, not a model",
            FileKind::Unknown => "neither ONNX, safetensors nor an archive of torch.save",
        };
        f.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(bytes: &[u8]) -> FileKind {
        FileKind::of(bytes)
    }

    // One row a mark, as the table of kinds lists them, so it is not cut into parts.
    #[test]
    fn every_mark_is_told() {
        let header = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"data_offsets":[8, 16 ]}}"#;
        let safetensors = |data: usize| [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; data]].concat();
        let zip = |payload: &[u8], names: &[&str]| {
            let start = [b"PK\x03\x04", payload].concat();
            let entry = |name: &&str| {
                let len = (name.len() as u16).to_le_bytes();
                [b"PK\x01\x02", &[0u8; 24][..], &len, &[0; 16], name.as_bytes()].concat()
            };
            let directory: Vec<u8> = names.iter().flat_map(entry).collect();
            let at = (start.len() as u32).to_le_bytes();
            [&start[..], &directory, b"PK\x05\x06", &[0; 12], &at, &[0; 2]].concat()
        };
        let entry = |name: &str| zip(b"", &[name]);
        let whole = 8 + header.len() as u64;
        let cases: Vec<(Vec<u8>, FileKind)> = vec![
            (vec![], FileKind::Empty),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 47\n".to_vec(),
                FileKind::LfsPointer(Some(47)),
            ),
            (b"\n <!DOCTYPE html>".to_vec(), FileKind::Html),
            (b"<!-- a --> <!-- b -->\n<html>".to_vec(), FileKind::Html),
            (b"<?xml version=\"1.0\"?>".to_vec(), FileKind::Xml),
            (
                b"<?xml version=\"1.0\"?><!-- c -->\n<net name=\"a\">".to_vec(),
                FileKind::Xml,
            ),
            (b"<!-- never ends".to_vec(), FileKind::Xml),
            (
                b"<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code>".to_vec(),
                FileKind::ErrorPage,
            ),
            (b"Entry not found".to_vec(), FileKind::ErrorPage),
            (b"{\"error\":\"Repository not found\"}".to_vec(), FileKind::ErrorPage),
            (b"\x18\0\0\0ORTM\0\0".to_vec(), FileKind::OrtFlatbuffer),
            (b"\x1c\0\0\0TFL3".to_vec(), FileKind::TfLite),
            (safetensors(16), FileKind::Safetensors),
            (safetensors(17), FileKind::Safetensors),
            (
                safetensors(15),
                FileKind::CutSafetensors {
                    have: whole + 15,
                    want: whole + 16,
                },
            ),
            (
                safetensors(16)[..40].to_vec(),
                FileKind::CutSafetensors { have: 40, want: whole },
            ),
            (entry("m/data.pkl"), FileKind::Torch),
            (zip(b"", &["m/data.pkl", "m/constants.pkl"]), FileKind::TorchScript),
            (entry("arr_0.npy"), FileKind::Numpy),
            (entry("word/document.xml"), FileKind::Zip),
            (
                zip(&entry("m/data.pkl"), &["model/pytorch_model.bin", "model/config.json"]),
                FileKind::Zip,
            ),
            (b"PK\x03\x04m/data.pkl".to_vec(), FileKind::CutZip(14)),
            (
                [b"\x80\x02\x8a\n", &TORCH_MAGIC[..], b"."].concat(),
                FileKind::TorchLegacy,
            ),
            (
                [b"\x80\x04\x95\x0d\0\0\0\0\0\0\0\x8a\n", &TORCH_MAGIC[..], b"."].concat(),
                FileKind::TorchLegacy,
            ),
            (b"L119547037146038801333356L\n.".to_vec(), FileKind::TorchLegacy),
            (b"\x80\x04\x95\x0d\0\0\0\0\0\0\0}.".to_vec(), FileKind::Pickle),
            (b"\x82\xa6albert\x81".to_vec(), FileKind::Msgpack),
            (b"\x89HDF\r\n\x1a\n".to_vec(), FileKind::Hdf5),
            (b"GGUF\x03\0\0\0".to_vec(), FileKind::Gguf),
            (
                b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02".to_vec(),
                FileKind::SentencePiece,
            ),
            (b"\x0a\x0e\x0a\x01x\x12\x03Add".to_vec(), FileKind::TensorFlowGraph),
            (
                b"{\"version\":\"1.0\",\"added_tokens\":[],\"model\":{}}".to_vec(),
                FileKind::TokenizerJson,
            ),
            (b"{\"weight_map\": {}}".to_vec(), FileKind::ShardIndex),
            (b"{\"model_type\": \"albert\"}".to_vec(), FileKind::ConfigJson),
            (b"[1]".to_vec(), FileKind::Json),
            (b"\x1f\x8b\x08".to_vec(), FileKind::Packed("gzip")),
            (b"\x7fELF".to_vec(), FileKind::Program),
            ("[PAD]\n今天".as_bytes().to_vec(), FileKind::Text),
            ("hello\n今天".as_bytes().to_vec(), FileKind::Text),
            (b"\x08\x08\x12\x07pytorch".to_vec(), FileKind::Onnx),
            (vec![0xff; 64], FileKind::Unknown),
        ];
        for (bytes, want) in cases {
            assert_eq!(kind(&bytes), want, "{}", bytes.escape_ascii());
            assert!(!want.to_string().contains('\n'));
        }
        for (data, want) in [(15, None), (16, None), (19, Some(3))] {
            assert_eq!(bytes_too_many(&safetensors(data)), want);
        }
        let mut tar = vec![b'x'; 600];
        tar[5] = 0;
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(kind(&tar), FileKind::Tar);
    }
}
