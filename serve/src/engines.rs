//! The engines of this build: the only place that knows which features are on.

use std::collections::BTreeMap;
use std::sync::Arc;

use detectd_engine::{EngineError, LoadOptions, Model};

/// Loads a model file.
pub type Loader = Arc<dyn Fn(&LoadOptions) -> Result<Arc<dyn Model>, EngineError> + Send + Sync>;

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
            EngineError::Load(format!("the engine `{name}` is not in this build, which has: {}", known.join(", ")))
        })?;
        loader(options)
    }
}
