//! Reads the directory of a zip archive whose entries are stored uncompressed, as `torch.save` writes them, zip64 included.
//! In comes the whole file as bytes, out come borrowed slices by entry name; it writes nothing, so names are only labels.

use std::collections::BTreeMap;
use std::ops::Range;

/// Entry name → payload, borrowed from the archive.
pub type Entries<'a> = BTreeMap<String, &'a [u8]>;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const END64_LOCATOR: u32 = 0x0706_4b50;
const END_BYTES: usize = 22;
const ZIP64_EXTRA: u16 = 1;

pub fn read(bytes: &[u8]) -> Result<Entries<'_>, String> {
    let (mut at, directory_end, count) = directory(bytes)?;
    let directory_start = at;
    let mut entries = Entries::new();
    let mut places = Vec::new();
    for _ in 0..count {
        if at >= directory_end {
            return Err(format!("the directory ends after {} of {count} entries", entries.len()));
        }
        let (name, place, next) = entry(bytes, at)?;
        places.push(place.whole);
        if entries.insert(name.clone(), &bytes[place.payload]).is_some() {
            return Err(format!("two entries are named '{name}'"));
        }
        at = next;
    }
    // Storages that share bytes would let a small file ask for any amount of memory; torch writes one after the other.
    places.sort_unstable_by_key(|place| place.start);
    places.push(directory_start..directory_end);
    match places.windows(2).find(|pair| pair[0].end > pair[1].start) {
        Some(pair) => Err(format!("two parts of the archive overlap at byte {}", pair[1].start)),
        None => Ok(entries),
    }
}

/// Offset and end of the central directory, and its number of entries.
fn directory(bytes: &[u8]) -> Result<(usize, usize, u64), String> {
    // The end record is followed by a comment of at most 64 KiB, so it is searched for from the back.
    let last = bytes
        .len()
        .checked_sub(END_BYTES)
        .ok_or("too short for a zip archive")?;
    let end = (last.saturating_sub(u16::MAX as usize)..=last)
        .rev()
        .find(|&at| {
            u32_at(bytes, at) == Ok(END)
                && u16_at(bytes, at + 20).is_ok_and(|n| at + END_BYTES + n as usize == bytes.len())
        })
        .ok_or("no end record: the file is cut short or no zip archive")?;
    let (mut count, mut size, mut offset) = (
        u64::from(u16_at(bytes, end + 10)?),
        u64::from(u32_at(bytes, end + 12)?),
        u64::from(u32_at(bytes, end + 16)?),
    );
    let locator = end.checked_sub(20).filter(|&at| u32_at(bytes, at) == Ok(END64_LOCATOR));
    if let Some(locator) = locator {
        let end64 = position(u64_at(bytes, locator + 8)?)?;
        if u32_at(bytes, end64)? != END64 {
            return Err("the zip64 end record is not where its locator says".into());
        }
        (count, size, offset) = (
            u64_at(bytes, add(end64, 32)?)?,
            u64_at(bytes, add(end64, 40)?)?,
            u64_at(bytes, add(end64, 48)?)?,
        );
    }
    let (offset, size) = (position(offset)?, position(size)?);
    let directory_end = add(offset, size)?;
    if directory_end > end {
        return Err("the directory reaches past its end record".into());
    }
    Ok((offset, directory_end, count))
}

/// Where an entry lies in the file.
struct Place {
    /// Its local header and its payload.
    whole: Range<usize>,
    payload: Range<usize>,
}

/// One entry of the central directory at `at`: name, place, and where the next entry of the directory starts.
fn entry(bytes: &[u8], at: usize) -> Result<(String, Place, usize), String> {
    if u32_at(bytes, at)? != CENTRAL {
        return Err(format!("no directory entry at byte {at}"));
    }
    let flags = u16_at(bytes, at + 8)?;
    let method = u16_at(bytes, at + 10)?;
    let (name_len, extra_len, comment_len) = (
        u16_at(bytes, at + 28)?,
        u16_at(bytes, at + 30)?,
        u16_at(bytes, at + 32)?,
    );
    let name_at = add(at, 46)?;
    let extra_at = add(name_at, name_len.into())?;
    let next = add(add(extra_at, extra_len.into())?, comment_len.into())?;
    let name = String::from_utf8(slice(bytes, name_at, name_len.into())?.to_vec())
        .map_err(|_| "an entry's name is not UTF-8")?;
    let extra = slice(bytes, extra_at, extra_len.into())?;
    let mut compressed = u64::from(u32_at(bytes, at + 20)?);
    let mut size = u64::from(u32_at(bytes, at + 24)?);
    let mut local = u64::from(u32_at(bytes, at + 42)?);
    zip64(extra, [&mut size, &mut compressed, &mut local]).map_err(|e| format!("entry '{name}': {e}"))?;
    if flags & 1 != 0 {
        return Err(format!("entry '{name}' is encrypted"));
    }
    if method != 0 || compressed != size {
        return Err(format!(
            "entry '{name}' is compressed (method {method}); torch stores entries as they are: save the file anew with torch.save"
        ));
    }
    let local = position(local)?;
    if u32_at(bytes, local)? != LOCAL {
        return Err(format!("entry '{name}' is not where the directory says"));
    }
    let (name_len, extra_len) = (u16_at(bytes, add(local, 26)?)?, u16_at(bytes, add(local, 28)?)?);
    // A reader that goes by the local headers, as scanners do, must see the same archive.
    if slice(bytes, add(local, 30)?, name_len.into())? != name.as_bytes() {
        return Err(format!("entry '{name}' has another name where it lies"));
    }
    let start = add(add(add(local, 30)?, name_len.into())?, extra_len.into())?;
    let end = add(start, position(size)?)?;
    if end > bytes.len() {
        return Err(format!("entry '{name}' reaches past the end of the file"));
    }
    let place = Place {
        whole: local..end,
        payload: start..end,
    };
    Ok((name, place, next))
}

/// Fields that are 0xffffffff in the entry stand, in this order, in its zip64 extra field.
fn zip64(extra: &[u8], fields: [&mut u64; 3]) -> Result<(), String> {
    let mut at = 0;
    while at + 4 <= extra.len() {
        let (id, len) = (u16_at(extra, at)?, u16_at(extra, at + 2)? as usize);
        let body = slice(extra, at + 4, len)?;
        if id == ZIP64_EXTRA {
            let mut from = 0;
            for field in fields {
                if *field == u64::from(u32::MAX) {
                    *field = u64_at(body, from)?;
                    from += 8;
                }
            }
            return Ok(());
        }
        at += 4 + len;
    }
    Ok(())
}

fn position(value: u64) -> Result<usize, String> {
    usize::try_from(value).map_err(|_| format!("offset {value} does not fit this machine"))
}

fn add(a: usize, b: usize) -> Result<usize, String> {
    a.checked_add(b).ok_or_else(|| "an offset overflows".into())
}

fn slice(bytes: &[u8], at: usize, len: usize) -> Result<&[u8], String> {
    bytes
        .get(at..add(at, len)?)
        .ok_or_else(|| format!("{len} bytes at {at} reach past the end"))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], String> {
    let mut out = [0; N];
    out.copy_from_slice(slice(bytes, at, N)?);
    Ok(out)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, String> {
    Ok(u16::from_le_bytes(array(bytes, at)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, String> {
    Ok(u32::from_le_bytes(array(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, String> {
    Ok(u64::from_le_bytes(array(bytes, at)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive with one stored entry; `zip64` moves its sizes and offsets to the wide fields, as files above 4 GiB have.
    fn archive(name: &str, payload: &[u8], zip64: bool) -> Vec<u8> {
        let len = payload.len() as u32;
        let (short, extra) = if zip64 {
            let wide = [u64::from(len), u64::from(len), 0].map(u64::to_le_bytes).concat();
            (
                u32::MAX,
                [&1u16.to_le_bytes()[..], &24u16.to_le_bytes(), &wide].concat(),
            )
        } else {
            (len, Vec::new())
        };
        let mut out = [
            &LOCAL.to_le_bytes()[..],
            &[0; 14],
            &len.to_le_bytes(),
            &len.to_le_bytes(),
        ]
        .concat();
        out.extend(
            [
                &(name.len() as u16).to_le_bytes()[..],
                &3u16.to_le_bytes(),
                name.as_bytes(),
                b"pad",
                payload,
            ]
            .concat(),
        );
        let start = out.len();
        out.extend(
            [
                &CENTRAL.to_le_bytes()[..],
                &[0; 16],
                &short.to_le_bytes(),
                &short.to_le_bytes(),
            ]
            .concat(),
        );
        out.extend(
            [
                &(name.len() as u16).to_le_bytes()[..],
                &(extra.len() as u16).to_le_bytes(),
                &[0; 10],
            ]
            .concat(),
        );
        out.extend([if zip64 { &[0xff; 4] } else { &[0; 4] }, name.as_bytes(), &extra].concat());
        let size = out.len() - start;
        if zip64 {
            let end64 = out.len() as u64;
            out.extend([&END64.to_le_bytes()[..], &44u64.to_le_bytes(), &[0; 12]].concat());
            out.extend([1, 1, size as u64, start as u64].map(u64::to_le_bytes).concat());
            out.extend(
                [
                    &END64_LOCATOR.to_le_bytes()[..],
                    &[0; 4],
                    &end64.to_le_bytes(),
                    &[1, 0, 0, 0],
                ]
                .concat(),
            );
        }
        out.extend([&END.to_le_bytes()[..], &[0, 0, 0, 0, 1, 0, 1, 0]].concat());
        let directory = if zip64 {
            [u32::MAX; 2]
        } else {
            [size as u32, start as u32]
        };
        out.extend(directory.map(u32::to_le_bytes).concat());
        out.extend([0, 0]);
        out
    }

    #[test]
    fn plain_and_zip64_archives_read_alike() {
        for zip64 in [false, true] {
            let bytes = archive("model/data.pkl", b"payload", zip64);
            let entries = read(&bytes).unwrap_or_else(|e| panic!("zip64 {zip64}: {e}"));
            assert_eq!(entries["model/data.pkl"], b"payload");
        }
    }

    #[test]
    fn a_cut_or_changed_archive_is_an_error_or_a_read() {
        for zip64 in [false, true] {
            let whole = archive("a/data.pkl", b"payload", zip64);
            for len in 0..whole.len() {
                assert!(read(&whole[..len]).is_err(), "{len} bytes");
            }
            for at in 0..whole.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut changed = whole.clone();
                    changed[at] ^= flip;
                    let _ = read(&changed);
                }
            }
        }
    }

    #[test]
    fn compressed_and_encrypted_entries_are_refused() {
        let whole = archive("a", b"payload", false);
        let central = whole.windows(4).position(|w| w == CENTRAL.to_le_bytes()).unwrap();
        for (at, want) in [(central + 8, "encrypted"), (central + 10, "compressed (method 1)")] {
            let mut changed = whole.clone();
            changed[at] = 1;
            let message = read(&changed).unwrap_err();
            assert!(message.contains(want), "{message}");
        }
    }
}
