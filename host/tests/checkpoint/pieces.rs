//! A fixture checkpoint taken apart, to be changed and written to a folder of its own.

pub use crate::support::fixture;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use tempfile::TempDir;
use thimble::models::checkpoint::{self, Source, SourceError};

pub const SEQ: &str = "albert-seq-tiny";

/// A checkpoint in pieces, to be spoilt and written again.
#[derive(Clone)]
pub struct Pieces {
    pub config: Value,
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Pieces {
    pub fn of(name: &str) -> Pieces {
        let dir = fixture(name);
        let bytes = fs::read(dir.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let floats = |data: &[u8]| {
            data.chunks(4)
                .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
                .collect()
        };
        Pieces {
            config: serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap(),
            tensors: tensors
                .iter()
                .map(|(n, v)| (n.to_string(), (v.shape().to_vec(), floats(v.data()))))
                .collect(),
        }
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let tensor = self.tensors.remove(from).unwrap_or_else(|| panic!("no tensor {from}"));
        self.tensors.insert(to.into(), tensor);
    }

    pub fn write(&self) -> TempDir {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("config.json"), self.config.to_string()).unwrap();
        let bytes: BTreeMap<_, Vec<u8>> = self
            .tensors
            .iter()
            .map(|(n, (_, d))| (n, d.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let view = |n: &String| TensorView::new(Dtype::F32, self.tensors[n].0.clone(), &bytes[n]).unwrap();
        let file = safetensors::serialize(self.tensors.keys().map(|n| (n, view(n))), None).unwrap();
        fs::write(dir.path().join("model.safetensors"), file).unwrap();
        dir
    }

    pub fn read(&self) -> Result<Source, SourceError> {
        checkpoint::read(self.write().path())
    }
}
