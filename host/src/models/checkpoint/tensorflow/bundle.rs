//! What the table of a TensorFlow checkpoint says: how many data files there are, and the type, shape and place of each
//! variable. In comes the bytes of the `.index` file, out come entries that do not overlap.
//! tensorflow/core/protobuf/tensor_bundle.proto, tensorflow/core/util/tensor_bundle.

use super::super::raw::Dtype;
use super::table::{self, TableError};
use thimble_shared::onnx::protobuf::{Field, Fields, WireError};

/// Version of the format this reads; a file says the least version its readers must know.
const VERSION: i64 = 1;

/// Most data files a checkpoint may have: TensorFlow numbers them with five digits.
const MOST_SHARDS: i64 = 99_999;

/// One variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Which data file it lies in.
    pub shard: usize,
    /// Where in it, in bytes.
    pub offset: u64,
    pub bytes: u64,
    /// Masked CRC-32C of its bytes.
    pub crc: u32,
    /// Whether it is the sum of several entries, as a partitioned variable is.
    pub sliced: bool,
}

/// The index of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    pub shards: usize,
    pub variables: Vec<Variable>,
}

/// Why an index cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The index is no sound table.
    #[error("{0}")]
    Table(#[from] TableError),
    /// The first key is not the empty one.
    #[error(
        "it is a table without the header of a TensorFlow checkpoint (one of TensorFlow's first versions, or another program's)"
    )]
    NoHeader,
    /// The header is not protobuf.
    #[error("its header is malformed")]
    Header,
    /// Its `endianness` is BIG.
    #[error("it was written on a big-endian machine")]
    BigEndian,
    /// Its `min_consumer` is above the version this reads.
    #[error("it asks for a reader of version {0}; thimble knows version {VERSION}")]
    Version(i64),
    /// The number of data files is outside of what is read; the number.
    #[error("it says that it has {0} data files")]
    Shards(i64),
    /// A key is no name.
    #[error("a variable's name is not UTF-8")]
    Name,
    /// An entry is not protobuf, or names a data file there is none of; the variable's name.
    #[error("the entry of {0} is malformed")]
    Entry(String),
    /// Two variables claim the same bytes.
    #[error("{second} overlaps {first} in the data file")]
    Overlap {
        /// The variable that starts first.
        first: String,
        /// The one that starts before the first ends.
        second: String,
    },
}

/// Reads the whole index.
pub fn read(bytes: &[u8]) -> Result<Bundle, BundleError> {
    let mut entries = table::read(bytes)?.into_iter();
    let header = entries.next().filter(|(key, _)| key.is_empty());
    let shards = shards(header.ok_or(BundleError::NoHeader)?.1)?;
    let mut variables = Vec::new();
    for (key, value) in entries {
        // Slices of a variable have keys that start with a zero byte; the variable's own entry says that there are some.
        if key.first() == Some(&0) {
            continue;
        }
        let name = String::from_utf8(key).map_err(|_| BundleError::Name)?;
        let variable = variable(&name, value).map_err(|_| BundleError::Entry(name.clone()))?;
        if variable.shard >= shards {
            return Err(BundleError::Entry(name));
        }
        variables.push(variable);
    }
    let mut places: Vec<&Variable> = variables.iter().filter(|v| v.bytes > 0 && !v.sliced).collect();
    places.sort_by_key(|v| (v.shard, v.offset));
    for pair in places.windows(2) {
        let [first, second] = pair else { continue };
        if first.shard == second.shard && first.offset.saturating_add(first.bytes) > second.offset {
            return Err(BundleError::Overlap {
                first: first.name.clone(),
                second: second.name.clone(),
            });
        }
    }
    Ok(Bundle { shards, variables })
}

fn shards(header: &[u8]) -> Result<usize, BundleError> {
    let malformed = |_: WireError| BundleError::Header;
    let (mut shards, mut endianness, mut consumer) = (0, 0, 0);
    for field in Fields::new(header) {
        let field = field.map_err(malformed)?;
        match field.number {
            1 => shards = field.int().map_err(malformed)?,
            2 => endianness = field.int().map_err(malformed)?,
            3 => {
                for inner in field.fields().map_err(malformed)? {
                    let inner = inner.map_err(malformed)?;
                    if inner.number == 2 {
                        consumer = inner.int().map_err(malformed)?;
                    }
                }
            }
            _ => {}
        }
    }
    if endianness != 0 {
        return Err(BundleError::BigEndian);
    }
    if consumer > VERSION {
        return Err(BundleError::Version(consumer));
    }
    if !(1..=MOST_SHARDS).contains(&shards) {
        return Err(BundleError::Shards(shards));
    }
    Ok(shards as usize)
}

/// A field that must be a count.
fn count<T: TryFrom<i64>>(field: &Field) -> Result<T, WireError> {
    T::try_from(field.int()?).map_err(|_| WireError::Mismatch {
        field: field.number,
        at: field.at,
    })
}

fn variable(name: &str, entry: &[u8]) -> Result<Variable, WireError> {
    let mut variable = Variable {
        name: name.to_string(),
        dtype: Dtype::Other("unknown"),
        shape: Vec::new(),
        shard: 0,
        offset: 0,
        bytes: 0,
        crc: 0,
        sliced: false,
    };
    for field in Fields::new(entry) {
        let field = field?;
        match field.number {
            1 => variable.dtype = dtype(field.int()?),
            2 => {
                for dim in field.fields()? {
                    let dim = dim?;
                    if dim.number == 2 {
                        variable.shape.push(size(&dim)?);
                    }
                }
            }
            3 => variable.shard = count(&field)?,
            4 => variable.offset = count(&field)?,
            5 => variable.bytes = count(&field)?,
            6 => variable.crc = field.float()?.to_bits(),
            7 => variable.sliced = true,
            _ => {}
        }
    }
    Ok(variable)
}

/// The size of one dimension; a size of 0 is not written.
fn size(dim: &Field) -> Result<usize, WireError> {
    let mut size = 0;
    for field in dim.fields()? {
        let field = field?;
        if field.number == 1 {
            size = count(&field)?;
        }
    }
    Ok(size)
}

/// tensorflow/core/framework/types.proto.
fn dtype(number: i64) -> Dtype {
    match number {
        1 => Dtype::F32,
        2 => Dtype::F64,
        14 => Dtype::Bf16,
        19 => Dtype::F16,
        3 => Dtype::Other("int32"),
        4 => Dtype::Other("uint8"),
        5 => Dtype::Other("int16"),
        6 => Dtype::Other("int8"),
        7 => Dtype::Other("string"),
        9 => Dtype::Other("int64"),
        10 => Dtype::Other("bool"),
        21 => Dtype::Other("resource"),
        _ => Dtype::Other("one thimble does not read"),
    }
}
