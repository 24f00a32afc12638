//! Writing a file so that nobody ever sees half of it: a temporary file beside the target, flushed to disk, renamed over
//! the target, and the directory flushed. A file that is mapped by a running program keeps its old contents for it.

use std::borrow::Cow;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct WriteError {
    path: PathBuf,
    source: std::io::Error,
}

/// A file and what is wrong with it, for whatever reads or writes files of its own kind.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct FileError {
    pub path: PathBuf,
    pub problem: String,
}

impl FileError {
    pub fn new(path: &Path, problem: impl ToString) -> FileError {
        FileError {
            path: path.to_path_buf(),
            problem: problem.to_string(),
        }
    }
}

/// Refuses an output that is one of the files something is read from, under whatever name.
pub fn refuse_inputs<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<()> {
    // A path that does not exist yet is nobody's input.
    let Ok(target) = output.canonicalize() else {
        return Ok(());
    };
    let is_target = |input: &Path| input.canonicalize().is_ok_and(|input| input == target);
    if inputs.into_iter().any(is_target) {
        anyhow::bail!("{} is an input; name another output file", output.display());
    }
    Ok(())
}

/// Refuses what is there and no regular file: who reads a pipe or a terminal waits for a writer that may never come. What is
/// not there is for the reader to say.
pub fn regular(path: &Path) -> Result<(), FileError> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Err(FileError::new(path, "is a directory, no file")),
        Ok(meta) if !meta.is_file() => Err(FileError::new(path, "is no regular file; save it to one first")),
        _ => Ok(()),
    }
}

/// Writes `bytes` to `path`, wholly or not at all.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    write_together(&[(path, bytes)])
}

/// The same for files whose bytes lie in several places, the last of which refers to the others. What stands in the last
/// one's place goes before another changes: whoever stops halfway leaves no model, and never an old one with new numbers.
pub fn write_pieces(files: &[(&Path, &[Cow<'_, [u8]>])]) -> Result<(), WriteError> {
    let refers = files.last().filter(|_| files.len() > 1).map(|(path, _)| *path);
    write_staged(files, refers, |path, pieces| {
        stage(path, pieces.iter().map(AsRef::as_ref))
    })
}

/// Writes several files: all are on disk under temporary names before the first takes its place.
pub fn write_together(files: &[(&Path, &[u8])]) -> Result<(), WriteError> {
    write_staged(files, None, |path, bytes| stage(path, [bytes].into_iter()))
}

/// `refers` is the file whose old contents nothing may be read with once another has changed.
fn write_staged<B: Copy>(
    files: &[(&Path, B)],
    refers: Option<&Path>,
    stage: impl Fn(&Path, B) -> std::io::Result<tempfile::NamedTempFile>,
) -> Result<(), WriteError> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |source| WriteError { path, source }
    };
    let mut staged = Vec::with_capacity(files.len());
    for &(path, bytes) in files {
        staged.push((path, stage(path, bytes).map_err(at(path))?));
    }
    let settle = |path: &Path| {
        let synced = File::open(folder(path)).and_then(|dir| dir.sync_all());
        synced.map_err(at(path))
    };
    if let Some(path) = refers {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(at(path)(e)),
            _ => settle(path)?,
        }
    }
    for (path, temp) in staged {
        temp.persist(path).map_err(|e| at(path)(e.error))?;
        settle(path)?;
    }
    Ok(())
}

pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn stage<'a>(path: &Path, pieces: impl Iterator<Item = &'a [u8]>) -> std::io::Result<tempfile::NamedTempFile> {
    // A rename would silently turn a device or FIFO into a file.
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Err(std::io::Error::other("it is a directory")),
        Ok(meta) if !meta.is_file() => return Err(std::io::Error::other("it is not a regular file")),
        _ => {}
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(".thimble-").suffix(".part");
    // Temporary files are private by default; a model is to be read by the service that runs it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    // The library's error names its temporary file, which tells a user nothing.
    let mut temp = builder
        .tempfile_in(folder(path))
        .map_err(|e| std::io::Error::from(e.kind()))?;
    for piece in pieces {
        temp.write_all(piece)?;
    }
    temp.as_file().sync_all()?;
    Ok(temp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_old_file_keeps_its_contents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.onnx");
        write_whole(&path, b"old").unwrap();
        let file = File::open(&path).unwrap();
        // SAFETY: the file is only ever replaced by rename, which leaves the mapped inode as it is.
        let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        write_whole(&path, b"new and longer").unwrap();
        assert_eq!(&map[..], b"old");
        assert_eq!(std::fs::read(&path).unwrap(), b"new and longer");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn of_two_files_neither_is_written_when_one_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
        std::fs::create_dir(&bad).unwrap();
        assert!(write_together(&[(&good, b"x"), (&bad, b"y")]).is_err());
        assert!(!good.exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_old_model_is_never_left_with_new_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let (data, model) = (dir.path().join("m.onnx.data"), dir.path().join("m.onnx"));
        let all = [(data.as_path(), &b"new"[..]), (model.as_path(), b"new")];
        for path in [&data, &model] {
            write_whole(path, b"old").unwrap();
        }
        // The model's new contents vanish before they are renamed, so that the writing stops halfway.
        let done = write_staged(&all, Some(&model), |path, bytes| {
            let temp = stage(path, [bytes].into_iter())?;
            if path == model {
                std::fs::remove_file(temp.path())?;
            }
            Ok(temp)
        });
        assert!(done.is_err());
        assert_eq!(std::fs::read(&data).unwrap(), b"new", "it stopped between the two");
        assert!(!model.exists());
        let pieces = [
            (&data, [Cow::Borrowed(&b"more"[..])]),
            (&model, [Cow::Borrowed(&b"more"[..])]),
        ];
        let pieces: Vec<(&Path, &[Cow<'_, [u8]>])> = pieces.iter().map(|(p, b)| (p.as_path(), &b[..])).collect();
        write_pieces(&pieces).unwrap();
        assert_eq!([&data, &model].map(|p| std::fs::read(p).unwrap()), [b"more", b"more"]);
    }

    #[test]
    fn a_directory_in_the_way_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let error = write_whole(dir.path(), b"x").unwrap_err().to_string();
        assert!(error.contains("directory"), "{error}");
        assert!(write_whole(&dir.path().join("no/such/dir.onnx"), b"x").is_err());
    }
}
