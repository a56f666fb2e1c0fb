use std::collections::BTreeMap;
use std::path::Path;

use super::{Compression, Config, LogFormat, Sources};

/// A folder with an empty `models` in it, and `detectd.toml` if a text is given.
fn folder(file: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("models")).expect("created");
    std::fs::write(folder.path().join("detectd.toml"), file).expect("written");
    folder
}

fn sources(folder: &Path, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
    let repository = ("repository.path".to_owned(), folder.join("models").display().to_string(), "-r".to_owned());
    let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned(), "--set".to_owned()));
    Sources {
        file: None,
        folder: folder.to_owned(),
        environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        flags: std::iter::once(repository).chain(flags).collect(),
    }
}

#[test]
fn defaults_alone_are_enough() {
    let folder = folder("");
    let loaded = Config::load(&sources(folder.path(), &[], &[])).expect("valid");
    let config = loaded.config;
    assert_eq!(config.server.grpc_address.to_string(), "127.0.0.1:8001");
    assert_eq!(config.server.grace_period.as_secs(), 30);
    assert_eq!(config.server.max_connection_age, None);
    assert_eq!(config.server.compression, [Compression::Gzip, Compression::Zstd]);
    assert!(config.repository.strict);
    assert!(config.cpu.decode_threads.get() >= 1);
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn later_sources_win() {
    let file = "[server]\ngrace_period_ms = 1\n\n[log]\nlevel = \"warn\"\n";
    let variable = ("DETECTD_SERVER__GRACE_PERIOD_MS", "2");
    let flag = ("server.grace_period_ms", "3");
    let cases: [(&str, &[_], &[_], u128, &str); 4] = [
        ("", &[], &[], 30_000, "info"),
        (file, &[], &[], 1, "warn"),
        (file, &[variable], &[], 2, "warn"),
        (file, &[variable], &[flag], 3, "warn"),
    ];
    for (file, environment, flags, grace, level) in cases {
        let folder = folder(file);
        let config = Config::load(&sources(folder.path(), environment, flags)).expect(file).config;
        assert_eq!((config.server.grace_period.as_millis(), config.log.filter.as_str()), (grace, level), "{file}");
    }
}

#[test]
fn a_named_file_goes_before_the_variable_and_that_before_the_default() {
    let folder = folder("[log]\nlevel = \"warn\"\n");
    let write = |name: &str, level: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("[log]\nlevel = \"{level}\"\n")).expect("written");
        path
    };
    let (named, by_variable) = (write("a.toml", "debug"), write("b.toml", "error"));
    let mut sources = sources(folder.path(), &[], &[]);
    let level = |sources: &Sources| Config::load(sources).expect("valid").config.log.filter;
    assert_eq!(level(&sources), "warn");
    sources.environment = BTreeMap::from([("DETECTD_CONFIG".to_owned(), by_variable.display().to_string())]);
    assert_eq!(level(&sources), "error");
    sources.file = Some(named);
    assert_eq!(level(&sources), "debug");
    sources.file = Some("nowhere.toml".into());
    let error = Config::load(&sources).expect_err("no such file").to_string();
    assert!(error.contains("cannot read nowhere.toml"), "{error}");
}

#[test]
fn good_values_arrive() {
    let folder = folder(
        "[server]\nmax_message_bytes = 0x10_0000\ncompression = []\n[repository]\nmodels = [\"a\"]\nstrict = false\n",
    );
    let environment =
        [("DETECTD_SERVER__KEEPALIVE_INTERVAL_MS", "0"), ("DETECTD_LOG__LEVEL", "warn,detectd=debug"), ("HOME", "/")];
    let flags = [("repository.models", "b, c"), ("log.format", "json"), ("server.grpc_address", "[::1]:0")];
    let config = Config::load(&sources(folder.path(), &environment, &flags)).expect("valid").config;
    assert_eq!(config.server.max_message_bytes, 1 << 20);
    assert_eq!(config.server.compression, []);
    assert_eq!(config.server.keepalive_interval, None);
    assert_eq!(config.repository.models, ["b", "c"]);
    assert!(!config.repository.strict);
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(config.server.grpc_address.is_ipv6());
}

#[test]
fn a_flag_takes_a_list_as_a_file_does() {
    let folder = folder("");
    let models = |text| {
        let loaded = Config::load(&sources(folder.path(), &[], &[("repository.models", text)]));
        loaded.map(|loaded| loaded.config.repository.models).map_err(|error| error.to_string())
    };
    assert_eq!(models(r#" ["a", "b, c"] "#).expect("a list"), ["a", "b, c"]);
    assert_eq!(models("[]").expect("a list"), Vec::<String>::new());
    for wrong in ["[\"a\"", "[1]", "[a, b]"] {
        let error = models(wrong).expect_err(wrong);
        assert!(error.contains("repository.models: expected a list of strings, got"), "{error}");
    }
}

#[test]
fn a_problem_in_the_file_is_named_with_its_line() {
    let cases = [
        ("[sever]\ngrpc_address = 1\n", "unknown section [sever]; did you mean [server]?", 1),
        ("[server]\n\ngrpc_adress = \"x\"\n", "unknown key server.grpc_adress; did you mean server.grpc_address?", 3),
        ("[log]\nstrict = true\n", "unknown key log.strict; did you mean repository.strict?", 2),
        ("[cpu]\nquxx = 1\n", "unknown key cpu.quxx", 2),
        ("server = 3\n", "server: expected a section [server], got 3", 1),
        ("strict = true\n", "unknown section [strict]", 1),
        ("[server]\nreflection = \"yes\"\n", r#"server.reflection: expected true or false, got the string "yes""#, 2),
        ("[cpu]\ndecode_threads = 1.5\n", "cpu.decode_threads: expected a whole number, at least 0, got 1.5", 2),
        ("[cpu]\ndecode_threads = -1\n", "cpu.decode_threads: expected a whole number, at least 0, got -1", 2),
        ("[repository]\nmodels = [\"a\", 2]\n", "repository.models: expected a list of strings, got a list with 2", 2),
        ("[server]\ncompression = [\"br\"]\n", r#"server.compression: expected "gzip" or "zstd", got "br""#, 2),
        ("[log]\nformat = \"xml\"\n", r#"log.format: expected "text" or "json", got "xml""#, 2),
        ("[log]\nlevel = \"loud=very\"\n", "log.level: expected a level", 2),
        ("[server]\ngrpc_address = \"localhost\"\n", r#"server.grpc_address: expected an IP address and a port"#, 2),
        ("[limits]\nmax_detections = 0\n", "limits.max_detections: expected a number from 1 to 100000, got 0", 2),
        (
            "[server]\ngrace_period_ms = 86400001\n",
            "server.grace_period_ms: expected a number from 0 to 86400000, got 86400001",
            2,
        ),
        ("[server]\nreflection = true\nreflection = true\n", "duplicate key", 3),
        ("[server\n", "unclosed table", 1),
    ];
    for (text, expected, line) in cases {
        let folder = folder(text);
        let error = Config::load(&sources(folder.path(), &[], &[])).expect_err(text).to_string();
        let place = format!("detectd.toml, line {line})");
        assert!(error.contains(expected) && error.contains(&place), "{text:?} gave: {error}");
    }
}

#[test]
fn a_problem_elsewhere_is_named_with_its_place() {
    let folder = folder("");
    let error = |environment: &[_], flags: &[_]| {
        Config::load(&sources(folder.path(), environment, flags)).expect_err("a problem").to_string()
    };
    let unknown = error(&[("DETECTD_SERVER_GRPC_ADDRESS", "127.0.0.1:1")], &[]);
    let expected =
        "unknown environment variable DETECTD_SERVER_GRPC_ADDRESS; did you mean DETECTD_SERVER__GRPC_ADDRESS?";
    assert!(unknown.contains(expected), "{unknown}");
    let unparsed = error(&[("DETECTD_CPU__DECODE_THREADS", "many")], &[]);
    let expected = "cpu.decode_threads: expected a whole number, at least 0, got \"many\" (environment variable \
                    DETECTD_CPU__DECODE_THREADS)";
    assert!(unparsed.contains(expected), "{unparsed}");
    let too_small = error(&[], &[("server.max_message_bytes", "10")]);
    assert!(too_small.contains("server.max_message_bytes: expected a number from 1024"), "{too_small}");
    assert!(too_small.ends_with("got 10 (--set)"), "{too_small}");
    let no_folder = error(&[], &[("repository.path", "/no/such")]);
    assert!(no_folder.contains("repository.path: expected a folder of models, got \"/no/such\""), "{no_folder}");
}

#[test]
fn every_problem_is_listed() {
    let folder = folder("[server]\na = 1\n[cpu]\nb = 2\n");
    let error = Config::load(&sources(folder.path(), &[("DETECTD_C__D", "3")], &[("e", "4")])).expect_err("problems");
    assert_eq!(error.problems().len(), 4, "{error}");
}

#[test]
fn what_kubernetes_sets_for_a_service_of_our_name_is_left_alone() {
    let folder = folder("");
    let environment = [
        ("DETECTD_SERVICE_HOST", "10.0.0.1"),
        ("DETECTD_SERVICE_PORT", "8001"),
        ("DETECTD_SERVICE_PORT_GRPC", "8001"),
        ("DETECTD_PORT", "tcp://10.0.0.1:8001"),
        ("DETECTD_PORT_8001_TCP_ADDR", "10.0.0.1"),
        ("DETECTD_EDGE_SERVICE_HOST", "10.0.0.2"),
    ];
    assert!(Config::load(&sources(folder.path(), &environment, &[])).is_ok());
}
