//! Files that people write: a model's manifest and the configuration. Any text is read or refused with a reason.
#![no_main]

use detectd::config::Config;
use detectd::repository::manifest::Manifest;
use detectd_engine::BatchSize;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Manifest::parse(text) {
        Ok(manifest) => {
            let policy = manifest.policy(BatchSize::UpTo(usize::MAX));
            assert!(
                policy.max_batch >= 1 && policy.preferred.iter().all(|&size| (1..=policy.max_batch).contains(&size))
            );
            assert!(manifest.options.validate().is_ok());
            let (instances, _) = manifest.instances.resolve(manifest.device, 8);
            assert!((1..=1024).contains(&instances));
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
    if let Err(error) = Config::from_toml("detectd.toml", text) {
        assert!(!error.problems().is_empty());
        assert!(error.problems().iter().all(|problem| problem.contains("detectd.toml")));
    }
});
