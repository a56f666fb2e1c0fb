//! The engines of this build: the only place that knows which features are on.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use detectd_engine::{EngineError, LoadOptions, Model};

/// Loads a model file.
pub type Loader = Arc<dyn Fn(&LoadOptions) -> Result<Arc<dyn Model>, EngineError> + Send + Sync>;

/// The engines that not every build has, and how one gets them.
const OPTIONAL: [(&str, &str); 2] = [
    ("onnxruntime", "build with `--features onnxruntime` after `make onnxruntime`"),
    ("libtorch", "build with `make build-libtorch`, or `--features libtorch` and LIBTORCH set after `make libtorch`"),
];

/// The engines that a manifest may name.
#[derive(Clone)]
pub struct Engines {
    loaders: BTreeMap<String, Loader>,
    time_limit: Option<Duration>,
}

impl Engines {
    /// What this build has.
    #[must_use]
    pub fn built_in() -> Self {
        let engines = Self { loaders: BTreeMap::new(), time_limit: None }.with("onnx", detectd_onnx::load);
        #[cfg(feature = "onnxruntime")]
        let engines = engines.with("onnxruntime", detectd_onnx::onnxruntime::load);
        #[cfg(feature = "libtorch")]
        let engines = engines.with("libtorch", detectd_libtorch::load);
        engines
    }

    /// The same, and one more.
    #[must_use]
    pub fn with(
        mut self,
        name: &str,
        load: impl Fn(&LoadOptions) -> Result<Arc<dyn Model>, EngineError> + Send + Sync + 'static,
    ) -> Self {
        self.loaders.insert(name.to_owned(), Arc::new(load));
        self
    }

    /// The same, where loading takes longer than `limit` is an error.
    #[must_use]
    pub fn within(self, limit: Option<Duration>) -> Self {
        Self { time_limit: limit, ..self }
    }

    /// The engines' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.loaders.keys().map(String::as_str)
    }

    /// Loads a model on the engine called `name`.
    ///
    /// # Errors
    /// There is no such engine in this build; it refuses the model, panics, or takes too long.
    pub fn load(&self, name: &str, options: &LoadOptions) -> Result<Arc<dyn Model>, EngineError> {
        let loader = self.loaders.get(name).ok_or_else(|| {
            let known: Vec<_> = self.names().collect();
            let advice = match OPTIONAL.iter().find(|(engine, _)| *engine == name) {
                Some((_, advice)) => format!("; {advice}"),
                None => String::new(),
            };
            EngineError::Load(format!(
                "the engine `{name}` is not in this build, which has: {}{advice}",
                known.join(", ")
            ))
        })?;
        match self.time_limit {
            Some(limit) => load_within(limit, loader, options),
            None => loader(options),
        }
    }
}

/// Loads on a thread of its own, which nothing can stop: after `limit` it is left, and what it loads in the end is freed.
fn load_within(limit: Duration, loader: &Loader, options: &LoadOptions) -> Result<Arc<dyn Model>, EngineError> {
    let (loader, options) = (Arc::clone(loader), options.clone());
    let (done, loaded) = mpsc::sync_channel(1);
    let work = move || {
        // Nobody takes it any more when it is too late.
        let _ = done.send(loader(&options));
    };
    thread::Builder::new()
        .name("load-file".into())
        .spawn(work)
        .map_err(|error| EngineError::Load(format!("no thread to load it on: {error}")))?;
    loaded.recv_timeout(limit).unwrap_or_else(|error| {
        Err(EngineError::Load(match error {
            mpsc::RecvTimeoutError::Timeout => {
                format!("it took longer than repository.load_timeout_ms, {}", limit.as_millis())
            }
            mpsc::RecvTimeoutError::Disconnected => "the engine panicked".into(),
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Engines {
        Engines { loaders: BTreeMap::new(), time_limit: None }
    }

    fn options() -> LoadOptions {
        LoadOptions {
            path: "model".into(),
            device: detectd_engine::Device::Cpu,
            precision: None,
            threads: 1,
            max_batch: 1,
            detector: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }

    #[test]
    fn a_load_ends_in_time_or_is_left() {
        let (never, waits) = mpsc::sync_channel::<()>(1);
        let waits = std::sync::Mutex::new(waits);
        let engines = none()
            .with("slow", move |_| {
                let _ = waits.lock().unwrap().recv();
                Err(EngineError::Load("too late to be read".into()))
            })
            .with("panics", |_| panic!("as the test wants"))
            .with("refuses", |_| Err(EngineError::Load("no such thing".into())));
        let refusal = |name: &str, limit| {
            let limited = engines.clone().within(Some(Duration::from_millis(limit)));
            limited.load(name, &options()).err().expect("refused").to_string()
        };
        assert!(refusal("slow", 20).contains("longer than repository.load_timeout_ms, 20"), "{}", refusal("slow", 20));
        assert!(refusal("panics", 3_600_000).contains("panicked"));
        assert!(refusal("refuses", 3_600_000).contains("no such thing"));
        drop(never);
    }

    #[test]
    fn an_engine_that_is_not_built_in_says_how_to_get_it() {
        let refused = |name: &str| {
            let engines = none().with("onnx", detectd_onnx::load);
            engines.load(name, &options()).err().expect("no such engine").to_string()
        };
        for (name, advice) in [("libtorch", "make libtorch"), ("onnxruntime", "make onnxruntime")] {
            let message = refused(name);
            assert!(message.contains(name) && message.contains("which has: onnx;"), "{message}");
            assert!(message.contains(advice), "{message}");
        }
        assert!(refused("tensorflow").ends_with("which has: onnx"));
    }
}
