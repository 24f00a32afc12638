//! Finds a checkpoint's files and lists the tensors stored in them: in comes a directory or a weights file, out come names,
//! shapes and borrowed bytes. Safetensors and torch's zip archives look the same from here on; `to_f32` is the only copy.

use super::map::Mapped;
use super::{SourceError, pickle, zip};
use half::{bf16, f16};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
    F64,
    /// A type no weight may have; buffers of it are ignored by name.
    Other(&'static str),
}

impl Dtype {
    fn bytes(self) -> Option<usize> {
        self.reader().map(|(size, _)| size)
    }

    /// Bytes per element, and how one element becomes an f32.
    fn reader(self) -> Option<(usize, fn(&[u8]) -> f32)> {
        fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
            let mut out = [0; N];
            out.copy_from_slice(&bytes[..N]);
            out
        }
        match self {
            Dtype::F32 => Some((4, |b| f32::from_le_bytes(first(b)))),
            Dtype::F16 => Some((2, |b| f16::from_le_bytes(first(b)).to_f32())),
            Dtype::Bf16 => Some((2, |b| bf16::from_le_bytes(first(b)).to_f32())),
            Dtype::F64 => Some((8, |b| f64::from_le_bytes(first(b)) as f32)),
            Dtype::Other(_) => None,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::F64 => "f64",
            Dtype::Other(name) => name,
        })
    }
}

/// A tensor as stored: its bytes are borrowed from the mapped file.
#[derive(Clone, Debug)]
pub struct RawTensor<'a> {
    pub path: &'a Path,
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// The whole storage the tensor is a view of.
    bytes: &'a [u8],
    /// Offset and strides in elements; `None` is row-major from the start.
    view: Option<(u64, Vec<u64>)>,
}

impl RawTensor<'_> {
    /// The values in row-major order. Nothing is allocated before the storage is known to hold them.
    pub fn to_f32(&self) -> Result<Vec<f32>, String> {
        let Some((size, read)) = self.dtype.reader() else {
            return Err(format!(
                "its type is {}; weights may be f32, f16, bf16 or f64",
                self.dtype
            ));
        };
        let stored = self.bytes.len() / size;
        let count = self
            .shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .ok_or("its shape overflows")?;
        // A view that repeats its storage (an expanded tensor) is no trained weight, and refusing it bounds what is allocated.
        if count > stored {
            return Err(format!(
                "its shape {:?} covers {count} elements, its storage holds {stored}",
                self.shape
            ));
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        let row_major = |from: usize| {
            self.bytes[from * size..(from + count) * size]
                .chunks_exact(size)
                .map(read)
                .collect()
        };
        let Some((offset, strides)) = &self.view else {
            return Ok(row_major(0));
        };
        self.shape
            .iter()
            .zip(strides)
            .try_fold(*offset, |at, (&d, &s)| at.checked_add((d as u64 - 1).checked_mul(s)?))
            .filter(|&last| last < stored as u64)
            .ok_or_else(|| {
                format!("offset {offset} and strides {strides:?} reach outside its storage of {stored} elements")
            })?;
        let offset = *offset as usize;
        let strides: Vec<usize> = strides.iter().map(|&s| s as usize).collect();
        if is_row_major(&self.shape, &strides) {
            return Ok(row_major(offset));
        }
        let mut out = Vec::with_capacity(count);
        let mut index = vec![0usize; self.shape.len()];
        let mut at = offset;
        loop {
            out.push(read(&self.bytes[at * size..]));
            // Counts up like an odometer, the last dimension fastest.
            let Some(axis) = (0..index.len()).rev().find(|&axis| index[axis] + 1 < self.shape[axis]) else {
                return Ok(out);
            };
            index[axis] += 1;
            index[axis + 1..].fill(0);
            at = offset + index.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>();
        }
    }
}

fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&d, &s)| {
        let fits = d == 1 || s == expected;
        expected *= d;
        fits
    })
}

/// Where a checkpoint's parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub config: PathBuf,
    pub weights: Vec<PathBuf>,
    /// For sharded checkpoints, the tensor names the index promises.
    pub promised: Option<BTreeSet<String>>,
    pub tokenizer: Option<PathBuf>,
    pub notes: Vec<String>,
}

const SINGLE: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const SHARDED: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];

/// Finds the files of the checkpoint at `path`: a directory, a weights file or a shard index.
pub fn locate(path: &Path) -> Result<Located, SourceError> {
    let meta = std::fs::metadata(path).map_err(|source| SourceError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    let mut notes = Vec::new();
    let (dir, weights) = if meta.is_dir() {
        let found = SINGLE
            .iter()
            .zip(SHARDED)
            .flat_map(|(&single, sharded)| [single, sharded])
            .map(|name| path.join(name))
            .filter(|p| p.is_file())
            .collect::<Vec<_>>();
        let Some(first) = found.first() else {
            return Err(SourceError::NoCheckpoint {
                dir: path.to_path_buf(),
                hint: foreign_hint(path),
            });
        };
        for other in &found[1..] {
            notes.push(format!(
                "{} is used, {} beside it is not read",
                name_of(first),
                name_of(other)
            ));
        }
        (path.to_path_buf(), first.clone())
    } else {
        // A bare file name has the empty path as its parent.
        let parent = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        (parent.to_path_buf(), path.to_path_buf())
    };
    let config = dir.join("config.json");
    if !config.is_file() {
        return Err(SourceError::NoConfig { path: config });
    }
    let tokenizer = Some(dir.join("tokenizer.json")).filter(|p| p.is_file());
    if tokenizer.is_none() {
        if let Some(other) = ["spiece.model", "vocab.txt"]
            .iter()
            .find(|name| dir.join(name).is_file())
        {
            notes.push(format!(
                "{other} is there but no tokenizer.json: texts cannot be read (save it with AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR))"
            ));
        }
    }
    let (weights, promised) = if name_of(&weights).ends_with(".index.json") {
        let (files, promised) = shards(&dir, &weights)?;
        (files, Some(promised))
    } else {
        (vec![weights], None)
    };
    Ok(Located {
        config,
        weights,
        promised,
        tokenizer,
        notes,
    })
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn foreign_hint(dir: &Path) -> String {
    for (file, flag) in [
        ("tf_model.h5", "from_tf=True"),
        ("flax_model.msgpack", "from_flax=True"),
    ] {
        if dir.join(file).is_file() {
            return format!(
                "; {file} is there: convert it with AutoModel.from_pretrained(DIR, {flag}).save_pretrained(DIR)"
            );
        }
    }
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|n| {
            [".safetensors", ".bin", ".pt", ".pth"]
                .iter()
                .any(|end| n.ends_with(end))
        })
        .collect();
    names.sort();
    match names.first() {
        Some(name) => format!("; {name} is there: name the file itself if it is the model"),
        None => String::new(),
    }
}

/// Largest JSON file read beside a checkpoint.
const MAX_JSON: u64 = 64 << 20;

pub fn read_json(path: &Path) -> Result<serde_json::Value, SourceError> {
    let io = |source| SourceError::Io {
        path: path.to_path_buf(),
        source,
    };
    let len = std::fs::metadata(path).map_err(io)?.len();
    let format = |problem: String| SourceError::Format {
        path: path.to_path_buf(),
        problem,
    };
    if len > MAX_JSON {
        return Err(format(format!("{len} bytes of JSON, at most {MAX_JSON} are read")));
    }
    let text = std::fs::read(path).map_err(io)?;
    serde_json::from_slice(&text).map_err(|e| format(format!("invalid JSON: {e}")))
}

/// Files and tensor names of a shard index. Shards stand beside the index: a name with a path in it is refused.
fn shards(dir: &Path, index: &Path) -> Result<(Vec<PathBuf>, BTreeSet<String>), SourceError> {
    let field = |problem: String| SourceError::Config {
        path: index.to_path_buf(),
        field: "weight_map".into(),
        problem,
    };
    let json = read_json(index)?;
    let map = json
        .get("weight_map")
        .and_then(|m| m.as_object())
        .ok_or_else(|| field("is missing or no object".into()))?;
    let mut files = BTreeSet::new();
    let mut promised = BTreeSet::new();
    for (tensor, file) in map {
        let file = file
            .as_str()
            .ok_or_else(|| field(format!("{tensor}: the file is not a string")))?;
        if file.is_empty() || file.contains(['/', '\\', '\0']) || file == ".." || file == "." {
            return Err(field(format!(
                "{tensor}: '{file}' is not the name of a file beside the index"
            )));
        }
        files.insert(file.to_string());
        promised.insert(tensor.clone());
    }
    if files.is_empty() {
        return Err(field("names no file".into()));
    }
    Ok((files.into_iter().map(|f| dir.join(f)).collect(), promised))
}

/// All tensors of the files, which must not repeat a name and must hold what the index promised.
pub fn tensors<'a>(
    files: &'a [Mapped],
    promised: Option<&BTreeSet<String>>,
) -> Result<Vec<RawTensor<'a>>, SourceError> {
    let mut all: BTreeMap<String, RawTensor<'a>> = BTreeMap::new();
    for file in files {
        for tensor in list(file)? {
            if let Some(first) = all.get(&tensor.name) {
                return Err(SourceError::Tensor {
                    path: file.path.clone(),
                    tensor: tensor.name,
                    problem: format!("is stored in {} as well", name_of(first.path)),
                });
            }
            all.insert(tensor.name.clone(), tensor);
        }
    }
    if let Some(lost) = promised.into_iter().flatten().find(|name| !all.contains_key(*name)) {
        let path = files.first().map(|f| f.path.clone()).unwrap_or_default();
        return Err(SourceError::Tensor {
            path,
            tensor: lost.clone(),
            problem: "is in the index but in no shard".into(),
        });
    }
    Ok(all.into_values().collect())
}

/// The tensors of one file, whose format its first bytes tell.
fn list(file: &Mapped) -> Result<Vec<RawTensor<'_>>, SourceError> {
    let bytes = file.bytes();
    let format = |problem: &str| SourceError::Format {
        path: file.path.clone(),
        problem: problem.into(),
    };
    match bytes {
        [b'P', b'K', 3, 4, ..] => torch(file),
        [0x80, 2..=5, ..] if bytes.get(8) != Some(&b'{') => Err(format(
            "torch's old format (before 1.6), a bare pickle; load it once in torch and save it again: torch.save(torch.load(FILE, weights_only=True), FILE)",
        )),
        [0x89, b'H', b'D', b'F', ..] => Err(format(
            "an HDF5 file of TensorFlow; convert it with AutoModel.from_pretrained(DIR, from_tf=True).save_pretrained(DIR)",
        )),
        _ if bytes.starts_with(b"version https://git-lfs") => Err(format(
            "a Git LFS pointer, not the weights themselves; fetch them with git lfs pull",
        )),
        _ if bytes.starts_with(b"GGUF") => Err(format("a GGUF file; thimble reads safetensors and torch archives")),
        _ => safetensors(file),
    }
}

fn safetensors(file: &Mapped) -> Result<Vec<RawTensor<'_>>, SourceError> {
    use safetensors::Dtype as St;
    let bytes = file.bytes();
    if bytes.get(8) != Some(&b'{') {
        return Err(SourceError::Format {
            path: file.path.clone(),
            problem: "neither a safetensors file nor a zip archive of torch.save".into(),
        });
    }
    let views = SafeTensors::deserialize(bytes).map_err(|source| SourceError::Safetensors {
        path: file.path.clone(),
        source,
    })?;
    let raw = views.iter().map(|(name, view)| RawTensor {
        path: &file.path,
        name: name.to_string(),
        dtype: match view.dtype() {
            St::F32 => Dtype::F32,
            St::F16 => Dtype::F16,
            St::BF16 => Dtype::Bf16,
            St::F64 => Dtype::F64,
            St::I64 => Dtype::Other("int64"),
            St::I32 => Dtype::Other("int32"),
            St::I16 => Dtype::Other("int16"),
            St::I8 => Dtype::Other("int8"),
            St::U8 => Dtype::Other("uint8"),
            St::BOOL => Dtype::Other("bool"),
            _ => Dtype::Other("one thimble does not read"),
        },
        shape: view.shape().to_vec(),
        bytes: view.data(),
        view: None,
    });
    Ok(raw.collect())
}

/// Largest `data.pkl`: state dicts describe a tensor in some 150 bytes.
const MAX_PICKLE: usize = 16 << 20;

fn torch(file: &Mapped) -> Result<Vec<RawTensor<'_>>, SourceError> {
    let zip_error = |problem: String| SourceError::Zip {
        path: file.path.clone(),
        problem,
    };
    let entries = zip::read(file.bytes()).map_err(zip_error)?;
    let mut pickles = entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
    let prefix = match (pickles.next(), pickles.next()) {
        (Some(prefix), None) if prefix.is_empty() || prefix.ends_with('/') => prefix.to_string(),
        (None, _) => return Err(zip_error("has no data.pkl: not written by torch.save".into())),
        _ => return Err(zip_error("has more than one data.pkl".into())),
    };
    let record = |name: &str| entries.get(&format!("{prefix}{name}")).copied();
    if record("constants.pkl").is_some() {
        return Err(zip_error(
            "is a TorchScript program; save the model's state_dict() with torch.save".into(),
        ));
    }
    if record("byteorder").is_some_and(|order| order.trim_ascii() != b"little") {
        return Err(zip_error(
            "was written on a big-endian machine; save it again on a little-endian one".into(),
        ));
    }
    let data = record("data.pkl").unwrap_or_default();
    if data.len() > MAX_PICKLE {
        return Err(zip_error(format!(
            "data.pkl has {} bytes, at most {MAX_PICKLE} are read",
            data.len()
        )));
    }
    let dict = pickle::state_dict(data).map_err(|(at, source)| SourceError::Pickle {
        path: file.path.clone(),
        at,
        source,
    })?;
    let mut out = Vec::with_capacity(dict.len());
    for (name, strided) in dict {
        let problem = |problem: String| SourceError::Tensor {
            path: file.path.clone(),
            tensor: name.clone(),
            problem,
        };
        let bytes = record(&format!("data/{}", strided.key))
            .ok_or_else(|| problem(format!("its storage data/{} is not in the archive", strided.key)))?;
        if let Some(size) = strided.dtype.bytes() {
            if strided.storage_len.checked_mul(size as u64) != Some(bytes.len() as u64) {
                return Err(problem(format!(
                    "its storage data/{} has {} bytes, not {} elements of {}",
                    strided.key,
                    bytes.len(),
                    strided.storage_len,
                    strided.dtype
                )));
            }
        }
        if strided.shape.len() != strided.strides.len() {
            return Err(problem(format!(
                "shape {:?} and strides {:?} differ in length",
                strided.shape, strided.strides
            )));
        }
        let shape = strided
            .shape
            .iter()
            .map(|&d| usize::try_from(d))
            .collect::<Result<_, _>>();
        let shape = shape.map_err(|_| problem(format!("shape {:?} does not fit this machine", strided.shape)))?;
        let view = Some((strided.offset, strided.strides));
        out.push(RawTensor {
            path: &file.path,
            name,
            dtype: strided.dtype,
            shape,
            bytes,
            view,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_followed_within_their_storage_only() {
        let bytes: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let cases: [(&[usize], u64, &[u64], Result<&[f32], &str>); 12] = [
            (&[2, 3], 0, &[3, 1], Ok(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])),
            (&[3, 2], 0, &[1, 3], Ok(&[0.0, 3.0, 1.0, 4.0, 2.0, 5.0])),
            (&[2], 4, &[1], Ok(&[4.0, 5.0])),
            (&[3], 1, &[2], Ok(&[1.0, 3.0, 5.0])),
            (&[1, 2], 0, &[u64::MAX, 1], Ok(&[0.0, 1.0])),
            (&[], 3, &[], Ok(&[3.0])),
            (&[0, 9], 0, &[1, 1], Ok(&[])),
            (&[2], 5, &[1], Err("reach outside")),
            (&[2], 0, &[u64::MAX], Err("reach outside")),
            (&[2, 2], u64::MAX, &[1, 1], Err("reach outside")),
            (&[7], 0, &[0], Err("covers 7 elements, its storage holds 6")),
            (&[usize::MAX, 2], 0, &[0, 0], Err("overflows")),
        ];
        for (shape, offset, strides, want) in cases {
            let view = Some((offset, strides.to_vec()));
            let (name, shape) = ("w".to_string(), shape.to_vec());
            let tensor = RawTensor {
                path: Path::new("x"),
                name,
                dtype: Dtype::F32,
                shape,
                bytes: &bytes,
                view,
            };
            match (tensor.to_f32(), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(got), Err(want)) => assert!(got.contains(want), "{got}"),
                (got, want) => panic!("{:?} {offset} {strides:?}: {got:?}, expected {want:?}", tensor.shape),
            }
        }
        let view = None;
        let int = RawTensor {
            path: Path::new("x"),
            name: "w".into(),
            dtype: Dtype::Other("int8"),
            shape: vec![2],
            bytes: &bytes,
            view,
        };
        assert!(int.to_f32().unwrap_err().contains("its type is int8"));
    }
}
