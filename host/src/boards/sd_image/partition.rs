//! Reads the partition table of a disk image: MBR with its chain of extended partitions, or GPT with its checksums. Nothing in
//! the image is trusted: every number is checked against the size of the image before it is used. Sectors are 512 bytes.
//!
//! Written by hand, because the crates for it trust the image (gptman 3.1, mbrman 0.6). Both panic on a partition at sector 0
//! and where a sum or product overflows; in a release build the sum wraps, and mbrman answers with the wrong sectors. gptman
//! reserves 650 GB for a header that counts 2^32 entries and panics on entries of 256 bytes, which the standard permits.
//! mbrman follows a chain of any length, takes a damaged first link for an empty chain, and refuses links that do not ascend,
//! which Linux reads. mbrman needs bincode, which nobody maintains (RUSTSEC-2025-0141); gptman switches on a feature of syn with
//! which tract compiles again.

use std::io::{Read, Seek, SeekFrom};

/// Bytes of one sector.
pub const SECTOR: u64 = 512;
/// What some flash and disks have instead.
const WIDE_SECTOR: u64 = 4096;
/// A chain of extended partitions longer than this is a loop or a joke.
const MOST_LOGICAL: u32 = 60;

/// One partition that lies wholly within its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// As Linux numbers it: mmcblk0p2 is 2.
    pub number: u32,
    /// Bytes from the start of the image.
    pub offset: u64,
    /// Size of the partition.
    pub bytes: u64,
}

/// Why an image's partitions cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The operating system could not read the image.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// The image is no disk image, or its table is empty.
    #[error("holds no partition table: a disk image has one, MBR or GPT")]
    None,
    /// An entry, a chain or a checksum is wrong; which one.
    #[error("its partition table is damaged: {0}")]
    Damaged(String),
    /// A file system must not be written to: unclean, impossible, or larger than its partition; the whole text.
    #[error("{0}")]
    FileSystem(String),
}

fn damaged<T>(what: impl Into<String>) -> Result<T, TableError> {
    Err(TableError::Damaged(what.into()))
}

fn unfit<T>(what: String) -> Result<T, TableError> {
    Err(TableError::FileSystem(what))
}

fn le32(bytes: &[u8], at: usize) -> u64 {
    (0..4).map(|n| u64::from(bytes[at + n]) << (8 * n)).sum()
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    le32(bytes, at) | le32(bytes, at + 4) << 32
}

fn read_at(image: &mut (impl Read + Seek), at: u64, bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut out = vec![0; bytes];
    image.seek(SeekFrom::Start(at))?;
    image.read_exact(&mut out)?;
    Ok(out)
}

/// The partitions of an image of `size` bytes, in the order of the table.
///
/// # Errors
/// [`TableError::None`], [`TableError::Damaged`] and [`TableError::Read`].
pub fn table(image: &mut (impl Read + Seek), size: u64) -> Result<Vec<Partition>, TableError> {
    if size < 2 * SECTOR {
        return Err(TableError::None);
    }
    let first = read_at(image, 0, SECTOR as usize)?;
    if first[510..] != [0x55, 0xaa] {
        return Err(TableError::None);
    }
    let kinds: Vec<u8> = (0..4).map(|n| first[446 + 16 * n + 4]).collect();
    let found = match kinds.contains(&0xee) {
        true => gpt(image, size)?,
        false => mbr(image, size, &first)?,
    };
    match found.is_empty() {
        true => Err(TableError::None),
        false => Ok(found),
    }
}

/// `sectors` from `start` as a partition, if the image holds them.
fn checked(number: u32, start: u64, sectors: u64, size: u64) -> Result<Partition, TableError> {
    let range = start
        .checked_mul(SECTOR)
        .zip(sectors.checked_mul(SECTOR))
        .filter(|(offset, bytes)| {
            *offset > 0 && *bytes > 0 && offset.checked_add(*bytes).is_some_and(|end| end <= size)
        });
    match range {
        Some((offset, bytes)) => Ok(Partition { number, offset, bytes }),
        None => damaged(format!(
            "partition {number} ({sectors} sectors from {start}) does not lie within the {size} bytes of the image; is it whole?"
        )),
    }
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

fn mbr(image: &mut (impl Read + Seek), size: u64, first: &[u8]) -> Result<Vec<Partition>, TableError> {
    let entry = |sector: &[u8], n: usize| {
        let at = 446 + 16 * n;
        (sector[at + 4], le32(sector, at + 8), le32(sector, at + 12))
    };
    let mut found = Vec::new();
    let mut extended = None;
    for n in 0..4 {
        let (kind, start, sectors) = entry(first, n);
        if kind == 0 {
            continue;
        }
        let one = checked(n as u32 + 1, start, sectors, size)?;
        if !is_extended(kind) {
            found.push(one);
        } else if extended.replace(start).is_some() {
            return damaged("it has two extended partitions");
        }
    }
    let Some(base) = extended else {
        return Ok(found);
    };
    // Each link holds one partition, counted from itself, and the next link, counted from the first.
    let mut link = base;
    for number in 5.. {
        if number - 5 >= MOST_LOGICAL {
            return damaged("its logical partitions form a loop");
        }
        let at = link.checked_mul(SECTOR).filter(|at| at + SECTOR <= size);
        let Some(at) = at else {
            return damaged(format!("logical partition {number} lies outside of the image"));
        };
        let sector = read_at(image, at, SECTOR as usize)?;
        if sector[510..] != [0x55, 0xaa] {
            return damaged(format!("logical partition {number} has no signature"));
        }
        let (kind, start, sectors) = entry(&sector, 0);
        if kind != 0 {
            found.push(checked(number, link + start, sectors, size)?);
        }
        match entry(&sector, 1) {
            (kind, next, _) if is_extended(kind) && next > 0 => link = base + next,
            _ => break,
        }
    }
    Ok(found)
}

fn gpt(image: &mut (impl Read + Seek), size: u64) -> Result<Vec<Partition>, TableError> {
    let header = read_at(image, SECTOR, SECTOR as usize)?;
    if !header.starts_with(b"EFI PART") {
        // A header lies in the second sector, whatever a sector is.
        let wide = size >= WIDE_SECTOR + SECTOR && read_at(image, WIDE_SECTOR, 8)? == b"EFI PART";
        if wide {
            return unfit(format!(
                "has sectors of {WIDE_SECTOR} bytes, sectors of {SECTOR} are read here: mount its root partition \
                 (losetup -P --sector-size {WIDE_SECTOR}) and name that with --rootfs"
            ));
        }
        return damaged("its first sector announces a GPT, but the second holds none");
    }
    let length = le32(&header, 12) as usize;
    if !(92..=SECTOR as usize).contains(&length) {
        return damaged(format!("its GPT header has {length} bytes"));
    }
    let mut summed = header[..length].to_vec();
    summed[16..20].fill(0);
    if u64::from(crc(&summed)) != le32(&header, 16) {
        return damaged("the checksum of its GPT header does not hold");
    }
    let (at, count, width) = (le64(&header, 72), le32(&header, 80), le32(&header, 84));
    // The standard's least is 128 entries of 128 bytes; nobody has ever needed more than a few times that.
    if count > 1024 || !(128..=4096).contains(&width) || width % 8 != 0 {
        return damaged(format!("its GPT has {count} entries of {width} bytes"));
    }
    let bytes = count * width;
    let start = at
        .checked_mul(SECTOR)
        .filter(|s| s.checked_add(bytes).is_some_and(|end| end <= size));
    let Some(start) = start else {
        return damaged("its GPT entries lie outside of the image");
    };
    let entries = read_at(image, start, bytes as usize)?;
    if u64::from(crc(&entries)) != le32(&header, 88) {
        return damaged("the checksum of its GPT entries does not hold");
    }
    let mut found = Vec::new();
    for (number, entry) in (1u32..).zip(entries.chunks_exact(width as usize)) {
        if entry[..16].iter().all(|b| *b == 0) {
            continue;
        }
        let (first, last) = (le64(entry, 32), le64(entry, 40));
        let sectors = last.checked_sub(first).and_then(|n| n.checked_add(1)).unwrap_or(0);
        found.push(checked(number, first, sectors, size)?);
    }
    Ok(found)
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// What packed a file that begins with `head`, and what unpacks it.
pub fn packed(head: &[u8]) -> Option<(&'static str, &'static str)> {
    [
        (&b"\xfd7zXZ\0"[..], ("xz", "xz -dk")),
        (b"\x1f\x8b", ("gzip", "gzip -dk")),
        (b"\x28\xb5\x2f\xfd", ("zstd", "zstd -dk")),
        (b"BZh", ("bzip2", "bzip2 -dk")),
        (b"PK\x03\x04", ("zip", "unzip")),
        (b"7z\xbc\xaf\x27\x1c", ("7z", "7z x")),
    ]
    .into_iter()
    .find(|(magic, _)| head.starts_with(magic))
    .map(|(_, told)| told)
}

/// What the superblock of an ext2, ext3 or ext4 file system says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Super {
    /// Bytes of one block, 1024 to 65536.
    pub block: u64,
    /// Blocks that are free.
    pub free: u64,
    /// Inodes that are free, one for each file that can still be made.
    pub free_inodes: u64,
}

/// `None` where there is no such file system; an error where there is one that must not be written to.
///
/// # Errors
/// [`TableError::FileSystem`] and [`TableError::Read`].
pub fn ext(image: &mut (impl Read + Seek), partition: &Partition) -> Result<Option<Super>, TableError> {
    const AT: u64 = 1024;
    if partition.bytes < 2 * AT {
        return Ok(None);
    }
    let block = read_at(image, partition.offset + AT, AT as usize)?;
    if block[56..58] != [0x53, 0xef] {
        return Ok(None);
    }
    let number = partition.number;
    let (shift, incompatible) = (le32(&block, 24), le32(&block, 96));
    if shift > 6 {
        return unfit(format!(
            "the file system of partition {number} has an impossible block size"
        ));
    }
    let wide = |low: usize, high: usize| match incompatible & 0x80 {
        0 => le32(&block, low),
        _ => le32(&block, low) | le32(&block, high) << 32,
    };
    let size = 1024u64 << shift;
    let (blocks, free) = (wide(4, 0x150), wide(12, 0x158));
    if blocks.checked_mul(size).is_none_or(|bytes| bytes > partition.bytes) || free > blocks {
        return unfit(format!(
            "the file system of partition {number} claims {blocks} blocks of {size} bytes, the partition has {} bytes",
            partition.bytes
        ));
    }
    // Its journal holds changes that are not in their places yet: whoever writes beside it loses them.
    let state = block[58] & 3;
    if incompatible & 4 != 0 || state != 1 {
        return unfit(format!(
            "the file system of partition {number} was not unmounted cleanly; boot the card once, or run e2fsck on it"
        ));
    }
    Ok(Some(Super {
        block: size,
        free,
        free_inodes: le32(&block, 16),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const SIZE: u64 = 1 << 20;

    fn entry(image: &mut [u8], sector: u64, n: usize, kind: u8, start: u32, sectors: u32) {
        let base = (sector * SECTOR) as usize;
        let at = base + 446 + 16 * n;
        image[at + 4] = kind;
        image[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        image[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        image[base + 510..base + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    fn read(image: &[u8]) -> Result<Vec<(u32, u64, u64)>, String> {
        let told = table(&mut Cursor::new(image), image.len() as u64).map_err(|e| e.to_string())?;
        Ok(told
            .into_iter()
            .map(|p| (p.number, p.offset / SECTOR, p.bytes / SECTOR))
            .collect())
    }

    /// A boot partition, an extended one with two logical partitions.
    fn logical() -> Vec<u8> {
        let mut image = vec![0; SIZE as usize];
        entry(&mut image, 0, 0, 0x0c, 8, 100);
        entry(&mut image, 0, 2, 0x05, 200, 1000);
        entry(&mut image, 200, 0, 0x83, 10, 90);
        entry(&mut image, 200, 1, 0x05, 300, 500);
        entry(&mut image, 500, 0, 0x83, 10, 400);
        image
    }

    fn guid() -> Vec<u8> {
        let mut image = vec![0; SIZE as usize];
        entry(&mut image, 0, 0, 0xee, 1, 2047);
        image[512..520].copy_from_slice(b"EFI PART");
        let put = |image: &mut Vec<u8>, at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(&mut image, 512 + 12, &92u32.to_le_bytes());
        put(&mut image, 512 + 72, &2u64.to_le_bytes());
        put(&mut image, 512 + 80, &128u32.to_le_bytes());
        put(&mut image, 512 + 84, &128u32.to_le_bytes());
        let second = 1024 + 128;
        image[second] = 0xaf;
        put(&mut image, second + 32, &100u64.to_le_bytes());
        put(&mut image, second + 40, &199u64.to_le_bytes());
        sum(&mut image);
        image
    }

    fn sum(image: &mut [u8]) {
        let entries = crc(&image[1024..1024 + 128 * 128]);
        image[512 + 88..512 + 92].copy_from_slice(&entries.to_le_bytes());
        image[512 + 16..512 + 20].fill(0);
        let header = crc(&image[512..512 + 92]);
        image[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
    }

    #[test]
    fn primary_logical_and_guid_partitions_are_numbered_as_linux_does() {
        assert_eq!(read(&logical()).unwrap(), [(1, 8, 100), (5, 210, 90), (6, 510, 400)]);
        assert_eq!(read(&guid()).unwrap(), [(2, 100, 100)]);
    }

    /// What other tools may write, though few do.
    #[test]
    fn links_that_do_not_ascend_and_wide_entries_are_read() {
        let mut image = logical();
        entry(&mut image, 500, 1, 0x05, 150, 100);
        entry(&mut image, 350, 0, 0x83, 10, 90);
        let found = [(1, 8, 100), (5, 210, 90), (6, 510, 400), (7, 360, 90)];
        assert_eq!(read(&image).unwrap(), found);

        let mut image = guid();
        let second = image[1024 + 128..1024 + 256].to_vec();
        image[1024 + 128..1024 + 256].fill(0);
        image[1024 + 256..1024 + 384].copy_from_slice(&second);
        image[512 + 80..512 + 84].copy_from_slice(&64u32.to_le_bytes());
        image[512 + 84..512 + 88].copy_from_slice(&256u32.to_le_bytes());
        sum(&mut image);
        assert_eq!(read(&image).unwrap(), [(2, 100, 100)]);
    }

    #[test]
    fn damaged_tables_are_one_clear_error() {
        type Spoil = fn(&mut Vec<u8>);
        let cases: [(fn() -> Vec<u8>, Spoil, &str); 16] = [
            (logical, |i| i.truncate(600), "no partition table"),
            (logical, |i| i[511] = 0, "no partition table"),
            (logical, |i| i[446..510].fill(0), "no partition table"),
            (logical, |i| i.truncate(300 * 512), "is it whole"),
            (logical, |i| entry(i, 0, 0, 0x83, 0, 5), "partition 1"),
            (logical, |i| entry(i, 0, 0, 0x83, u32::MAX, u32::MAX), "partition 1"),
            (logical, |i| entry(i, 0, 3, 0x0f, 300, 9), "two extended"),
            (logical, |i| entry(i, 500, 1, 0x05, 300, 9), "loop"),
            (logical, |i| entry(i, 200, 1, 0x05, u32::MAX, 9), "outside of the image"),
            (logical, |i| entry(i, 200, 0, 0x83, u32::MAX, 90), "partition 5"),
            (logical, |i| i[200 * 512 + 511] = 0, "no signature"),
            (logical, |i| i[500 * 512 + 511] = 0, "no signature"),
            (guid, |i| i[512] = 0, "holds none"),
            (
                guid,
                |i| {
                    i[512] = 0;
                    i[4096..4104].copy_from_slice(b"EFI PART");
                },
                "sectors of 4096 bytes",
            ),
            (guid, |i| i[1024 + 128 + 40] ^= 1, "entries does not hold"),
            (
                guid,
                |i| {
                    i[1024 + 128 + 32..1024 + 128 + 40].fill(0xff);
                    sum(i);
                },
                "partition 2",
            ),
        ];
        for (image, spoil, part) in cases {
            let mut image = image();
            spoil(&mut image);
            let error = read(&image).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
        for (at, bytes, part) in [
            (512 + 12, &[0xff; 4], "GPT header has"),
            (512 + 80, &[0xff; 4], "header does not hold"),
        ] {
            let mut image = guid();
            image[at..at + 4].copy_from_slice(bytes);
            assert!(read(&image).unwrap_err().contains(part));
        }
        // Counts and places that only a good checksum makes believable.
        for (at, bytes) in [
            (512 + 80, &[0xff; 4][..]),
            (512 + 84, &[7, 0, 0, 0]),
            (512 + 72, &[0xff; 8]),
        ] {
            let mut image = guid();
            image[at..at + bytes.len()].copy_from_slice(bytes);
            image[512 + 16..512 + 20].fill(0);
            let header = crc(&image[512..512 + 92]);
            image[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
            let error = read(&image).unwrap_err();
            assert!(error.contains("GPT"), "{error}");
        }
    }

    /// Every byte of both tables set to each of a few values: an answer or an error, never a panic.
    #[test]
    fn no_single_byte_stops_the_reader() {
        for image in [logical(), guid()] {
            for at in (440..1024 + 256).chain(200 * 512 + 440..201 * 512) {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut image = image.clone();
                    image[at] = value;
                    let _ = read(&image);
                }
            }
        }
    }

    #[test]
    fn file_systems_are_told_by_their_superblock() {
        let mut image = vec![0; SIZE as usize];
        let whole = Partition {
            number: 2,
            offset: 4096,
            bytes: SIZE - 4096,
        };
        let mut tell = |changes: &[(usize, &[u8])]| {
            for (at, bytes) in changes {
                let at = 4096 + 1024 + at;
                image[at..at + bytes.len()].copy_from_slice(bytes);
            }
            ext(&mut Cursor::new(&image), &whole).map_err(|e| e.to_string())
        };
        assert_eq!(tell(&[]), Ok(None));
        let good = tell(&[(56, &[0x53, 0xef]), (58, &[1]), (4, &[200]), (12, &[50]), (16, &[9])]);
        assert_eq!(
            good,
            Ok(Some(Super {
                block: 1024,
                free: 50,
                free_inodes: 9
            }))
        );
        for (changes, part) in [
            (&[(96, &[4][..])][..], "cleanly"),
            (&[(96, &[0]), (58, &[3])], "cleanly"),
            (&[(58, &[1]), (4, &[0xff; 4])], "claims"),
            (&[(4, &[200, 0, 0, 0]), (12, &[201])], "claims"),
            (&[(24, &[40])], "block size"),
        ] {
            let error = tell(changes).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
