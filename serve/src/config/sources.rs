//! Where settings come from: each source becomes a layer of values that know their place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use config::{Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::reference::{Kind, Setting};

/// Variables for the project's own tests, which start programs that see them too.
const OF_TESTS: [&str; 3] = ["DETECTD_FIXTURES", "DETECTD_SWAP_TURNS", "DETECTD_WRITE_PROTO"];

/// Values of one source, by key. Every value's origin is its place.
#[derive(Clone, Debug)]
pub(super) struct Layer(Vec<(String, Value)>);

impl Layer {
    /// Every key with the place of its value.
    pub(super) fn places(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|(key, value)| (key.clone(), value.origin().unwrap_or_default().to_owned()))
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.iter().cloned().collect())
    }
}

/// Reads layers and gathers what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) settings: &'a [Setting],
    pub(super) problems: Vec<String>,
}

impl Reader<'_> {
    /// A TOML file; `name` stands in messages.
    pub(super) fn file(&mut self, name: &str, text: &str) -> Layer {
        let mut values = Vec::new();
        let place = |offset: usize| format!("{name}, line {}", 1 + text[..offset].matches('\n').count());
        let root = match DeTable::parse(text) {
            Ok(root) => root,
            Err(error) => {
                let place = error.span().map_or(name.to_owned(), |span| place(span.start.min(text.len())));
                self.problems.push(format!("{} ({place})", error.message()));
                return Layer(values);
            }
        };
        for (section, content) in root.get_ref() {
            let section_place = place(section.span().start);
            let section = section.get_ref();
            if !self.is_section(section) {
                self.unknown(&format!("section [{section}]"), self.nearest_section(section), &section_place);
                continue;
            }
            let DeValue::Table(keys) = content.get_ref() else {
                let came = described(content.get_ref());
                self.problems.push(format!("{section}: expected a section [{section}], got {came} ({section_place})"));
                continue;
            };
            for (name, value) in keys {
                let key = format!("{section}.{}", name.get_ref());
                let place = place(name.span().start);
                match self.find(&key) {
                    None => self.unknown(&format!("key {key}"), self.nearest_key(&key), &place),
                    Some(kind) => match typed(kind, value.get_ref()) {
                        Some(value) => values.push((key, Value::new(Some(&place), value))),
                        None => self.wrong_type(&key, kind, &described(value.get_ref()), &place),
                    },
                }
            }
        }
        Layer(values)
    }

    /// Variables `DETECTD_SECTION__KEY`. A name of ours that sets nothing is refused, as it would be ignored otherwise;
    /// those that Kubernetes sets for a service called `detectd` are left alone.
    pub(super) fn environment(&mut self, variables: &BTreeMap<String, String>) -> Layer {
        let mut values = Vec::new();
        for (variable, text) in variables.range("DETECTD_".to_owned()..) {
            let Some(rest) = variable.strip_prefix("DETECTD_") else { break };
            if variable == super::FILE_VARIABLE || OF_TESTS.contains(&variable.as_str()) || set_by_kubernetes(rest) {
                continue;
            }
            let place = format!("environment variable {variable}");
            match self.settings.iter().find(|setting| setting.variable() == *variable) {
                None => {
                    let nearest = self.nearest(variable, &|setting| Cow::Owned(setting.variable()));
                    self.unknown(&place, nearest, "the form is DETECTD_SECTION__KEY");
                }
                Some(setting) => self.parse(&setting.key.clone(), setting.kind, text, &place, &mut values),
            }
        }
        Layer(values)
    }

    /// Flags of the command line: key, value as text, and the flag's name for messages.
    pub(super) fn flags(&mut self, flags: &[(String, String, String)]) -> Layer {
        let mut values = Vec::new();
        for (key, text, flag) in flags {
            match self.find(key) {
                None => self.unknown(&format!("key {key}"), self.nearest_key(key), flag),
                Some(kind) => self.parse(key, kind, text, flag, &mut values),
            }
        }
        Layer(values)
    }

    fn parse(&mut self, key: &str, kind: Kind, text: &str, place: &str, values: &mut Vec<(String, Value)>) {
        let place = place.to_owned();
        let value = match kind {
            Kind::Text => Some(ValueKind::from(text)),
            Kind::Number => text.trim().parse::<u64>().ok().map(ValueKind::from),
            Kind::Switch => text.trim().parse::<bool>().ok().map(ValueKind::from),
            // As in a file.
            Kind::List if text.trim_start().starts_with('[') => {
                DeValue::parse(text.trim()).ok().and_then(|value| typed(kind, value.get_ref()))
            }
            Kind::List => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Some(items.map(|item| Value::new(Some(&place), item)).collect::<Vec<_>>().into())
            }
        };
        match value {
            Some(value) => values.push((key.to_owned(), Value::new(Some(&place), value))),
            None => self.wrong_type(key, kind, &format_args!("{text:?}"), &place),
        }
    }

    fn find(&self, key: &str) -> Option<Kind> {
        self.settings.iter().find(|setting| setting.key == key).map(|setting| setting.kind)
    }

    fn is_section(&self, name: &str) -> bool {
        self.settings.iter().any(|setting| section_of(setting) == name)
    }

    fn wrong_type(&mut self, key: &str, kind: Kind, came: &dyn fmt::Display, place: &str) {
        self.problems.push(format!("{key}: expected {}, got {came} ({place})", kind.expected()));
    }

    fn unknown(&mut self, what: &str, nearest: Option<String>, place: &str) {
        let hint = nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        self.problems.push(format!("unknown {what}{hint} ({place})"));
    }

    fn nearest_section(&self, name: &str) -> Option<String> {
        self.nearest(name, &|setting| Cow::Borrowed(section_of(setting))).map(|section| format!("[{section}]"))
    }

    /// The key that is spelled most like it, or has its name in another section.
    fn nearest_key(&self, key: &str) -> Option<String> {
        let name = key.rsplit('.').next();
        let elsewhere = self.settings.iter().find(|setting| setting.key.rsplit('.').next() == name);
        self.nearest(key, &|setting| Cow::Borrowed(&setting.key)).or(elsewhere.map(|setting| setting.key.clone()))
    }

    fn nearest(&self, name: &str, candidate: &dyn for<'s> Fn(&'s Setting) -> Cow<'s, str>) -> Option<String> {
        let candidates = self.settings.iter().map(candidate);
        let rated = candidates.map(|candidate| (strsim::normalized_damerau_levenshtein(name, &candidate), candidate));
        let best = rated.max_by(|(a, _), (b, _)| a.total_cmp(b));
        best.filter(|(likeness, _)| *likeness > 0.75).map(|(_, candidate)| candidate.into_owned())
    }
}

fn section_of(setting: &Setting) -> &str {
    setting.key.split('.').next().unwrap_or_default()
}

/// `None` if the value is of another type than the key's.
fn typed(kind: Kind, value: &DeValue<'_>) -> Option<ValueKind> {
    match (kind, value) {
        (Kind::Text, DeValue::String(text)) => Some(ValueKind::from(text.as_ref())),
        (Kind::Number, DeValue::Integer(number)) => {
            u64::from_str_radix(number.as_str(), number.radix()).ok().map(ValueKind::from)
        }
        (Kind::Switch, DeValue::Boolean(value)) => Some(ValueKind::from(*value)),
        (Kind::List, DeValue::Array(items)) => {
            let texts = items.iter().map(|item: &Spanned<DeValue<'_>>| item.get_ref().as_str().map(Value::from));
            texts.collect::<Option<Vec<_>>>().map(ValueKind::from)
        }
        _ => None,
    }
}

fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(number) => format!("{number}"),
        DeValue::Float(number) => format!("{number}"),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(date) => format!("the date {date}"),
        DeValue::Array(items) => match items.iter().find(|item| !item.get_ref().is_str()) {
            Some(item) => format!("a list with {}", described(item.get_ref())),
            None => "a list".to_owned(),
        },
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// `<SERVICE>_SERVICE_HOST`, `<SERVICE>_SERVICE_PORT…`, `<SERVICE>_PORT` and `<SERVICE>_PORT_<number>_<protocol>…`,
/// where the service is called `detectd` or `detectd-…`.
fn set_by_kubernetes(rest: &str) -> bool {
    let rest = format!("_{rest}");
    let numbered = rest.split_once("_PORT_").is_some_and(|(_, tail)| tail.starts_with(|c: char| c.is_ascii_digit()));
    rest.ends_with("_SERVICE_HOST") || rest.contains("_SERVICE_PORT") || rest.ends_with("_PORT") || numbered
}
