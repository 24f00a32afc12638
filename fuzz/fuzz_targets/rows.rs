//! Rows to calibrate and verify on: JSON, tables, plain text. The first byte says which form the user names, if any.

#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble::eval::columns::{Columns, all_texts};
use thimble::eval::record::RecordError;
use thimble::eval::records::{Form, Records};
use thimble_fuzz::{Allowance, bounded, plain};

/// A line of one letter becomes a place in a list and a number of what is taken.
const ALLOWANCE: Allowance = Allowance {
    times: 128,
    bytes: 1 << 20,
};

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let forms = [
        None,
        Some(Form::Json),
        Some(Form::Csv),
        Some(Form::Tsv),
        Some(Form::Text),
    ];
    let form = forms[usize::from(*kind) % forms.len()];
    bounded(data, ALLOWANCE, || {
        let records = match Records::open(rest, form, &[]) {
            Ok(records) => records,
            Err(e) => return plain(&e.to_string()),
        };
        let columns = match records.header().map(|header| Columns::default().of_table(header)) {
            None => Columns::default(),
            Some(Ok((columns, told))) => {
                plain(&told);
                columns
            }
            Some(Err(e)) => return plain(&e),
        };
        let all: Vec<usize> = (0..records.len()).collect();
        let mut seen = 0;
        let done = records.take(&all, |record| -> Result<(), RecordError> {
            seen += 1;
            assert!(record.line > 0);
            if let Err(e) = columns.texts(&record.fields) {
                plain(&e);
            }
            columns.label(&record.fields);
            all_texts(&record.fields).count();
            Ok(())
        });
        match done {
            Ok(()) => assert_eq!(seen, records.len()),
            Err(e) => plain(&e.to_string()),
        }
    });
});
