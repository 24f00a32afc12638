//! The table that LevelDB and TensorFlow write: sorted keys in blocks, an index of the blocks, a footer. In comes the file,
//! out come its keys and values in order, every block's checksum checked.
//! <https://github.com/google/leveldb/blob/main/doc/table_format.md>, tensorflow/core/lib/io/format.cc.

use super::crc32c::{crc32c, masked};

/// The last eight bytes of every table, little endian.
pub const MAGIC: u64 = 0xdb47_7524_8b80_fb57;

/// Two handles, padded, and the magic.
const FOOTER: usize = 48;

/// Compression type and checksum behind each block.
const TRAILER: usize = 5;

/// Bytes of keys that may come out of one byte of table. Keys share prefixes with the key before them, so a few bytes may
/// stand for a long key; TensorFlow's take some three times the bytes they are stored in.
const MOST_EXPANSION: usize = 32;

/// Why a file is no table that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("it does not end as a table does: cut short, or another kind of file")]
    NoFooter,
    #[error("the block at byte {offset} with {size} bytes reaches outside the file")]
    Outside { offset: u64, size: u64 },
    #[error("the block at byte {offset} overlaps the one before it")]
    Overlap { offset: u64 },
    #[error(
        "the block at byte {offset} is compressed (type {kind}); TensorFlow writes checkpoints without compression"
    )]
    Compressed { offset: u64, kind: u8 },
    #[error("the block at byte {offset} does not have the checksum stored with it: the file is damaged")]
    Checksum { offset: u64 },
    #[error("the block at byte {offset} is malformed at its byte {at}")]
    Entry { offset: u64, at: usize },
    #[error("the keys in the block at byte {offset} are not in order")]
    Order { offset: u64 },
    #[error("its keys take more than {MOST_EXPANSION} times the file's bytes")]
    Keys,
}

/// Where a block lies.
#[derive(Clone, Copy, Debug)]
struct Handle {
    offset: u64,
    size: u64,
}

/// A key and its value, which lies in the file.
pub type Entry<'a> = (Vec<u8>, &'a [u8]);

/// Whether the bytes end with the footer of a table.
pub fn is_table(bytes: &[u8]) -> bool {
    bytes.len() >= FOOTER && bytes.ends_with(&MAGIC.to_le_bytes())
}

/// Every entry of the table, in the order of the keys, none twice.
///
/// # Errors
/// Where a block is outside the file, compressed, damaged or malformed, or keys are not in order.
pub fn read(bytes: &[u8]) -> Result<Vec<Entry<'_>>, TableError> {
    if !is_table(bytes) {
        return Err(TableError::NoFooter);
    }
    let (body, footer) = bytes.split_at(bytes.len() - FOOTER);
    let mut at = 0;
    let handles = (handle(footer, &mut at), handle(footer, &mut at));
    let (Some(_metaindex), Some(index)) = handles else {
        return Err(TableError::NoFooter);
    };
    let mut budget = bytes.len().saturating_mul(MOST_EXPANSION);
    let mut found = Vec::new();
    let mut end = 0;
    for (last, value) in entries(body, index, &mut budget)? {
        let block = handle(value, &mut 0).ok_or(TableError::Entry {
            offset: index.offset,
            at: 0,
        })?;
        if block.offset < end {
            return Err(TableError::Overlap { offset: block.offset });
        }
        end = block.offset.saturating_add(block.size);
        let order = TableError::Order { offset: block.offset };
        let inside = entries(body, block, &mut budget)?;
        let before: Option<&Entry> = found.last();
        if let (Some((before, _)), Some((first, _))) = (before, inside.first())
            && before >= first
        {
            return Err(order);
        }
        if inside.last().is_some_and(|(key, _)| *key > last) {
            return Err(order);
        }
        found.extend(inside);
    }
    Ok(found)
}

/// The entries of one block. What their keys take is taken off `budget`.
fn entries<'a>(body: &'a [u8], handle: Handle, budget: &mut usize) -> Result<Vec<Entry<'a>>, TableError> {
    let bytes = block(body, handle)?;
    let wrong = |at| TableError::Entry {
        offset: handle.offset,
        at,
    };
    // The offsets of the keys that are stored whole, and how many there are, stand at the end.
    let restarts = bytes.last_chunk::<4>().map(|n| u32::from_le_bytes(*n) as usize);
    let end = restarts
        .and_then(|n| n.checked_mul(4)?.checked_add(4))
        .and_then(|tail| bytes.len().checked_sub(tail))
        .ok_or(wrong(bytes.len()))?;
    let bytes = &bytes[..end];
    let (mut at, mut found) = (0, Vec::<Entry>::new());
    while at < end {
        let start = at;
        let mut number = || varint(bytes, &mut at).and_then(|n| usize::try_from(n).ok());
        let (Some(shared), Some(own), Some(value)) = (number(), number(), number()) else {
            return Err(wrong(start));
        };
        let before = found.last().map_or(&[][..], |(key, _)| key);
        let (Some(prefix), Some(rest)) = (before.get(..shared), bytes[at..].get(..own)) else {
            return Err(wrong(start));
        };
        let Some(value) = bytes[at + own..].get(..value) else {
            return Err(wrong(start));
        };
        let length = (shared + own).saturating_add(size_of::<Entry>());
        *budget = budget.checked_sub(length).ok_or(TableError::Keys)?;
        let key = [prefix, rest].concat();
        if !found.is_empty() && *before >= *key {
            return Err(TableError::Order { offset: handle.offset });
        }
        at += own + value.len();
        found.push((key, value));
    }
    Ok(found)
}

/// The bytes of a block that is stored as it is and has its checksum.
fn block(body: &[u8], Handle { offset, size }: Handle) -> Result<&[u8], TableError> {
    let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
    let whole = range.and_then(|(offset, size)| body.get(offset..)?.get(..size.checked_add(TRAILER)?));
    let Some((contents, [kind, crc @ ..])) = whole.and_then(|b| b.split_last_chunk::<TRAILER>()) else {
        return Err(TableError::Outside { offset, size });
    };
    if masked(crc32c(&[contents, &[*kind]])) != u32::from_le_bytes(*crc) {
        return Err(TableError::Checksum { offset });
    }
    if *kind != 0 {
        return Err(TableError::Compressed { offset, kind: *kind });
    }
    Ok(contents)
}

fn handle(bytes: &[u8], at: &mut usize) -> Option<Handle> {
    Some(Handle {
        offset: varint(bytes, at)?,
        size: varint(bytes, at)?,
    })
}

/// A number of seven bits a byte, the lowest first.
pub fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_ends_within_ten_bytes() {
        let cases: [(&[u8], Option<u64>); 5] = [
            (&[5], Some(5)),
            (&[0xac, 2], Some(300)),
            (
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
                Some(u64::MAX),
            ),
            (&[0x80], None),
            (&[0x80; 11], None),
        ];
        for (bytes, want) in cases {
            assert_eq!(varint(bytes, &mut 0), want, "{bytes:?}");
        }
    }
}
