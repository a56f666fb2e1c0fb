//! Every key of `model.toml` with its default and its description, read from the types and nowhere else.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::Manifest;

/// A key of the manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its path, as in `batching.max_batch_size`.
    pub path: String,
    /// The default as TOML writes it; none for a section and for a key that has no value unless it is written.
    pub default: Option<String>,
    /// What it does, on one line.
    pub description: String,
}

/// The JSON Schema of `model.toml`, for editors.
#[must_use]
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = SchemaGenerator::new(settings).into_root_schema_for::<Manifest>().to_value();
    schema["title"] = "A model's manifest, model.toml".into();
    schema
}

/// Every key, in the order in which the types have them.
#[must_use]
pub fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    collect("", "", &schema(), &mut keys);
    keys
}

/// `form` is what the keys of one of several forms are for, as in `method = "matrix"`.
fn collect(prefix: &str, form: &str, schema: &Value, keys: &mut Vec<Key>) {
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        // The key that tells the forms apart is shown with each of them.
        if schema.get("const").is_some() {
            continue;
        }
        let path = format!("{prefix}{name}");
        let about = schema["description"].as_str().unwrap_or_default().replace('\n', " ");
        let inner = without_null(schema);
        let forms: Vec<_> = inner["oneOf"].as_array().into_iter().flatten().filter_map(tagged).collect();
        let is_section = inner.get("properties").is_some() || !forms.is_empty();
        let default = schema.get("default").filter(|default| !is_section && !default.is_null()).map(toml_value);
        let description = if form.is_empty() { about } else { format!("With `{form}`: {about}") };
        keys.push(Key { path: path.clone(), default, description });
        collect(&format!("{path}."), form, inner, keys);
        collect(&format!("{path}[]."), form, &inner["items"], keys);
        for (form, schema) in forms {
            let (path, about) = (format!("{path}.{}", form.replace(" = ", "=")), schema["description"].as_str());
            let description = about.unwrap_or_default().replace('\n', " ");
            keys.push(Key { path: path.replace('=', " = "), default: None, description });
            collect(&format!("{prefix}{name}."), &form, schema, keys);
        }
    }
}

/// The schema of the value of an optional key.
fn without_null(schema: &Value) -> &Value {
    let choices = schema["anyOf"].as_array().into_iter().flatten();
    choices.clone().find(|choice| choice["type"] != "null").filter(|_| choices.count() == 2).unwrap_or(schema)
}

/// One of several forms, by the key with a fixed value that tells it from the others.
fn tagged(schema: &Value) -> Option<(String, &Value)> {
    let (name, tag) = schema["properties"].as_object()?.iter().find(|(_, schema)| schema.get("const").is_some())?;
    Some((format!("{name} = {}", tag["const"]), schema))
}

/// JSON's spelling of strings, numbers and switches is TOML's too.
fn toml_value(value: &Value) -> String {
    let table = |table: &Map<String, Value>| {
        table.iter().map(|(key, value)| format!("{key} = {}", toml_value(value))).collect::<Vec<_>>().join(", ")
    };
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml_value).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Object(entries) => format!("{{ {} }}", table(entries)),
        // Most are 32 bits wide; written with 64, 0.1 would be 0.10000000149011612.
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or_else(String::new, |number| format!("{:?}", number as f32))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/models/");

    #[test]
    fn every_key_is_explained() {
        let keys = keys();
        for key in &keys {
            assert!(key.description.ends_with('.'), "{key:?}");
        }
        let of = |path: &str| keys.iter().find(|key| key.path == path).unwrap_or_else(|| panic!("{path}: {keys:#?}"));
        assert_eq!(of("batching.max_batch_size").default.as_deref(), Some("8"));
        assert_eq!(of("versions").default.as_deref(), Some("{ latest = 1 }"));
        assert_eq!(of("rollout.strategy").default.as_deref(), Some("\"immediate\""));
        assert_eq!(of("family").default, None);
        assert!(of("options.nms.sigma").description.starts_with("With `method = \"matrix\"`"));
        assert!(of("preprocess.mean").description.contains("Subtracted"));
        assert!(keys.iter().filter(|key| key.path.starts_with("head.levels")).count() >= 2);
    }

    /// The files beside the sample repository. `UPDATE_README=1 cargo test -p detectd-serve manifest` writes them.
    #[test]
    fn the_schema_and_the_table_are_up_to_date() {
        let rows: String = keys()
            .iter()
            .map(|Key { path, default, description }| {
                let default = default.as_ref().map_or(String::new(), |default| format!("`{default}`"));
                format!("| `{path}` | {default} | {} |\n", description.replace('|', "\\|"))
            })
            .collect();
        let table = format!("| Key | Default | What it does |\n|---|---|---|\n{rows}");
        let readme = std::fs::read_to_string(format!("{FOLDER}README.md")).unwrap();
        let (start, end) = ("<!-- keys -->\n", "<!-- end of keys -->");
        let (before, rest) = readme.split_once(start).unwrap();
        let (_, after) = rest.split_once(end).unwrap();
        let schema = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
        for (name, content) in
            [("README.md", format!("{before}{start}{table}{end}{after}")), ("model.schema.json", schema)]
        {
            let path = format!("{FOLDER}{name}");
            if std::env::var_os("UPDATE_README").is_some() {
                std::fs::write(&path, content).unwrap();
            } else {
                let hint = "UPDATE_README=1 cargo test -p detectd-serve manifest";
                assert!(std::fs::read_to_string(&path).unwrap() == content, "{path} is out of date: {hint}");
            }
        }
    }
}
