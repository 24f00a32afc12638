//! What a model or a list of rows is known by: SHA-256 of all that a loss depends on.

use crate::eval::dataset::Row;
use sha2::{Digest as _, Sha256};
use thimble_shared::model::Model;

/// Numbers hashed at a time.
const CHUNK: usize = 1 << 16;

/// SHA-256 of a model's numbers and network.
#[derive(Clone)]
pub struct Digest(Vec<u8>);

impl Digest {
    pub fn of(model: &Model) -> Digest {
        let mut hash = Sha256::new();
        for (name, values) in model.weights.iter() {
            hash.update(name);
            hash.update(values.format().name());
            for some in values.as_f32().chunks(CHUNK) {
                let numbers: Vec<u8> = some.iter().flat_map(|x| x.to_le_bytes()).collect();
                hash.update(numbers);
            }
        }
        // A config is plain data: it always has a JSON text.
        hash.update(serde_json::to_vec(&model.config).unwrap_or_default());
        Digest(hash.finalize().to_vec())
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What depends on how it was prepared as well.
    pub fn with(self, how: &str) -> Digest {
        let mut hash = Sha256::new();
        hash.update(&self.0);
        hash.update(how);
        Digest(hash.finalize().to_vec())
    }

    /// What depends on rows as well.
    pub fn with_rows(self, rows: &[Row]) -> Digest {
        let mut hash = Sha256::new();
        hash.update(&self.0);
        hash_rows(&mut hash, rows);
        Digest(hash.finalize().to_vec())
    }
}

/// Takes the rows into a hash.
pub fn hash_rows(hash: &mut Sha256, rows: &[Row]) {
    for row in rows {
        for values in [&row.input_ids, &row.attention_mask, &row.token_type_ids] {
            hash.update((values.len() as u64).to_le_bytes());
            values.iter().for_each(|v| hash.update(v.to_le_bytes()));
        }
        hash.update(format!("{:?}", row.shape));
    }
}
