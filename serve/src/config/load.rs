//! The sources in their order: defaults, file, environment, flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::raw::RawConfig;
use super::sources::{Layer, Reader};
use super::{Config, ConfigError, reference, validate};

/// The environment variable that names the configuration file.
pub const FILE_VARIABLE: &str = "DETECTD_CONFIG";
/// The file that is read when none is named, if the working directory has it.
pub const DEFAULT_FILE: &str = "detectd.toml";

/// What the settings are made of, from the weakest to the strongest; the defaults are below all.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file that a flag names; otherwise [`FILE_VARIABLE`], otherwise [`DEFAULT_FILE`] in `folder`.
    pub file: Option<PathBuf>,
    /// Where [`DEFAULT_FILE`] is looked for; usually the working directory.
    pub folder: PathBuf,
    /// All environment variables.
    pub environment: BTreeMap<String, String>,
    /// Key, value and, for messages, the flag.
    pub flags: Vec<(String, String, String)>,
}

impl Sources {
    /// The process's environment and working directory.
    #[must_use]
    pub fn of_process() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
            .collect();
        Self { folder: PathBuf::from("."), environment, ..Self::default() }
    }
}

/// The settings, and how they read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The same as a commented TOML file.
    pub text: String,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Reads and checks all sources.
    ///
    /// # Errors
    /// Every unknown key, wrong type and value out of range, each with its place.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let settings = reference::settings();
        let mut reader = Reader { settings: &settings, problems: Vec::new() };
        let file = find_file(sources);
        let mut layers = Vec::new();
        if let Some(path) = &file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::new(vec![format!("cannot read {}: {error}", path.display())]))?;
            layers.push(reader.file(&path.display().to_string(), &text));
        }
        layers.push(reader.environment(&sources.environment));
        layers.push(reader.flags(&sources.flags));
        let (raw, config, repository_place) = merge(reader, layers)?;
        check_repository(&config.repository.path, &repository_place)?;
        Ok(Loaded { config, text: reference::commented_file(&raw), file })
    }

    /// Checks the text of a configuration file by itself: no other source counts, and the repository need not exist.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(name: &str, text: &str) -> Result<Self, ConfigError> {
        let settings = reference::settings();
        let mut reader = Reader { settings: &settings, problems: Vec::new() };
        let layer = reader.file(name, text);
        merge(reader, vec![layer]).map(|(_, config, _)| config)
    }
}

/// Puts `layers` over the defaults, the later over the earlier, and checks the result. The last value is the place of
/// `repository.path`.
fn merge(reader: Reader<'_>, layers: Vec<Layer>) -> Result<(RawConfig, Config, String), ConfigError> {
    if !reader.problems.is_empty() {
        return Err(ConfigError::new(reader.problems));
    }
    let unexpected = |error: config::ConfigError| ConfigError::new(vec![error.to_string()]);
    let places: BTreeMap<_, _> = layers.iter().flat_map(Layer::places).collect();
    let place = |key: &str| places.get(key).cloned().unwrap_or_else(|| "the built-in default".to_owned());
    let mut builder = config::Config::builder();
    builder = builder.add_source(config::Config::try_from(&RawConfig::default()).map_err(unexpected)?);
    builder = layers.into_iter().fold(builder, |builder, layer| builder.add_source(layer));
    let merged = builder.build().map_err(unexpected)?;
    let raw: RawConfig = merged.try_deserialize().map_err(unexpected)?;
    let config = validate::settings(&raw, &place)?;
    Ok((raw, config, place("repository.path")))
}

fn find_file(sources: &Sources) -> Option<PathBuf> {
    let by_variable = || sources.environment.get(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let by_default = || Some(sources.folder.join(DEFAULT_FILE)).filter(|path| path.is_file());
    sources.file.clone().or_else(by_variable).or_else(by_default)
}

fn check_repository(path: &Path, place: &str) -> Result<(), ConfigError> {
    let came = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "which is no folder".to_owned(),
        Err(error) => format!("which cannot be read: {error}"),
    };
    let path = path.display();
    let problem = format!("repository.path: expected a folder of models, got {path:?}, {came} ({place})");
    Err(ConfigError::new(vec![problem]))
}
