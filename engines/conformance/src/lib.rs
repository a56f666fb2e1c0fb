//! One test suite that every engine passes.
//!
//! An engine crate calls [`Suite::run`] in a test. The suite makes small networks ([`Network`]) with weights from a
//! fixed seed, computes by itself what they must answer ([`Network::evaluate`]), has them written in the engine's
//! own file format ([`Suite::write`]; for ONNX that is [`onnx::write`]), and checks everything that the traits of
//! `detectd-engine` promise. Nothing in it knows a runtime.

mod batches;
mod checks;
mod evaluate;
mod network;
pub mod networks;
pub mod onnx;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use detectd_engine::{DetectorOptions, Device, EngineError, LoadOptions, Model};
use tempfile::TempDir;

pub use network::{Network, Operation, Port, Step};

/// Loads a model file, as an engine crate's `load` does.
pub type Load<'a> = dyn Fn(&LoadOptions) -> Result<Arc<dyn Model>, EngineError> + Sync + 'a;

/// Writes a network in a file format. `Some` fixes the batch in the file, `None` leaves it open.
pub type Write<'a> = dyn Fn(&Network, Option<usize>, &Path) -> io::Result<()> + 'a;

/// One engine under test.
pub struct Suite<'a> {
    /// What [`detectd_engine::ModelSpec::engine`] must say.
    pub engine: &'a str,
    /// Loads a model file.
    pub load: &'a Load<'a>,
    /// Writes a network in a format that the engine reads.
    pub write: &'a Write<'a>,
    /// How such a file's name ends, such as `onnx`.
    pub extension: &'a str,
    /// Where to run.
    pub device: Device,
    /// Most that a value may differ from the reference; relative for values above 1.
    pub tolerance: f32,
}

/// Every batch size up to this is checked.
const MAX_BATCH: usize = 5;

impl Suite<'_> {
    /// Runs every check, and names each as it passes.
    ///
    /// # Panics
    /// At the end, if any check has failed; the message names all that have.
    pub fn run(&self) {
        let mut failed = Vec::new();
        for (name, check) in checks::ALL {
            match catch_unwind(AssertUnwindSafe(|| check(&Bench::new(self)))) {
                Ok(()) => println!("{}: {name}: passed", self.engine),
                Err(panic) => failed.push(format!("{name}: {}", text(&*panic))),
            }
        }
        assert!(failed.is_empty(), "{}: {} checks failed:\n{}", self.engine, failed.len(), failed.join("\n"));
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// What a check works with: the engine and a folder of its own.
struct Bench<'a> {
    suite: &'a Suite<'a>,
    folder: TempDir,
}

impl<'a> Bench<'a> {
    fn new(suite: &'a Suite<'a>) -> Self {
        Self { suite, folder: TempDir::new().expect("no temporary folder") }
    }

    /// A file of this name with the engine's extension.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.{}", self.suite.extension))
    }

    fn options(&self, path: PathBuf) -> LoadOptions {
        LoadOptions {
            path,
            device: self.suite.device,
            precision: None,
            threads: 1,
            max_batch: MAX_BATCH,
            detector: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Writes a network, its batch open or fixed.
    fn write(&self, network: &Network, batch: Option<usize>) -> PathBuf {
        let path = self.path(network.name);
        (self.suite.write)(network, batch, &path).unwrap_or_else(|error| panic!("writing {}: {error}", network.name));
        path
    }

    /// Writes a network and loads it.
    fn load(&self, network: &Network, batch: Option<usize>, detector: Option<DetectorOptions>) -> Arc<dyn Model> {
        let options = LoadOptions { detector, ..self.options(self.write(network, batch)) };
        (self.suite.load)(&options).unwrap_or_else(|error| panic!("loading {}: {error}", network.name))
    }
}
