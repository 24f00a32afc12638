//! What is read about boards and from them: target files, inventories, reports, card images, device programs. The first byte
//! says which.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::Cursor;
use thimble::boards::sd_image::partition;
use thimble::boards::ssh::{inventory, link::Link};
use thimble::boards::{device_binary, profile_file, profiles, reports, system};
use thimble_fuzz::{Allowance, bounded, one_line, plain, put};
use thimble_shared::board::architecture::Architecture;

const ALLOWANCE: Allowance = Allowance {
    times: 256,
    bytes: 1 << 20,
};

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    bounded(data, ALLOWANCE, || match kind % 5 {
        0 => target(rest),
        1 => hosts(rest),
        2 => history(rest),
        3 => card(rest),
        _ => {
            if let Err(what) = Architecture::of_program(rest) {
                plain(&what);
            }
            let _ = system::told(&String::from_utf8_lossy(rest));
            device_binary::largest_page(rest);
        }
    });
});

fn target(bytes: &[u8]) {
    // What a board that is asked may answer.
    if let Ok(target) = profile_file::of_board(&String::from_utf8_lossy(bytes)) {
        let text = profile_file::write(&target);
        assert_eq!(profile_file::read(&text), Ok(target), "{text}");
    }
    let path = put("input.toml", bytes);
    match profiles::find(&path.display().to_string()) {
        Ok(target) => {
            assert!(target.problems().is_empty());
            target.ram_sizes();
        }
        Err(e) => one_line(e, "input.toml"),
    }
}

fn hosts(bytes: &[u8]) {
    let path = put("hosts.ini", bytes);
    match inventory::read(&path) {
        Ok(hosts) => hosts.iter().for_each(|host| {
            plain(&host.to);
            plain(&host.name);
            // A host that begins with a dash, or has one for its name after a user, would be an option to ssh.
            let option = host.to.starts_with('-') || host.to.contains("@-");
            assert!(
                !option || Link::new(&host.to, host.port, None, None).is_err(),
                "{:?}",
                host.to
            );
        }),
        Err(e) => one_line(e, "hosts.ini"),
    }
}

fn history(bytes: &[u8]) {
    let path = put("history.json", bytes);
    match reports::load(&path) {
        Ok(entries) => {
            for entry in &entries {
                assert!(entry.report.problems().is_empty());
                reports::against_last(&entry.report, &entries[0].report);
                for target in profiles::all().expect("the profiles in targets/") {
                    reports::against_target(&entry.report, &target);
                }
            }
            let table = reports::as_table(&entries);
            assert!(
                !table.chars().any(|c| c != '\n' && thimble_shared::terminal::acts(c)),
                "{table:?}"
            );
            reports::as_markdown(&entries);
            reports::notes(&entries);
        }
        Err(e) => one_line(e, "history.json"),
    }
}

fn card(bytes: &[u8]) {
    // An image of a card is large and mostly empty: what is given is its start.
    let mut image = bytes.to_vec();
    image.resize(bytes.len().next_multiple_of(512).max(64 << 10), 0);
    let size = image.len() as u64;
    let mut image = Cursor::new(image);
    match partition::table(&mut image, size) {
        Ok(partitions) => {
            for p in &partitions {
                assert!(p.offset.checked_add(p.bytes).is_some_and(|end| end <= size), "{p:?}");
                if let Err(e) = partition::ext(&mut image, p) {
                    plain(&e.to_string());
                }
            }
        }
        Err(e) => plain(&e.to_string()),
    }
    partition::packed(bytes);
}
