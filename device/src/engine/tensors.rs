//! Reads and writes the small safetensors files that carry inputs and outputs of the device program: an 8-byte little
//! endian header length, a JSON header of name → dtype, shape, data_offsets, then the data. Integers come in (I64, I32),
//! F32 goes out; model weights never pass here.

use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use thimble_shared::files;

use serde_json::{Map, Value, json};

/// Why a safetensors file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// The operating system could not read or write it.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is too short, or its header is no JSON object.
    #[error("{path} is not a safetensors file: {what}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: &'static str,
    },
    /// An entry of the header lacks a member, lies outside the file, or contradicts its shape.
    #[error("{path}: tensor {name}: {what}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A tensor is of an element type that is not read here.
    #[error("{path}: tensor {name} is {found}, {wanted} is needed")]
    Dtype {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// Its type as the file spells it.
        found: String,
        /// The type that would do.
        wanted: &'static str,
    },
}

/// Numbers with a shape, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<T> {
    /// Outermost dimension first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Product of `shape` values.
    pub data: Vec<T>,
}

/// A safetensors file in memory, its header checked: every tensor's range lies in the data and fits its shape.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    /// In `bytes`.
    range: Range<usize>,
}

impl TensorFile {
    /// Reads a whole file and checks its header.
    ///
    /// # Errors
    /// [`TensorError::Io`], [`TensorError::Header`] and [`TensorError::Tensor`].
    pub fn read(path: &Path) -> Result<TensorFile, TensorError> {
        let bytes = files::read(path).map_err(|source| TensorError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        TensorFile::parse(path, bytes)
    }

    fn parse(path: &Path, bytes: Vec<u8>) -> Result<TensorFile, TensorError> {
        let bad = |what| TensorError::Header {
            path: path.to_path_buf(),
            what,
        };
        let length = bytes
            .get(..8)
            .and_then(|b| b.try_into().ok())
            .ok_or_else(|| bad("shorter than 8 bytes"))?;
        let start = usize::try_from(u64::from_le_bytes(length))
            .ok()
            .and_then(|n| n.checked_add(8))
            .filter(|&end| end <= bytes.len())
            .ok_or_else(|| bad("the header is longer than the file"))?;
        let header: Map<String, Value> =
            serde_json::from_slice(&bytes[8..start]).map_err(|_| bad("the header is not a JSON object"))?;
        let mut entries = Vec::new();
        for (name, entry) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            let wrong = |what| TensorError::Tensor {
                path: path.to_path_buf(),
                name: name.clone(),
                what,
            };
            let numbers = |key: &str| -> Option<Vec<usize>> {
                let list = entry.get(key)?.as_array()?;
                list.iter()
                    .map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok()))
                    .collect()
            };
            let dtype = entry
                .get("dtype")
                .and_then(Value::as_str)
                .ok_or_else(|| wrong("no dtype"))?
                .to_string();
            let shape = numbers("shape").ok_or_else(|| wrong("no shape"))?;
            let offsets = numbers("data_offsets")
                .filter(|o| o.len() == 2)
                .ok_or_else(|| wrong("no data_offsets"))?;
            let at = |offset: usize| start.checked_add(offset).filter(|&at| at <= bytes.len());
            let range = at(offsets[0])
                .zip(at(offsets[1]))
                .filter(|(from, to)| from <= to)
                .map(|(from, to)| from..to)
                .ok_or_else(|| wrong("data_offsets lie outside the file"))?;
            if let Some(size) = size_of_dtype(&dtype) {
                let bytes = shape.iter().try_fold(size, |n: usize, &dim| n.checked_mul(dim));
                if bytes != Some(range.len()) {
                    return Err(wrong("shape and data_offsets disagree"));
                }
            }
            entries.push(Entry {
                name,
                dtype,
                shape,
                range,
            });
        }
        Ok(TensorFile {
            path: path.to_path_buf(),
            bytes,
            entries,
        })
    }

    /// Names of the tensors; `__metadata__` is none.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|e| e.name.as_str())
    }

    /// An I64 or I32 tensor; `None` when the file has none of that name.
    ///
    /// # Errors
    /// [`TensorError::Dtype`] where the tensor is of another type.
    pub fn integers(&self, name: &str) -> Result<Option<Tensor<i64>>, TensorError> {
        let Some(entry) = self.entries.iter().find(|e| e.name == name) else {
            return Ok(None);
        };
        let bytes = &self.bytes[entry.range.clone()];
        let data = match entry.dtype.as_str() {
            "I64" => numbers(bytes, i64::from_le_bytes),
            "I32" => numbers(bytes, i32::from_le_bytes).into_iter().map(i64::from).collect(),
            _ => return Err(self.dtype(entry, "I64")),
        };
        Ok(Some(Tensor {
            shape: entry.shape.clone(),
            data,
        }))
    }

    /// An F32 tensor; `None` when the file has none of that name.
    ///
    /// # Errors
    /// [`TensorError::Dtype`] where the tensor is of another type.
    pub fn floats(&self, name: &str) -> Result<Option<Tensor<f32>>, TensorError> {
        let Some(entry) = self.entries.iter().find(|e| e.name == name) else {
            return Ok(None);
        };
        if entry.dtype != "F32" {
            return Err(self.dtype(entry, "F32"));
        }
        let data = numbers(&self.bytes[entry.range.clone()], f32::from_le_bytes);
        Ok(Some(Tensor {
            shape: entry.shape.clone(),
            data,
        }))
    }

    fn dtype(&self, entry: &Entry, wanted: &'static str) -> TensorError {
        TensorError::Dtype {
            path: self.path.clone(),
            name: entry.name.clone(),
            found: entry.dtype.clone(),
            wanted,
        }
    }
}

fn numbers<const N: usize, T>(bytes: &[u8], from: fn([u8; N]) -> T) -> Vec<T> {
    bytes
        .chunks_exact(N)
        .filter_map(|b| Some(from(b.try_into().ok()?)))
        .collect()
}

fn size_of_dtype(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "I64" | "U64" | "F64" => 8,
        "I32" | "U32" | "F32" => 4,
        "I16" | "U16" | "F16" | "BF16" => 2,
        "I8" | "U8" | "BOOL" => 1,
        _ => return None,
    })
}

/// Writes F32 tensors beside `path` first and renames, so a reader never sees half a file.
///
/// # Errors
/// [`TensorError::Io`].
pub fn write<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a [usize], &'a [f32])>,
) -> Result<(), TensorError> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let from = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        header.insert(
            name.to_string(),
            json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]}),
        );
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    // The format wants the data aligned to 8 bytes; blanks may follow the JSON.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let failed = |source| TensorError::Io {
        path: path.to_path_buf(),
        source,
    };
    // A rename would silently turn a device or FIFO into a file.
    if path.exists() {
        files::regular(path).map_err(failed)?;
    }
    // Under a name that nobody has taken: a link there would lead to a file that is somebody else's.
    let mut file = fs::File::create_new(&temporary).map_err(failed)?;
    let result = (|| {
        file.write_all(&(text.len() as u64).to_le_bytes())?;
        file.write_all(&text)?;
        file.write_all(&data)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    result.map_err(|source| {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        failed(source)
    })
}

/// Whether two paths lead to one file.
pub fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    inode(a).is_some_and(|a| Some(a) == inode(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn parse(bytes: Vec<u8>) -> Result<TensorFile, TensorError> {
        TensorFile::parse(Path::new("x.safetensors"), bytes)
    }

    #[test]
    fn malformed_files_are_refused() {
        let cases = [
            (vec![1, 2, 3], "shorter than 8"),
            (u64::MAX.to_le_bytes().to_vec(), "longer than the file"),
            (100u64.to_le_bytes().to_vec(), "longer than the file"),
            (file("[1]", b""), "not a JSON object"),
            (file(r#"{"a":{"shape":[1],"data_offsets":[0,8]}}"#, &[0; 8]), "no dtype"),
            (
                file(r#"{"a":{"dtype":"I64","shape":[-1],"data_offsets":[0,8]}}"#, &[0; 8]),
                "no shape",
            ),
            (
                file(r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0]}}"#, &[0; 8]),
                "no data_offsets",
            ),
            (
                file(r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,16]}}"#, &[0; 8]),
                "outside the file",
            ),
            (
                file(r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[8,0]}}"#, &[0; 8]),
                "outside the file",
            ),
            (
                file(r#"{"a":{"dtype":"I64","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]),
                "disagree",
            ),
            (
                file(
                    r#"{"a":{"dtype":"I64","shape":[2147483648,2147483648],"data_offsets":[0,8]}}"#,
                    &[0; 8],
                ),
                "disagree",
            ),
        ];
        for (bytes, expected) in cases {
            let message = parse(bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn integers_and_what_they_are_not() {
        let header = r#"{"__metadata__":{"a":"b"},"n":{"dtype":"I64","shape":[1,2],"data_offsets":[0,16]},"f":{"dtype":"F32","shape":[1],"data_offsets":[16,20]}}"#;
        let data = [
            7i64.to_le_bytes().as_slice(),
            &(-1i64).to_le_bytes(),
            &1.5f32.to_le_bytes(),
        ]
        .concat();
        let file = parse(file(header, &data)).unwrap();
        assert_eq!(
            file.integers("n").unwrap(),
            Some(Tensor {
                shape: vec![1, 2],
                data: vec![7, -1]
            })
        );
        assert_eq!(
            file.floats("f").unwrap(),
            Some(Tensor {
                shape: vec![1],
                data: vec![1.5]
            })
        );
        assert_eq!(file.integers("absent").unwrap(), None);
        assert!(
            file.integers("f")
                .unwrap_err()
                .to_string()
                .contains("is F32, I64 is needed")
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        let path = std::env::temp_dir().join(format!("thimble-tensors-{}.safetensors", std::process::id()));
        write(
            &path,
            [
                ("logits", [2usize, 2].as_slice(), [1.0f32, -2.5, 0.0, 1e-20].as_slice()),
                ("empty", &[0], &[]),
            ],
        )
        .unwrap();
        let file = TensorFile::read(&path).unwrap();
        assert_eq!(file.floats("logits").unwrap().unwrap().data, [1.0, -2.5, 0.0, 1e-20]);
        assert_eq!(file.floats("empty").unwrap().unwrap().shape, [0]);
        assert_eq!(file.names().count(), 2);
        fs::remove_file(path).unwrap();
        assert!(write(Path::new("/nonexistent/x"), []).is_err());
    }
}
