//! Attacks on the reader of rows: JSON lines, JSON arrays, tables and plain text that a user calibrates or verifies on.

use super::Expect::{Read, Refused};
use super::{Attack, Reader};
use std::path::{Path, PathBuf};
use thimble_shared::model::Config;

/// Of the model the rows are for.
pub fn config() -> Config {
    thimble::models::checkpoint::read(&super::checkpoint::fixture("albert-deb"))
        .unwrap()
        .config
}

fn file(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("rows");
    std::fs::write(&path, bytes).unwrap();
    path
}

const fn row(name: &'static str, imitates: &'static str, build: fn(&Path) -> PathBuf, expect: super::Expect) -> Attack {
    Attack {
        name,
        imitates,
        reader: Reader::Rows,
        build,
        expect,
    }
}

pub const ROWS: &[Attack] = &[
    row(
        "a header of a million columns",
        "a table that costs a hundred times its bytes",
        |f| file(f, &[b"text".as_slice(), &b",a".repeat(1_000_000), b"\na\n"].concat()),
        Refused("1000001 columns, at most 1000 are read"),
    ),
    row(
        "a row of a million values",
        "a row that is believed to be as wide as its header",
        |f| {
            file(
                f,
                &[b"text,label\na".as_slice(), &b",3".repeat(1_000_000), b"\n"].concat(),
            )
        },
        Refused("line 2: 1000001 values, the header has 2 columns"),
    ),
    row(
        "a quote that never closes",
        "a table of which one row is all that follows",
        |f| file(f, &[b"text\n\"a\n".as_slice(), &b"b\n".repeat(500_000)].concat()),
        Refused("line 2: a double quote is opened here"),
    ),
    row(
        "a quote that ends in the middle of a value, lines later",
        "rows that hide in another row's text",
        |f| file(f, b"text,label\n\"a\nb\"c,3\nd,4\n"),
        Refused("line 2: a double quote is opened here"),
    ),
    row(
        "an array a million deep",
        "a parser that recurses until its stack ends",
        |f| file(f, &[b"[".repeat(1_000_000), b"]".repeat(1_000_000)].concat()),
        Refused("line 1: invalid JSON"),
    ),
    row(
        "an object a million deep",
        "the same in a line",
        |f| file(f, &b"{\"a\":".repeat(1_000_000)),
        Refused("line 1: invalid JSON"),
    ),
    row(
        "a list of ids a million deep in a table",
        "the same in a cell",
        |f| file(f, &[b"input_ids\n".as_slice(), &b"[".repeat(1_000_000), b"\n"].concat()),
        Refused("input_ids is no list of JSON"),
    ),
    row(
        "an array of commas",
        "values that are not there",
        |f| file(f, &[b"[{}".as_slice(), &b",".repeat(1_000_000), b"]"].concat()),
        Refused("a value is missing between commas"),
    ),
    row(
        "an array that does not end",
        "a download that was cut short",
        |f| file(f, b"[{\"text\": \"a\"}, {\"text\": \"b]}"),
        Refused("the array does not end"),
    ),
    row(
        "a column named in escape sequences",
        "CVE-2003-0063: a name that a terminal acts on",
        |f| file(f, b"a\x1b[31m\tb\n1\t2\n"),
        Refused("'a\\u{1b}[31m', 'b'"),
    ),
    row(
        "ids that no vocabulary has",
        "an index past the end of a table",
        |f| file(f, b"input_ids\n\"[2, 9223372036854775807]\"\n"),
        Refused("input_ids[1] is 9223372036854775807"),
    ),
    row(
        "a text of a million letters",
        "a tokenizer that is slower than its input is long",
        |f| file(f, &[b"text\n".as_slice(), &b"ab ".repeat(333_333), b"\n"].concat()),
        Read("it is cut to the model's length"),
    ),
    row(
        "a pipe",
        "a reader that waits for a writer",
        |f| {
            let path = f.join("rows");
            let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
            // SAFETY: the name ends in NUL and lives through the call.
            assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
            path
        },
        Refused("is no regular file"),
    ),
];
