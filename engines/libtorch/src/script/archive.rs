//! The file of a TorchScript module, looked at before libtorch reads it.

use std::fs;
use std::io::{self, Cursor};
use std::path::Path;

use detectd_engine::EngineError;
use serde::Deserialize;
use zip::ZipArchive;

/// Reads a file and checks that it is an archive whose parts are undamaged, which libtorch does not.
///
/// # Errors
/// [`EngineError::Load`] with the path and what is wrong.
pub fn read(path: &Path) -> Result<Vec<u8>, EngineError> {
    let wrong = |problem: &dyn std::fmt::Display| EngineError::Load(format!("{}: {problem}", path.display()));
    // A device or a pipe would be read without end.
    if !fs::metadata(path).map_err(|error| wrong(&error))?.is_file() {
        return Err(wrong(&"is not a file"));
    }
    let bytes = fs::read(path).map_err(|error| wrong(&error))?;
    let damaged = |error: &dyn std::fmt::Display| {
        wrong(&format_args!("is no TorchScript file, or is damaged or cut short: {error}"))
    };
    let mut archive = ZipArchive::new(Cursor::new(&bytes)).map_err(|error| damaged(&error))?;
    let mut code = false;
    for index in 0..archive.len() {
        let mut part = archive.by_index(index).map_err(|error| damaged(&error))?;
        code |= part.name().contains("/code/");
        let name = part.name().to_owned();
        // To its end, where its checksum is compared.
        io::copy(&mut part, &mut io::sink()).map_err(|error| damaged(&format_args!("{name}: {error}")))?;
    }
    if code {
        return Ok(bytes);
    }
    Err(wrong(
        &"has no code: it holds weights or a pickled model; export the model with torch.jit.trace or torch.jit.script, \
          and save",
    ))
}

/// What exporters write into `config.txt`: ultralytics `imgsz`, height and width, and `batch`; YOLOv5 `shape`.
#[derive(Debug, Default, Deserialize)]
pub struct Config {
    imgsz: Option<Vec<u32>>,
    shape: Option<Vec<u32>>,
}

impl Config {
    /// Reads the text; what is not understood is not there.
    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Width and height of the input that the module was traced with.
    pub fn input_size(&self) -> Option<(u32, u32)> {
        match (self.imgsz.as_deref(), self.shape.as_deref()) {
            (Some(&[height, width]), _) | (_, Some(&[_, _, height, width])) => Some((width, height)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exporters_notes_are_read() {
        let ultralytics = r#"{"description": "x", "imgsz": [384, 640], "batch": 1, "names": {"0": "bolt"}}"#;
        assert_eq!(Config::parse(ultralytics).input_size(), Some((640, 384)));
        let yolov5 = r#"{"shape": [1, 3, 320, 640], "stride": 32, "names": {"0": "bolt"}}"#;
        assert_eq!(Config::parse(yolov5).input_size(), Some((640, 320)));
        for other in ["", "{}", "no json", r#"{"imgsz": 640}"#] {
            assert_eq!(Config::parse(other).input_size(), None, "{other}");
        }
    }
}
