//! Delimited values, CSV or TSV, with a header line: telling a table from lines of text, and reading its rows.

use super::columns;
use super::record::{Record, RecordError};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// More columns than any table of texts has; a file of commas alone must not cost a hundred times its bytes.
const MOST_COLUMNS: usize = 1000;
/// Lines that all have the same number of commas are a table, even where the first names no columns.
const SURELY_TABLE: usize = 8;
/// Fields of a table that may hold lists, written as JSON.
const LISTS: [&str; 6] = [
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "labels",
    "label",
    "choices",
];

/// A file of delimited values, its header read and its rows counted.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) delimiter: u8,
    /// Whether quotes hold delimiters and line ends together.
    quoting: bool,
    pub(super) header: Vec<String>,
    pub(super) count: usize,
}

impl Table {
    /// Reads the header and counts the rows. Where quotes are no quotes (a text that begins with one), lines are rows by themselves.
    pub(super) fn read(bytes: &[u8], delimiter: u8) -> Result<Table, RecordError> {
        let quoted = match quoting_fault(bytes, delimiter) {
            Some(line) => Err(RecordError::at(
                line,
                "a double quote is opened here and not closed before the next value; one inside quotes is written twice",
            )),
            None => Table::read_with(bytes, delimiter, true),
        };
        if !bytes.contains(&b'"') {
            return quoted;
        }
        let plain = Table::read_with(bytes, delimiter, false)
            .ok()
            .filter(|t| t.header.len() > 1);
        match (quoted, plain) {
            // Between tabs a quote that joins lines which are rows by themselves is a letter of the text.
            (Ok(quoted), Some(plain)) if delimiter == b'\t' && plain.count > quoted.count => Ok(plain),
            (Err(_), Some(plain)) => Ok(plain),
            (quoted, _) => quoted,
        }
    }

    fn read_with(bytes: &[u8], delimiter: u8, quoting: bool) -> Result<Table, RecordError> {
        let mut rows = Rows::new(delimiter, quoting, bytes);
        let Some(line) = rows.advance() else {
            return Err(RecordError::whole("has no header line"));
        };
        if rows.count() > MOST_COLUMNS {
            return Err(RecordError::at(
                line,
                format!("{} columns, at most {MOST_COLUMNS} are read", rows.count()),
            ));
        }
        let names = rows
            .values()
            .map(|name| std::str::from_utf8(name).map(|n| n.trim().to_string()));
        let mut table = Table {
            delimiter,
            quoting,
            header: names
                .collect::<Result<_, _>>()
                .map_err(|_| RecordError::not_utf8(line))?,
            count: 0,
        };
        let mut count = 0;
        table.rows(bytes, |_, _| -> Result<(), RecordError> {
            count += 1;
            Ok(())
        })?;
        table.count = count;
        Ok(table)
    }

    /// Hands over every row below the header.
    pub(super) fn rows<E: From<RecordError>>(
        &self,
        bytes: &[u8],
        mut each: impl FnMut(usize, &Rows) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rows = Rows::new(self.delimiter, self.quoting, bytes);
        // The header.
        rows.advance();
        while let Some(line) = rows.advance() {
            if rows.count() != self.header.len() {
                let problem = format!(
                    "{} values, the header has {} columns; a value with a {} or a line end in it stands in double \
                     quotes (lines of plain text: --form text)",
                    rows.count(),
                    self.header.len(),
                    match self.delimiter {
                        b'\t' => "tab",
                        b';' => "semicolon",
                        _ => "comma",
                    }
                );
                return Err(RecordError::at(line, problem).into());
            }
            each(line, &rows)?;
        }
        Ok(())
    }

    pub(super) fn record(&self, line: usize, row: &Rows) -> Result<Record, RecordError> {
        let mut fields = Map::new();
        for (name, value) in self.header.iter().zip(row.values()) {
            let value = std::str::from_utf8(value).map_err(|_| RecordError::not_utf8(line))?;
            // An empty value is none, as in pandas.
            if value.trim().is_empty() {
                continue;
            }
            let list = LISTS.contains(&name.to_ascii_lowercase().as_str()) && value.trim_start().starts_with('[');
            let value = match list.then(|| serde_json::from_str(value)) {
                Some(Ok(list)) => list,
                Some(Err(e)) => return Err(RecordError::at(line, format!("{name} is no list of JSON: {e}"))),
                None => Value::String(value.to_string()),
            };
            fields.insert(name.clone(), value);
        }
        Ok(Record {
            line,
            fields,
            typed: false,
        })
    }
}

/// Reads one row after another into the same buffers.
pub(super) struct Rows<'b> {
    core: csv_core::Reader,
    rest: &'b [u8],
    /// The line at which `rest` begins.
    line: usize,
    /// The values of the row one behind the other, and where each ends.
    values: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
}

impl<'b> Rows<'b> {
    fn new(delimiter: u8, quoting: bool, bytes: &'b [u8]) -> Rows<'b> {
        Rows {
            core: csv_core::ReaderBuilder::new()
                .delimiter(delimiter)
                .quoting(quoting)
                .build(),
            rest: bytes,
            line: 1,
            values: vec![0; 1024],
            ends: vec![0; 64],
            count: 0,
        }
    }

    fn skip(&mut self, bytes: usize) {
        let (passed, rest) = self.rest.split_at(bytes);
        self.line += passed.iter().filter(|&&b| b == b'\n').count();
        self.rest = rest;
    }

    /// Reads the next row: the line it begins at, or `None` at the end.
    fn advance(&mut self) -> Option<usize> {
        use csv_core::ReadRecordResult::{End, InputEmpty, OutputEndsFull, OutputFull, Record};
        let blank = self.rest.iter().position(|b| !b"\r\n".contains(b));
        self.skip(blank.unwrap_or(self.rest.len()));
        let line = self.line;
        let (mut filled, mut ended) = (0, 0);
        loop {
            let (values, ends) = (&mut self.values[filled..], &mut self.ends[ended..]);
            let (result, read, written, fields) = self.core.read_record(self.rest, values, ends);
            self.skip(read);
            (filled, ended) = (filled + written, ended + fields);
            match result {
                // The reader is told of the end by an empty input.
                InputEmpty => {}
                OutputFull => self.values.resize(self.values.len() * 2, 0),
                OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                Record => {
                    self.count = ended;
                    return Some(line);
                }
                End => return None,
            }
        }
    }

    /// How many values the row has.
    fn count(&self) -> usize {
        self.count
    }

    fn values(&self) -> impl Iterator<Item = &[u8]> {
        let ends = &self.ends[..self.count];
        let starts = [0].into_iter().chain(ends.iter().copied());
        starts.zip(ends).map(|(from, &to)| &self.values[from..to])
    }
}

/// The line where a quote is opened that ends nowhere, or in the middle of a value.
fn quoting_fault(bytes: &[u8], delimiter: u8) -> Option<usize> {
    let ends = |b: Option<&u8>| b.is_none_or(|&b| b == delimiter || b == b'\n' || b == b'\r');
    let (mut line, mut opened) = (1, 0);
    let (mut start, mut inside) = (true, false);
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        line += usize::from(b == b'\n');
        match (inside, b) {
            (true, b'"') if bytes.get(at + 1) == Some(&b'"') => at += 1,
            (true, b'"') if !ends(bytes.get(at + 1)) => return Some(opened),
            (true, b'"') => inside = false,
            (false, b'"') if start => (inside, opened) = (true, line),
            (true | false, _) => {}
        }
        start = !inside && ends(Some(&b));
        at += 1;
    }
    inside.then_some(opened)
}

/// The text as a table, where it is one; `None` where it is lines of text.
pub(super) fn table(bytes: &[u8], wanted: &[String]) -> Result<Option<Table>, RecordError> {
    for delimiter in [b'\t', b',', b';'] {
        let mut first = Rows::new(delimiter, true, bytes);
        if first.advance().is_none() {
            continue;
        }
        let names: Vec<Cow<str>> = first.values().take(MOST_COLUMNS).map(String::from_utf8_lossy).collect();
        let known = |name: &str| match wanted {
            [] => columns::is_known(name),
            wanted => wanted.iter().any(|w| w.eq_ignore_ascii_case(name)),
        };
        let like_names = names.iter().all(|name| like_a_name(name.trim()));
        if names.iter().any(|name| known(name.trim())) {
            let table = Table::read(bytes, delimiter);
            // A sentence may hold the name of a column between commas; lines that all have as many are no sentences.
            let wide = table.as_ref().is_ok_and(|table| names.len() > 1 && table.count > 0);
            if like_names || !wanted.is_empty() || wide {
                return table.map(Some);
            }
        }
        if names.len() < 2 {
            continue;
        }
        let Ok(table) = Table::read(bytes, delimiter) else {
            continue;
        };
        let quoted = bytes.trim_ascii_start().starts_with(b"\"");
        if table.count == 0 || !(delimiter == b'\t' || like_names || quoted || table.count >= SURELY_TABLE) {
            continue;
        }
        if like_names {
            return Ok(Some(table));
        }
        return Err(RecordError::at(
            1,
            format!(
                "the file looks like {}, and its first line names no columns ({}); add a header line such as text{}label, or say \
                 what it is with --form text",
                if delimiter == b'\t' { "TSV" } else { "CSV" },
                columns::list(names.iter().map(Cow::as_ref)),
                if delimiter == b'\t' { "<TAB>" } else { "," }
            ),
        ));
    }
    Ok(None)
}

/// Whether a value of the first line reads like a column's name: a short word or two, no sentence and no number.
fn like_a_name(name: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ' | ':');
    name.is_empty()
        || (name.len() <= 40
            && name.chars().next().is_some_and(char::is_alphabetic)
            && name.chars().all(plain)
            && name.split(' ').count() <= 3
            && !name.ends_with(['.', ':']))
}
