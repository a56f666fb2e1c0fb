//! Every key with its default, its type and its description, read from [`RawConfig`] and nowhere else.

use serde_json::Value;

use super::raw::RawConfig;

/// A key that can be set.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Section and name, as in `server.grpc_address`.
    pub key: String,
    /// What it does, in a sentence or two.
    pub description: String,
    /// The built-in value, as TOML writes it.
    pub default: String,
    pub(super) kind: Kind,
}

impl Setting {
    /// The environment variable that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("DETECTD_{}", self.key.replace('.', "__").to_uppercase())
    }
}

/// What may be written for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Switch,
    List,
}

impl Kind {
    /// For messages.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Number => "a whole number, at least 0",
            Self::Switch => "true or false",
            Self::List => "a list of strings",
        }
    }
}

/// Every key, in the order of the sections.
#[must_use]
pub fn settings() -> Vec<Setting> {
    let schema = schemars::SchemaGenerator::new(inlined()).into_root_schema_for::<RawConfig>();
    let defaults = serde_json::to_value(RawConfig::default()).unwrap_or_default();
    let mut settings = Vec::new();
    for (section, schema) in properties(schema.as_value()) {
        for (name, schema) in properties(schema) {
            let default = &defaults[section][name];
            settings.push(Setting {
                key: format!("{section}.{name}"),
                description: schema["description"].as_str().unwrap_or_default().replace('\n', " "),
                default: toml_value(default),
                kind: kind(default),
            });
        }
    }
    settings
}

/// The values of `raw` as a commented TOML file; a default is marked as such.
pub(super) fn commented_file(raw: &RawConfig) -> String {
    let schema = schemars::SchemaGenerator::new(inlined()).into_root_schema_for::<RawConfig>();
    let (values, defaults) =
        (serde_json::to_value(raw).unwrap_or_default(), serde_json::to_value(RawConfig::default()).unwrap_or_default());
    let mut text = String::new();
    for (section, schema) in properties(schema.as_value()) {
        let about = schema["description"].as_str().unwrap_or_default();
        text += &format!("# {about}\n[{section}]\n");
        for (name, schema) in properties(schema) {
            for line in schema["description"].as_str().unwrap_or_default().lines() {
                text += &format!("# {line}\n");
            }
            let (value, default) = (&values[section][name], &defaults[section][name]);
            let note = if value == default { String::new() } else { format!("  # default: {}", toml_value(default)) };
            text += &format!("{name} = {}{note}\n", toml_value(value));
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len() + 1);
    text
}

fn inlined() -> schemars::generate::SchemaSettings {
    schemars::generate::SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true)
}

fn properties(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    schema["properties"].as_object().into_iter().flatten().map(|(name, schema)| (name.as_str(), schema))
}

fn kind(default: &Value) -> Kind {
    match default {
        Value::Bool(_) => Kind::Switch,
        Value::Number(_) => Kind::Number,
        Value::Array(_) => Kind::List,
        _ => Kind::Text,
    }
}

/// JSON's spelling of strings, numbers, switches and lists of strings is TOML's too.
fn toml_value(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml_value).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_described_and_has_a_default() {
        let settings = settings();
        let defaults = toml::Table::try_from(RawConfig::default()).expect("a table");
        let written = defaults.values().filter_map(toml::Value::as_table).map(toml::Table::len).sum::<usize>();
        assert_eq!(settings.len(), written, "{settings:#?}");
        for setting in &settings {
            assert!(setting.description.ends_with('.'), "{setting:?}");
            assert!(!setting.default.is_empty(), "{setting:?}");
        }
        let first = &settings[0];
        assert_eq!((first.key.as_str(), first.default.as_str()), ("server.grpc_address", r#""127.0.0.1:8001""#));
        assert_eq!(first.variable(), "DETECTD_SERVER__GRPC_ADDRESS");
    }

    #[test]
    fn the_printed_file_reads_back_as_the_same_settings() {
        let mut raw = RawConfig::default();
        raw.repository.models = vec!["a".into(), "b \"quoted\"".into()];
        raw.server.grace_period_ms = 1;
        let text = commented_file(&raw);
        assert!(text.contains("grace_period_ms = 1  # default: 30000"), "{text}");
        assert_eq!(toml::from_str::<RawConfig>(&text).expect(&text), raw);
    }

    /// The README's table, between its two markers. `UPDATE_README=1 cargo test -p detectd-serve readme` writes it.
    #[test]
    fn the_readme_lists_every_setting() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(path).expect("README.md");
        let (start, end) = ("<!-- settings -->\n", "<!-- end of settings -->");
        let (before, rest) = readme.split_once(start).expect("the first marker");
        let (table, after) = rest.split_once(end).expect("the second marker");
        let expected = markdown();
        if std::env::var_os("UPDATE_README").is_some() {
            std::fs::write(path, format!("{before}{start}{expected}{end}{after}")).expect("written");
        } else {
            assert_eq!(table, expected, "UPDATE_README=1 cargo test -p detectd-serve readme brings it up to date");
        }
    }

    fn markdown() -> String {
        let rows = settings().into_iter().map(|setting| {
            format!("| `{}` | `{}` | {} |\n", setting.key, setting.default, setting.description.replace('|', "\\|"))
        });
        std::iter::once("| Key | Default | What it does |\n|---|---|---|\n".to_owned()).chain(rows).collect()
    }
}
