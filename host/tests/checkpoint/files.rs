//! Checkpoints in several files, and configurations that stand elsewhere.

use crate::pieces::{SEQ, fixture};
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use thimble::models::checkpoint;

/// Copies the files of the sharded fixture into a new folder; what `index` gives is its index's name there.
fn sharded(index: Option<&str>) -> TempDir {
    let dir = TempDir::new().unwrap();
    for entry in fs::read_dir(fixture("torch/sharded")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let name = if name.ends_with(".index.json") {
            index
        } else {
            Some(name.as_str())
        };
        if let Some(name) = name {
            fs::copy(entry.path(), dir.path().join(name)).unwrap();
        }
    }
    dir
}

const FIRST: &str = "pytorch_model-00001-of-00002.bin";

#[test]
fn shards_are_read_with_an_index_of_any_name_and_without() {
    let want = checkpoint::read(&fixture(SEQ)).unwrap().weights;
    for (index, said) in [
        (Some("pytorch_model.bin.index.fp16.json"), ""),
        (Some("weights.index.json"), ""),
        (None, "and the other parts of 2 are read: no index is here"),
    ] {
        let dir = sharded(index);
        let source = checkpoint::read(dir.path()).unwrap_or_else(|e| panic!("{index:?}: {e}"));
        assert_eq!(source.weights, want, "{index:?}");
        assert_eq!(source.files.len(), 2);
        assert!(source.notes.concat().contains(said), "{:?}", source.notes);
    }
}

#[test]
fn a_shard_is_no_model() {
    let refused = |path: &Path| checkpoint::read(path).unwrap_err().to_string();
    let variant = "pytorch_model.bin.index.fp16.json";
    let dir = sharded(Some(variant));
    let said = refused(&dir.path().join(FIRST));
    assert!(
        said.contains(&format!("it is part 1 of 2; name the folder or its index {variant}")),
        "{said}"
    );
    fs::copy(
        dir.path().join(variant),
        dir.path().join("pytorch_model.bin.index.bf16.json"),
    )
    .unwrap();
    let said = refused(dir.path());
    assert!(said.contains("2 indexes of shards are here"), "{said}");
    let dir = sharded(None);
    fs::remove_file(dir.path().join("pytorch_model-00002-of-00002.bin")).unwrap();
    let said = refused(dir.path());
    let words = "it is part 1 of 2, and pytorch_model-00002-of-00002.bin is not beside it; fetch that";
    assert!(said.contains(words), "{said}");
}

/// StyleTTS2's configuration describes the synthesizer; PL-BERT's own stands in the folder that it names.
#[test]
fn a_synthesizers_configuration_leads_to_pl_berts() {
    let published = fixture("torch/styletts2");
    let want = checkpoint::read(&published).unwrap();
    let of_synthesizer = |dir: &str| {
        format!(
            "ASR_config: Utils/ASR/config.yml\nPLBERT_dir: '{dir}'\nmodel_params:\n  dim_in: 64\n  n_token: 97\n  dropout: 0.2\n"
        )
    };
    let tree = |place: &str, named: &str| {
        let dir = TempDir::new().unwrap();
        let (models, plbert) = (dir.path().join("Models/LibriTTS"), dir.path().join(place));
        fs::create_dir_all(&models).unwrap();
        fs::create_dir_all(&plbert).unwrap();
        fs::copy(
            published.join("epoch_2nd_00020.pth"),
            models.join("epochs_2nd_00020.pth"),
        )
        .unwrap();
        fs::write(models.join("config.yml"), of_synthesizer(named)).unwrap();
        fs::copy(published.join("config.yml"), plbert.join("config.yml")).unwrap();
        dir
    };
    for (place, named) in [
        ("Utils/PLBERT", "Utils/PLBERT/"),
        ("Models/LibriTTS/Utils/PLBERT", "Utils/PLBERT"),
        ("Models/LibriTTS/Utils/PLBERT", "./Utils/PLBERT"),
    ] {
        let dir = tree(place, named);
        let source = checkpoint::read(&dir.path().join("Models/LibriTTS")).unwrap_or_else(|e| panic!("{named}: {e}"));
        assert_eq!(
            (&source.config, &source.weights),
            (&want.config, &want.weights),
            "{named}"
        );
        assert!(
            source.notes.concat().contains("which PLBERT_dir of"),
            "{:?}",
            source.notes
        );
        // An output must not replace what was read.
        assert!(
            source.config_file.ends_with("PLBERT/config.yml"),
            "{}",
            source.config_file.display()
        );
    }
    // A path that leads out of the tree is not followed.
    for (place, named) in [
        ("Utils/Other", "Utils/PLBERT"),
        ("PLBERT", "../../PLBERT"),
        ("PLBERT", "/PLBERT"),
    ] {
        let dir = tree(place, named);
        let said = checkpoint::read(&dir.path().join("Models/LibriTTS"))
            .unwrap_err()
            .to_string();
        let words =
            format!("PL-BERT's own configuration is {named}/config.yml: put it beside the checkpoint as config.yml");
        assert!(said.contains("describes no ALBERT") && said.contains(&words), "{said}");
    }
}
