//! LogSettings and TraceSetting.

use std::collections::HashMap;

use detectd_proto::inference as wire;
use detectd_proto::inference::log_settings_request::SettingValue as Requested;
use detectd_proto::inference::log_settings_request::setting_value::ParameterChoice;
use detectd_proto::inference::log_settings_response::SettingValue as Answered;
use detectd_proto::inference::log_settings_response::setting_value::ParameterChoice as AnsweredChoice;
use detectd_proto::inference::trace_setting_response::SettingValue as Traced;
use tracing::info;
use tracing::level_filters::LevelFilter;

use crate::config::LogFormat;
use crate::error::Error;
use crate::logging::LogControl;

const LOG_SETTINGS: [&str; 6] = ["log_error", "log_warning", "log_info", "log_verbose_level", "log_file", "log_format"];
const TRACE_SETTINGS: [&str; 6] =
    ["trace_level", "trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode"];
const OFF: &str = "OFF";

/// What the protocol has as four settings is one level here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Switches {
    error: bool,
    warning: bool,
    info: bool,
    verbose: u32,
}

/// Changes what the request states, and gives all settings.
///
/// # Errors
/// A setting that is none or cannot be changed; there is no log that can be changed.
pub fn log(request: wire::LogSettingsRequest, log: Option<&LogControl>) -> Result<wire::LogSettingsResponse, Error> {
    let log = log.ok_or_else(|| Error::unimplemented("the log of this process is not the server's to change"))?;
    let before = Switches::of(log.level());
    let mut wanted = before;
    for (name, value) in request.settings {
        wanted.change(&name, value, log.format())?;
    }
    let level = wanted.level()?;
    if wanted != before {
        log.set_level(level).map_err(|reason| Error::internal(format!("log settings: {reason}")))?;
        info!(%level, "the log's level was changed");
    }
    let Switches { error, warning, info, verbose } = Switches::of(log.level());
    let flag = AnsweredChoice::BoolParam;
    let text = |text: &str| AnsweredChoice::StringParam(text.to_owned());
    let settings = [
        ("log_error", flag(error)),
        ("log_warning", flag(warning)),
        ("log_info", flag(info)),
        ("log_verbose_level", AnsweredChoice::Uint32Param(verbose)),
        ("log_file", text("")),
        ("log_format", text(format_name(log.format()))),
    ];
    let settings = settings.map(|(name, choice)| (name.to_owned(), Answered { parameter_choice: Some(choice) }));
    Ok(wire::LogSettingsResponse { settings: settings.into() })
}

/// The trace settings: requests are not traced, and no setting can change that.
///
/// # Errors
/// A setting that is none, or that asks for traces.
pub fn trace(request: &wire::TraceSettingRequest) -> Result<wire::TraceSettingResponse, Error> {
    for (name, value) in &request.settings {
        check(&TRACE_SETTINGS, name)?;
        let is_off = name == "trace_level" && value.value.iter().all(|level| level == OFF);
        // No value asks for the default.
        if !value.value.is_empty() && !is_off {
            let value = value.value.join(", ");
            return Err(Error::unimplemented(format!("settings.{name}: requests are not traced, got `{value}`")));
        }
    }
    let settings = HashMap::from([("trace_level".to_owned(), Traced { value: vec![OFF.to_owned()] })]);
    Ok(wire::TraceSettingResponse { settings })
}

impl Switches {
    fn of(level: LevelFilter) -> Self {
        Self {
            error: level >= LevelFilter::ERROR,
            warning: level >= LevelFilter::WARN,
            info: level >= LevelFilter::INFO,
            verbose: u32::from(level >= LevelFilter::DEBUG) + u32::from(level >= LevelFilter::TRACE),
        }
    }

    fn change(&mut self, name: &str, value: Requested, format: LogFormat) -> Result<(), Error> {
        check(&LOG_SETTINGS, name)?;
        let wrong = |expected: &str| Error::invalid(format!("settings.{name}: expected {expected}"));
        // No value asks for no change.
        let Some(value) = value.parameter_choice else { return Ok(()) };
        match (name, value) {
            ("log_error", ParameterChoice::BoolParam(on)) => self.error = on,
            ("log_warning", ParameterChoice::BoolParam(on)) => self.warning = on,
            ("log_info", ParameterChoice::BoolParam(on)) => self.info = on,
            ("log_verbose_level", ParameterChoice::Uint32Param(level)) => self.verbose = level,
            ("log_error" | "log_warning" | "log_info", _) => return Err(wrong("true or false")),
            ("log_verbose_level", _) => return Err(wrong("a whole number, 0 or above")),
            ("log_file", ParameterChoice::StringParam(file)) if file.is_empty() => {}
            ("log_file", _) => return Err(wrong("an empty name: the log goes to stderr")),
            (_, ParameterChoice::StringParam(asked)) if asked == format_name(format) => {}
            _ => {
                let is = format_name(format);
                return Err(wrong(&format!("`{is}`, which `log.format` states in the server's configuration")));
            }
        }
        Ok(())
    }

    fn level(self) -> Result<LevelFilter, Error> {
        match self {
            Self { verbose: 2.., info: true, warning: true, error: true } => Ok(LevelFilter::TRACE),
            Self { verbose: 1, info: true, warning: true, error: true } => Ok(LevelFilter::DEBUG),
            Self { verbose: 0, info: true, warning: true, error: true } => Ok(LevelFilter::INFO),
            Self { verbose: 0, info: false, warning: true, error: true } => Ok(LevelFilter::WARN),
            Self { verbose: 0, info: false, warning: false, error: true } => Ok(LevelFilter::ERROR),
            Self { verbose: 0, info: false, warning: false, error: false } => Ok(LevelFilter::OFF),
            Self { error, warning, info, verbose } => Err(Error::invalid(format!(
                "settings: expected each of log_error, log_warning, log_info and log_verbose_level to need the one \
                 before, got {error}, {warning}, {info} and {verbose}"
            ))),
        }
    }
}

fn check(known: &[&str], name: &str) -> Result<(), Error> {
    if known.contains(&name) {
        return Ok(());
    }
    Err(Error::invalid(format!("settings: there is no `{name}`; there are {}", known.join(", "))))
}

fn format_name(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_reads_back_as_itself() {
        let levels = [
            LevelFilter::OFF,
            LevelFilter::ERROR,
            LevelFilter::WARN,
            LevelFilter::INFO,
            LevelFilter::DEBUG,
            LevelFilter::TRACE,
        ];
        for level in levels {
            assert_eq!(Switches::of(level).level().unwrap(), level);
        }
        assert_eq!(Switches { verbose: 9, ..Switches::of(LevelFilter::INFO) }.level().unwrap(), LevelFilter::TRACE);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let change = |name, choice| {
            let mut switches = Switches::of(LevelFilter::INFO);
            let changed = switches.change(name, Requested { parameter_choice: Some(choice) }, LogFormat::Text);
            changed.and_then(|()| switches.level()).map_err(|error| error.message)
        };
        let text = |text: &str| ParameterChoice::StringParam(text.into());
        assert_eq!(change("log_verbose_level", ParameterChoice::Uint32Param(1)), Ok(LevelFilter::DEBUG));
        assert_eq!(change("log_info", ParameterChoice::BoolParam(false)), Ok(LevelFilter::WARN));
        assert_eq!(change("log_format", text("text")), Ok(LevelFilter::INFO));
        let cases = [
            ("log_level", text("info"), "there is no `log_level`"),
            ("log_info", text("yes"), "settings.log_info: expected true or false"),
            ("log_verbose_level", text("1"), "settings.log_verbose_level"),
            ("log_file", text("/tmp/log"), "the log goes to stderr"),
            ("log_format", text("json"), "expected `text`"),
            ("log_error", ParameterChoice::BoolParam(false), "got false, true, true and 0"),
        ];
        for (name, choice, expected) in cases {
            let message = change(name, choice).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
