//! Which files `detect` sends, and what their annotated copies are called.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// In a folder, files with these endings are taken; a file that is named is taken in any case.
const ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];

/// A file to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its annotated copy, relative to the output folder; different for every picture.
    pub(super) copy: PathBuf,
}

/// The pictures that `arguments` name: files, and what lies in folders, in the order of their names.
///
/// # Errors
/// An argument that is not there, a folder that cannot be read, or nothing at all.
pub(super) fn find(arguments: &[PathBuf]) -> anyhow::Result<Vec<Picture>> {
    let mut pictures = Vec::new();
    let mut taken = HashSet::new();
    for argument in arguments {
        let metadata =
            std::fs::metadata(argument).map_err(|error| anyhow::anyhow!("{}: {error}", argument.display()))?;
        if !metadata.is_dir() {
            let name = argument.file_name().map(Path::new).unwrap_or(argument);
            pictures.push(picture(argument.clone(), name, &mut taken));
            continue;
        }
        for entry in WalkDir::new(argument).sort_by_file_name() {
            let path = entry?.into_path();
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
            if path.is_file() && ENDINGS.contains(&ending.as_str()) {
                let name = path.strip_prefix(argument).unwrap_or(&path).to_owned();
                pictures.push(picture(path, &name, &mut taken));
            }
        }
    }
    anyhow::ensure!(!pictures.is_empty(), "no pictures: the folders hold no file ending in {}", ENDINGS.join(", "));
    Ok(pictures)
}

fn picture(path: PathBuf, name: &Path, taken: &mut HashSet<PathBuf>) -> Picture {
    let mut copy = name.with_extension("png");
    let mut number = 2;
    while !taken.insert(copy.clone()) {
        let stem = name.file_stem().unwrap_or_default().to_string_lossy();
        copy = name.with_file_name(format!("{stem}-{number}.png"));
        number += 1;
    }
    Picture { path, copy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_walked_and_copies_never_collide() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            std::fs::write(&path, "").expect("written");
            path
        };
        let named = file("notes.txt");
        for name in ["in/b.JPG", "in/a.png", "in/a.jpg", "in/deep/a.webp", "in/readme.md"] {
            file(name);
        }
        let pictures = find(&[named, folder.path().join("in"), folder.path().join("in/b.JPG")]).expect("found");
        let copies: Vec<_> = pictures.iter().map(|picture| picture.copy.display().to_string()).collect();
        assert_eq!(copies, ["notes.png", "a.png", "a-2.png", "b.png", "deep/a.png", "b-2.png"]);
    }

    #[test]
    fn nothing_to_send_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(find(&[folder.path().to_owned()]).is_err());
        let error = find(&["/no/such.jpg".into()]).expect_err("not there").to_string();
        assert!(error.contains("/no/such.jpg"), "{error}");
    }
}
