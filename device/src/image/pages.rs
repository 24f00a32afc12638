//! Which pages of files are in memory, and letting go of them: the program's own code, a model before a bench that starts cold.
//! MADV_DONTNEED by libc: rustix's `madvise` asks for the same promise. mincore and the size of a page too, which rustix has not
//! or reads at start.

#[cfg(target_os = "linux")]
use crate::platform::sysfs::{kilobytes, read};

/// Asks the kernel to forget the cached pages of one file, which needs no root; root also has everything dropped. Whether
/// none of the file is cached afterwards: another process that maps it keeps its pages.
#[cfg(target_os = "linux")]
pub fn drop_from_cache(file: &std::fs::File) -> bool {
    // Pages that are not on storage yet cannot be dropped.
    let _ = file.sync_all();
    let advised = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).is_ok();
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "1");
    advised && resident_pages(file) == Some(0)
}

#[cfg(target_os = "linux")]
fn resident_pages(file: &std::fs::File) -> Option<usize> {
    let bytes = usize::try_from(file.metadata().ok()?.len()).ok()?;
    // SAFETY: the map is only asked where its pages are; nothing is read through it.
    let map = unsafe { memmap2::MmapOptions::new().len(bytes).map(file) }.ok()?;
    // SAFETY: sysconf takes no pointer.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let mut pages = vec![0u8; bytes.div_ceil(page.max(1))];
    // SAFETY: the map is `bytes` long and the vector has a byte for each of its pages.
    let told = unsafe { libc::mincore(map.as_ptr() as *mut _, bytes, pages.as_mut_ptr()) } == 0;
    told.then(|| pages.iter().filter(|p| **p & 1 == 1).count())
}

#[cfg(not(target_os = "linux"))]
pub fn drop_from_cache(_: &std::fs::File) -> bool {
    false
}

/// Lets go of the program's code as far as it has been read: what loading alone needed is not resident afterwards, what
/// inference needs comes back from the page cache, a few hundred minor faults once.
pub fn forget_code() {
    #[cfg(target_os = "linux")]
    if let Some(code) = read("/proc/self/smaps").and_then(|maps| clean_code(&maps, forget_code as *const () as usize)) {
        // SAFETY: these pages are the file's own, so the kernel reads the same bytes again.
        unsafe { libc::madvise(code.start as *mut libc::c_void, code.len(), libc::MADV_DONTNEED) };
    }
}

/// Lets go of the program's code and of its constants: what [`forget_code`] does, and the same for what starting it read of the
/// file beside the code, its relocations above all.
pub fn forget_program() {
    forget_code();
    #[cfg(target_os = "linux")]
    for part in read("/proc/self/smaps").map_or_else(Vec::new, |maps| {
        clean_constants(&maps, forget_code as *const () as usize)
    }) {
        // SAFETY: as in `forget_code`: the file's own pages, which nobody has changed.
        unsafe { libc::madvise(part.start as *mut libc::c_void, part.len(), libc::MADV_DONTNEED) };
    }
}

/// The mappings in /proc/self/smaps of the file whose code holds `address` that are only read and in which nobody has changed a
/// page: not what the loader relocated.
#[cfg(target_os = "linux")]
fn clean_constants(maps: &str, address: usize) -> Vec<std::ops::Range<usize>> {
    let Some(code) = clean_code(maps, address) else {
        return vec![];
    };
    let mut file = None;
    let mut areas = Vec::new();
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ends = fields.first().and_then(|first| first.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = ends.and_then(|(start, end)| Some((number(start)?, number(end)?))) {
            let path = fields.get(5).copied().unwrap_or_default();
            if start == code.start {
                file = Some(path);
            }
            areas.push((start..end, fields[1] == "r--p", path, false));
        } else if let (Some(("Anonymous:", "0")), Some(area)) =
            (fields.first().copied().zip(fields.get(1).copied()), areas.last_mut())
        {
            area.3 = true;
        }
    }
    let clean = areas
        .into_iter()
        .filter(|(_, read, path, clean)| *read && *clean && Some(*path) == file);
    clean.map(|(range, ..)| range).collect()
}

/// The mapping in /proc/self/smaps that holds `address`, if it is a file's code in which nobody has changed a page, as
/// debuggers do for a breakpoint and some loaders for all of it.
#[cfg(target_os = "linux")]
fn clean_code(maps: &str, address: usize) -> Option<std::ops::Range<usize>> {
    let mut lines = maps.lines();
    let range = lines.find_map(|line| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        let code = fields.next()? == "r-xp" && fields.nth(3)?.starts_with('/') && !line.ends_with(" (deleted)");
        (code && range.contains(&address)).then_some(range)
    })?;
    let own: Vec<&str> = lines.take_while(|line| !line.starts_with("VmFlags")).collect();
    (kilobytes(&own.join("\n"), "Anonymous") == Some(0)).then_some(range)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_unchanged_code_is_let_go() {
        let entry =
            |head: &str, anonymous: &str| format!("{head}\nRss: 4 kB\nAnonymous: {anonymous} kB\nVmFlags: rd ex\n");
        let maps = [
            entry("5000-6000 r--p 00000000 fe:00 12 /bin/a b", "0"),
            entry("6000-9000 r-xp 00001000 fe:00 12 /bin/a b", "0"),
            entry("a000-b000 r-xp 00001000 fe:00 12 /bin/patched", "4"),
            entry("b000-c000 r-xp 00000000 00:00 0 [vdso]", "0"),
            entry("c000-d000 r-xp 00000000 00:01 7 /memfd:text (deleted)", "0"),
            entry("d000-e000 rwxp 00000000 00:00 0 ", "0"),
        ]
        .concat();
        assert_eq!(clean_code(&maps, 0x6000), Some(0x6000..0x9000));
        for none in [0x5fff, 0x9000, 0xa000, 0xb000, 0xc000, 0xd000] {
            assert_eq!(clean_code(&maps, none), None, "{none:x}");
        }
        // The code read again is what it was.
        forget_code();
        assert_eq!(clean_code(&maps, 0x8fff), Some(0x6000..0x9000));
        let own = |start: &str, anonymous: &str| entry(&format!("{start} r--p 00000000 fd:00 7 /bin/x"), anonymous);
        let code = entry("2000-3000 r-xp 00000000 fd:00 7 /bin/x", "0");
        let other = entry("5000-6000 r--p 00000000 fd:00 8 /bin/y", "0");
        let maps = [
            own("1000-2000", "0"),
            code,
            own("3000-4000", "0"),
            own("4000-5000", "8"),
            other,
        ]
        .concat();
        assert_eq!(clean_constants(&maps, 0x2800), [0x1000..0x2000, 0x3000..0x4000]);
        forget_program();
        assert_eq!("still here".len(), 10);
    }

    #[test]
    fn the_pages_of_a_file_are_counted() {
        let path = std::env::temp_dir().join(format!("thimble-cold-{}", std::process::id()));
        std::fs::write(&path, vec![7u8; 1 << 16]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        assert_eq!(resident_pages(&file), Some(16));
        std::fs::remove_file(path).unwrap();
    }
}
