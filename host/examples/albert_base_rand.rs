//! Writes the albert-base-rand checkpoint (albert-base-v2's exact shape, seeded weights) from its manifest: recipe
//! thimble-rand-v1, byte for byte. In comes the manifest with names, shapes, seed and SHA-256; out comes DIR with
//! model.safetensors and config.json, and on stdout the path of the golden vectors that belong to it.
//!
//! cargo run -p thimble --example albert_base_rand -- DIR [--manifest tests/fixtures/albert-base-rand/manifest.json]

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use thimble_shared::random;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(serde::Deserialize)]
struct Manifest {
    recipe: String,
    seed: u64,
    model_safetensors_sha256: String,
    tensors: BTreeMap<String, Entry>,
}

#[derive(serde::Deserialize)]
struct Entry {
    shape: Vec<usize>,
}

fn main() -> Result<()> {
    let (dir, manifest) = arguments()?;
    let home = manifest.parent().ok_or("the manifest has no folder")?.to_path_buf();
    let text = std::fs::read(&manifest).map_err(|e| format!("{}: {e}", manifest.display()))?;
    let manifest: Manifest = serde_json::from_slice(&text)?;
    if manifest.recipe != "thimble-rand-v1" {
        return Err(format!("recipe '{}' is not thimble-rand-v1", manifest.recipe).into());
    }
    let file = safetensors(&manifest)?;
    let digest: String = Sha256::digest(&file).iter().map(|b| format!("{b:02x}")).collect();
    if digest != manifest.model_safetensors_sha256 {
        return Err(format!("made {digest}, the manifest says {}", manifest.model_safetensors_sha256).into());
    }
    std::fs::create_dir_all(&dir)?;
    std::fs::copy(home.join("config.json"), dir.join("config.json"))?;
    // Whole or not at all: other tests may be reading an older copy.
    let unfinished = dir.join(format!("model.safetensors.{}", std::process::id()));
    std::fs::write(&unfinished, &file)?;
    std::fs::rename(&unfinished, dir.join("model.safetensors"))?;
    eprintln!(
        "{}: {} bytes, SHA-256 {digest}",
        dir.join("model.safetensors").display(),
        file.len()
    );
    println!("{}", home.join("golden.safetensors").display());
    Ok(())
}

const USAGE: &str = "usage: albert_base_rand DIR [--manifest FILE]; writes 47 MB into DIR";

fn arguments() -> Result<(PathBuf, PathBuf)> {
    let mut dir = None;
    let mut manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/albert-base-rand/manifest.json");
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--manifest" {
            manifest = args.next().ok_or("--manifest needs a path")?.into();
        } else if arg.as_encoded_bytes().starts_with(b"-") {
            return Err(USAGE.into());
        } else if dir.is_none() {
            dir = Some(PathBuf::from(arg));
        } else {
            return Err("one directory only".into());
        }
    }
    Ok((dir.ok_or(USAGE)?, manifest))
}

/// The file as the `safetensors` crate would write it: tensors sorted by name, header padded with spaces to 8 bytes.
fn safetensors(manifest: &Manifest) -> Result<Vec<u8>> {
    let mut header = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut payload = Vec::new();
    for (name, entry) in &manifest.tensors {
        let start = payload.len();
        for value in tensor(name, &entry.shape, manifest.seed) {
            payload.extend_from_slice(&value.to_le_bytes());
        }
        let shape = serde_json::to_string(&entry.shape)?;
        header += &format!(
            r#",{}:{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{}]}}"#,
            serde_json::to_string(name)?,
            payload.len()
        );
    }
    header.push('}');
    header.extend(std::iter::repeat_n(' ', header.len().wrapping_neg() % 8));
    let mut file = Vec::with_capacity(8 + header.len() + payload.len());
    file.extend_from_slice(&(header.len() as u64).to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    file.append(&mut payload);
    Ok(file)
}

/// Values of one tensor: splitmix64 keyed by the name, 24 bits each, scaled in f32 with one rounding per operation.
fn tensor(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let key = fnv1a(name) ^ seed;
    let is = |part: &str| name.contains(&format!("LayerNorm.{part}")) || name.contains(&format!("layer_norm.{part}"));
    let (scale, offset) = if is("weight") {
        (0.1, 1.0)
    } else if is("bias") {
        (0.1, 0.0)
    } else if name.contains("_embeddings.") {
        (0.125, 0.0)
    } else if shape.len() == 1 {
        (0.05, 0.0)
    } else {
        ((3.0 / shape[1] as f64).sqrt() as f32, 0.0)
    };
    let count = shape.iter().product::<usize>() as u64;
    let value = |i: u64| {
        let x = random::at(key, i);
        let unit = ((x >> 40) as i64 - (1 << 23)) as f32 * (1.0 / 8_388_608.0);
        // Adding zero would turn a negative zero positive.
        if offset == 0.0 {
            unit * scale
        } else {
            unit * scale + offset
        }
    };
    (0..count).map(value).collect()
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
