//! Writing files so that nobody ever sees half of one: a temporary file beside the target, flushed to disk, renamed over the
//! target, and the directory flushed. A file that is mapped by a running program keeps its old contents for it. Whoever is
//! killed leaves each target whole, old or new, and perhaps a temporary file, which the next write there removes.

use crate::render::text::{printable, say};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::{File, Metadata, TryLockError};
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use thimble_device::image::digest::hex;
use thimble_shared::files;

mod names;

use names::{NameChange, Old};

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot write {}: {source}{}", path.display(), stay(replaced))]
    Refused {
        path: PathBuf,
        source: std::io::Error,
        /// What was written before it and could not be given back.
        replaced: Vec<PathBuf>,
    },
    #[error("{}: all is in place, but may not be on the disk: {source}", folder.display())]
    Unsettled { folder: PathBuf, source: std::io::Error },
}

fn stay(replaced: &[PathBuf]) -> String {
    let told = |path: &PathBuf| format!("; {} is already the new one and stays", path.display());
    replaced.iter().map(told).collect()
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
pub fn refuse_inputs<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<(), FileError> {
    // A path that does not exist yet is nobody's input.
    let Ok(target) = output.canonicalize() else {
        return Ok(());
    };
    let is_target = |input: &Path| input.canonicalize().is_ok_and(|input| input == target);
    if inputs.into_iter().any(is_target) {
        return Err(FileError::new(output, "is an input; name another output file"));
    }
    Ok(())
}

/// Refuses what is there and no regular file. What is not there is for the reader to say.
pub fn regular(path: &Path) -> Result<(), FileError> {
    match files::regular(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::new(path, e)),
        _ => Ok(()),
    }
}

pub fn is_null(path: &Path) -> bool {
    path.canonicalize().is_ok_and(|path| path == Path::new("/dev/null"))
}

/// Whether files could be made in a directory: by the system's word, and by one that is made and removed again.
pub fn takes_files(dir: &Path) -> std::io::Result<()> {
    use rustix::fs::{Access, access};
    if !std::fs::metadata(dir)?.is_dir() {
        return Err(std::io::ErrorKind::NotADirectory.into());
    }
    access(dir, Access::WRITE_OK | Access::EXEC_OK)?;
    // A file system may say so and take none, as /proc does.
    let tried = tempfile::Builder::new().prefix(".thimble-").tempfile_in(dir);
    tried.map(drop).map_err(|e| match e.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull => e,
        _ => std::io::Error::other("it takes no files"),
    })
}

/// Refuses a path that no file could be written to, so that long work for one does not even begin.
///
/// # Errors
/// Where it is a directory, its directory is missing, or that takes no files.
pub fn can_be_written(path: &Path) -> Result<(), FileError> {
    let mut made = path.to_path_buf();
    // A link is followed by the writer too, but not for ever.
    for _ in 0..MOST_LINKS {
        let Ok(to) = std::fs::read_link(&made) else { break };
        made = folder(&made).join(to);
    }
    match std::fs::metadata(&made) {
        Ok(meta) if meta.is_dir() => return Err(FileError::new(path, "is a directory; name a file in it")),
        // A pipe or a device is opened, nothing is put in its place.
        Ok(meta) if !meta.is_file() => return Ok(()),
        _ => {}
    }
    let dir = folder(&made);
    takes_files(dir).map_err(|e| {
        let problem = match e.kind() {
            ErrorKind::NotFound => format!("there is no folder {}; make it first (mkdir -p)", dir.display()),
            ErrorKind::NotADirectory => format!("{} is no folder", dir.display()),
            _ => format!("nothing can be written in {}: {e}", dir.display()),
        };
        FileError::new(path, problem)
    })
}

/// As many symbolic links as Linux follows.
const MOST_LINKS: usize = 40;

/// What a file is to hold.
pub enum Content<'a> {
    /// Bytes that may lie in several places.
    Pieces(Vec<&'a [u8]>),
    /// What `fill` writes and `check`, given the path of the temporary file, finds right: what is too large to be held whole.
    Made {
        fill: &'a dyn Fn(&mut dyn Write) -> std::io::Result<()>,
        check: &'a dyn Fn(&Path) -> std::io::Result<()>,
    },
}

/// A file to be written.
pub struct Output<'a> {
    pub path: &'a Path,
    pub content: Content<'a>,
    /// Its mode, whatever the umask; without one it is readable by all whom the umask does not shut out.
    pub mode: Option<u32>,
}

impl<'a> Output<'a> {
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Output<'a> {
        Output {
            path,
            content: Content::Pieces(vec![bytes]),
            mode: None,
        }
    }

    pub fn pieces(path: &'a Path, pieces: &'a [Cow<'a, [u8]>]) -> Output<'a> {
        Output {
            path,
            content: Content::Pieces(pieces.iter().map(AsRef::as_ref).collect()),
            mode: None,
        }
    }
}

/// Writes `bytes` to `path`, wholly or not at all.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    write_all(&[Output::new(path, bytes)])
}

/// Writes several files: all are on disk under temporary names before the first takes its place. Of two who write the same
/// ones, the second waits, so that all are of one of them.
pub fn write_together(files: &[(&Path, &[u8])]) -> Result<(), WriteError> {
    let files: Vec<Output> = files.iter().map(|&(path, bytes)| Output::new(path, bytes)).collect();
    write_outputs_together(&files)
}

/// The same for files whose bytes need not lie in memory.
pub fn write_outputs_together(files: &[Output]) -> Result<(), WriteError> {
    let _alone = (files.len() > 1).then(|| alone(folder(files[0].path)));
    write_all(files)
}

/// The same for a caller that sees to being alone, or does not care.
pub fn write_all(files: &[Output]) -> Result<(), WriteError> {
    write_all_and(files, || Ok(()))
}

/// The same, and `then` once all are in place: where that fails, nothing has changed.
pub fn write_all_and(files: &[Output], then: impl FnOnce() -> Result<(), WriteError>) -> Result<(), WriteError> {
    let staged = files.iter().map(stage).collect::<Result<Vec<_>, _>>()?;
    let mut names = NameChange::over(files.iter().map(|file| file.path))?;
    let old: Vec<Old> = files.iter().map(|file| Old::at(file.path)).collect();
    // One right after the other: who is killed between two leaves a new file beside an old one.
    for ((file, temp), old) in files.iter().zip(staged).zip(old) {
        names.take(temp, file.path, old)?;
    }
    then().map_err(|e| names.back(e))?;
    names.settle()
}

/// Writes a model and the data file it refers to. A name can be given to one file at a time, so where both replace older ones
/// the model goes by way of `meanwhile`: the data's name for a moment, and a model that refers to it there. Old model and old
/// data, the new model and its data under that name, both under their own: whoever is killed leaves one of these, and so does an
/// error that cannot be undone. The caller is [`alone`].
pub fn write_model(model: &Output, data: &Output, meanwhile: Option<(&Path, Output)>) -> Result<(), WriteError> {
    let staged = stage(data)?;
    let mut names = NameChange::over([model.path, data.path])?;
    let Some((name, referring)) = meanwhile else {
        let model_staged = stage(model)?;
        names.step(staged, data.path)?;
        names.take(model_staged, model.path, Old::at(model.path))?;
        return names.settle();
    };
    // The same bytes under a second name, where the file system has links.
    let second = match second_name(staged.path(), folder(data.path)) {
        Ok(second) => second,
        Err(_) => stage(data)?,
    };
    let (referring, model_staged) = (stage(&referring)?, stage(model)?);
    // Held on: the lock is the second name's, too.
    let _held = names.step(staged, name)?;
    names.step(referring, model.path)?;
    names.step(second, data.path)?;
    names.take(model_staged, model.path, Old::at(model.path))?;
    names.settle()?;
    std::fs::remove_file(name).map_err(refused(name))
}

/// What external data is called for the moment in which its own name is not free: `m.onnx.data` becomes
/// `m.onnx.0123456789abcdef.data`, after its SHA-256, so that what the model in place refers to is never written over.
pub fn passing_name<'a>(data: &Path, pieces: impl IntoIterator<Item = &'a [u8]>) -> PathBuf {
    let mut hash = Sha256::new();
    pieces.into_iter().for_each(|piece| hash.update(piece));
    named_after(data, hash)
}

fn named_after(data: &Path, hash: Sha256) -> PathBuf {
    let digits = hex(&hash.finalize()[..8]);
    let mut name = data.file_stem().unwrap_or_default().to_os_string();
    name.push(format!(".{digits}.data"));
    data.with_file_name(name)
}

/// Removes what [`write_model`] left under such names when it was killed, once the model in place refers to `data`; nothing that is
/// among `inputs`. That a file is what its name says shows who put it there. The caller is [`alone`].
pub fn clear_passing(data: &Path, inputs: &[PathBuf]) {
    let mut stem: OsString = data.file_stem().unwrap_or_default().to_os_string();
    stem.push(".");
    for entry in std::fs::read_dir(folder(data)).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), folder(data).join(entry.file_name()));
        let digits = name.as_encoded_bytes().strip_prefix(stem.as_encoded_bytes());
        let named_so = digits
            .and_then(|d| d.strip_suffix(b".data"))
            .is_some_and(|d| d.len() == 16);
        let is_so = || -> std::io::Result<bool> {
            let mut hash = Sha256::new();
            std::io::copy(&mut File::open(&path)?, &mut hash)?;
            Ok(named_after(data, hash) == path)
        };
        let is_input = refuse_inputs(&path, inputs.iter().map(PathBuf::as_path)).is_err();
        if named_so && !is_input && entry.file_type().is_ok_and(|kind| kind.is_file()) && is_so().unwrap_or(false) {
            // It takes room, and does no harm otherwise.
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Waits until no other thimble writes several files there that belong together. The lock is the directory's: nothing is made for
/// it, and it goes with its holder. Where there are no locks, there is none.
pub fn alone(folder: &Path) -> Option<File> {
    // Not a FIFO, whose opening would wait.
    let mut options = File::options();
    let dir = options.read(true).custom_flags(libc::O_DIRECTORY).open(folder).ok()?;
    match dir.try_lock() {
        Ok(()) => Some(dir),
        Err(TryLockError::WouldBlock) => {
            say(&format!(
                "{}: somebody else writes there, or holds its lock; waiting",
                printable(&folder.display().to_string())
            ));
            dir.lock().ok().map(|()| dir)
        }
        Err(TryLockError::Error(_)) => None,
    }
}

pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

pub fn refused(path: &Path) -> impl Fn(std::io::Error) -> WriteError {
    let path = path.to_path_buf();
    move |source| WriteError::Refused {
        path: path.clone(),
        source,
        replaced: Vec::new(),
    }
}

const PREFIX: &str = ".thimble-";
const SUFFIX: &str = ".part";

/// Bytes that are gathered before they go to the system.
const BUFFER: usize = 1 << 17;

fn stage(output: &Output) -> Result<NamedTempFile, WriteError> {
    staged(output).map_err(refused(output.path))
}

fn staged(output: &Output) -> std::io::Result<NamedTempFile> {
    // A rename would silently turn a device or FIFO into a file.
    match std::fs::metadata(output.path) {
        Ok(meta) if meta.is_dir() => return Err(std::io::Error::other("it is a directory")),
        Ok(meta) if !meta.is_file() => return Err(std::io::Error::other("it is not a regular file")),
        _ => {}
    }
    let folder = folder(output.path);
    clear_abandoned(folder);
    // Temporary files are private by default; a model is to be read by the service that runs it.
    let mut temp = temporary(folder, PREFIX, 0o644)?;
    match &output.content {
        Content::Pieces(pieces) => pieces.iter().try_for_each(|piece| temp.write_all(piece))?,
        Content::Made { fill, check } => {
            let mut buffered = BufWriter::with_capacity(BUFFER, &mut temp);
            fill(&mut buffered)?;
            buffered.flush()?;
            drop(buffered);
            check(temp.path())?;
        }
    }
    if let Some(mode) = output.mode {
        temp.as_file().set_permissions(PermissionsExt::from_mode(mode))?;
    }
    temp.as_file().sync_all()?;
    Ok(temp)
}

/// An empty file in `folder`, locked as long as somebody works on it: one without its lock is abandoned. (A file without a name,
/// O_TMPFILE, would leave nothing, but such a one cannot take the place of another: it needs a name for the rename after all.)
pub fn temporary(folder: &Path, prefix: &str, mode: u32) -> std::io::Result<NamedTempFile> {
    let make = |path: &Path| {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(mode).open(path)
    };
    loop {
        let temp = tempfile::Builder::new()
            .prefix(prefix)
            .suffix(SUFFIX)
            .make_in(folder, make);
        let temp = temp.map_err(cause)?;
        // Before the lock is there, whoever clears up may have taken it for an abandoned one.
        let taken = matches!(temp.as_file().try_lock(), Err(TryLockError::WouldBlock));
        if !taken && temp.path().exists() {
            return Ok(temp);
        }
    }
}

/// The system's own error: the library's names its temporary file, which tells a user nothing.
pub fn cause(error: std::io::Error) -> std::io::Error {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.source())
        .and_then(<dyn std::error::Error>::downcast_ref);
    match inner.and_then(std::io::Error::raw_os_error) {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => error.kind().into(),
    }
}

fn second_name(first: &Path, folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX).make_in(folder, |path| {
        std::fs::hard_link(first, path)?;
        File::open(path).inspect_err(|_| drop(std::fs::remove_file(path)))
    })
}

/// Whether we made it: in a directory that all may write to, others' names mean nothing.
pub fn is_ours(meta: &Metadata) -> bool {
    meta.uid() == rustix::process::geteuid().as_raw()
}

/// Removes temporary files whose maker was killed, and with it their lock: they may be as large as a card's image.
pub fn clear_abandoned(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX)
            && name.ends_with(SUFFIX)
            && entry.metadata().is_ok_and(|meta| meta.is_file() && is_ours(&meta))
            && File::open(entry.path())
                .is_ok_and(|file| file.try_lock().is_ok() && std::fs::remove_file(entry.path()).is_ok())
        {
            say(&format!(
                "removed {}, left by a thimble that was killed",
                printable(&name)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_takes_no_file_is_known_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("old"), b"x").unwrap();
        std::os::unix::fs::symlink("missing/new", at("link")).unwrap();
        std::os::unix::fs::symlink("ring", at("ring")).unwrap();
        for good in ["old", "new"] {
            can_be_written(&at(good)).unwrap();
        }
        can_be_written(Path::new("/dev/full")).unwrap();
        let cases = [
            (".", "is a directory"),
            ("missing/new", "there is no folder"),
            ("old/new", "is no folder"),
            ("link", "there is no folder"),
        ];
        for (name, want) in cases {
            let error = can_be_written(&at(name)).unwrap_err().to_string();
            assert!(error.contains(want) && error.contains(name), "{error}");
        }
        // The system ends a ring of links where it is opened.
        let _ = can_be_written(&at("ring"));
        assert!(!at("new").exists() && !at("missing").exists());
    }

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
    fn a_model_and_its_data_change_by_way_of_a_passing_name() {
        let dir = tempfile::tempdir().unwrap();
        let (data, model) = (dir.path().join("m.onnx.data"), dir.path().join("m.onnx"));
        for path in [&data, &model] {
            write_whole(path, b"old").unwrap();
        }
        let passing = passing_name(&data, [&b"new"[..]]);
        assert!(
            passing.to_str().unwrap().ends_with("/m.onnx.11507a0e2f5e69d5.data"),
            "{passing:?}"
        );
        let write = |name: &Path| {
            write_model(
                &Output::new(&model, b"new"),
                &Output::new(&data, b"new"),
                Some((name, Output::new(&model, b"for a moment"))),
            )
        };
        // The passing name is in the way: nothing has changed.
        std::fs::create_dir(&passing).unwrap();
        assert!(write(&passing).is_err());
        assert_eq!([&data, &model].map(|p| std::fs::read(p).unwrap()), [b"old", b"old"]);
        std::fs::remove_dir(&passing).unwrap();
        write(&passing).unwrap();
        assert_eq!([&data, &model].map(|p| std::fs::read(p).unwrap()), [b"new", b"new"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        // What a killed one left goes, and what only looks like it stays.
        let other = dir.path().join("m.onnx.0123456789abcdef.data");
        for path in [&passing, &other] {
            std::fs::write(path, b"new").unwrap();
        }
        clear_passing(&data, std::slice::from_ref(&passing));
        assert!(passing.exists());
        clear_passing(&data, &[]);
        assert!(!passing.exists() && other.exists());
    }

    #[test]
    fn only_temporary_files_that_nobody_holds_are_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let mine = temporary(dir.path(), PREFIX, 0o600).unwrap();
        let twice = second_name(mine.path(), dir.path()).unwrap();
        for name in [".thimble-x.part", ".thimble-y", "other.part"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        write_whole(&dir.path().join("z"), b"z").unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        left.sort();
        let mut expected = [".thimble-y", "other.part", "z"]
            .map(|name| dir.path().join(name))
            .to_vec();
        expected.extend([mine.path().to_path_buf(), twice.path().to_path_buf()]);
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn a_directory_in_the_way_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let error = write_whole(dir.path(), b"x").unwrap_err().to_string();
        assert!(error.contains("directory"), "{error}");
        assert!(write_whole(&dir.path().join("no/such/dir.onnx"), b"x").is_err());
    }
}
