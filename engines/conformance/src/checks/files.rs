//! Files that are missing, empty, damaged or something else: `Load`, with the reason, and never a panic.

use std::fs;
use std::path::Path;

use detectd_engine::EngineError;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Bench, networks};

pub fn unloadable(bench: &Bench<'_>) {
    let missing = bench.path("missing");
    let message = refused(bench, &missing, "a missing file");
    assert!(message.contains("missing"), "the message does not name the file: {message}");

    let path = bench.path("other");
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let noise: Vec<u8> = (0..4096).map(|_| random.random()).collect();
    let contents: [(&str, &[u8]); 4] =
        [("an empty file", b""), ("text", b"a model, honestly\n"), ("zeros", &[0; 1000]), ("noise", &noise)];
    for (what, content) in contents {
        fs::write(&path, content).expect("writes");
        refused(bench, &path, what);
    }

    let folder = bench.path("folder");
    fs::create_dir(&folder).expect("makes a folder");
    refused(bench, &folder, "a folder");
}

pub fn damaged(bench: &Bench<'_>) {
    let original = fs::read(bench.write(&networks::detector(), None)).expect("reads");
    let path = bench.path("damaged");
    for kept in [1, original.len() / 4, original.len() / 2, original.len() * 3 / 4, original.len() - 1] {
        fs::write(&path, &original[..kept]).expect("writes");
        refused(bench, &path, &format!("a file cut to {kept} of {} bytes", original.len()));
    }
    // A damaged file may still be one; what matters is that nothing but `Load` comes of it.
    let mut random = ChaCha8Rng::seed_from_u64(4);
    for round in 0..60 {
        let mut bytes = original.clone();
        for _ in 0..8 {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        fs::write(&path, &bytes).expect("writes");
        if let Err(error) = (bench.suite.load)(&bench.options(path.clone())) {
            assert!(matches!(error, EngineError::Load(_)), "round {round}: {error:?}, expected a Load error");
        }
    }
}

fn refused(bench: &Bench<'_>, path: &Path, what: &str) -> String {
    match (bench.suite.load)(&bench.options(path.to_path_buf())) {
        Err(EngineError::Load(message)) if !message.is_empty() => message,
        Err(error) => panic!("{what}: {error:?}, expected a Load error with a message"),
        Ok(_) => panic!("{what} was loaded"),
    }
}
