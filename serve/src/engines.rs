//! The engines of this build: the only place that knows which features are on.

use std::collections::BTreeMap;
use std::sync::Arc;

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
}

impl Engines {
    /// What this build has.
    #[must_use]
    pub fn built_in() -> Self {
        let engines = Self { loaders: BTreeMap::new() }.with("onnx", detectd_onnx::load);
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

    /// The engines' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.loaders.keys().map(String::as_str)
    }

    /// Loads a model on the engine called `name`.
    ///
    /// # Errors
    /// There is no such engine in this build, or it refuses the model.
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
        loader(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_not_built_in_says_how_to_get_it() {
        let options = LoadOptions {
            path: "model".into(),
            device: detectd_engine::Device::Cpu,
            precision: None,
            threads: 1,
            max_batch: 1,
            detector: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let refused = |name: &str| {
            let engines = Engines { loaders: BTreeMap::new() }.with("onnx", detectd_onnx::load);
            engines.load(name, &options).err().expect("no such engine").to_string()
        };
        for (name, advice) in [("libtorch", "make libtorch"), ("onnxruntime", "make onnxruntime")] {
            let message = refused(name);
            assert!(message.contains(name) && message.contains("which has: onnx;"), "{message}");
            assert!(message.contains(advice), "{message}");
        }
        assert!(refused("tensorflow").ends_with("which has: onnx"));
    }
}
