//! Servers under test, each in a process of its own, so that their processor time is theirs alone.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use detectd::app::App;
use detectd::config::{Config, Control};
use detectd::engines::Engines;
use tokio::net::TcpListener;

use crate::{cpu, null_engine, peer};

/// A server in a child process. It is ended when this is dropped.
pub struct Server {
    child: Child,
    /// `http://host:port` of its gRPC port.
    pub url: String,
}

impl Server {
    /// Starts this very program with `arguments`, which must lead to one of the `run_…` functions below.
    ///
    /// # Errors
    /// It does not start, or says no address.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("the server's output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening ").context("the server did not start")?;
        Ok(Self { url: format!("http://{address}"), child })
    }

    /// The processor time that it has used.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu(&self) -> Result<Duration> {
        cpu::used(self.child.id())
    }
}

impl Server {
    /// Its resident memory, in megabytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident_mb(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS is not there")?;
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The daemon on the models of `repository`, until the process is ended.
///
/// # Errors
/// It does not start.
pub async fn run_daemon(repository: &Path) -> Result<()> {
    let engines = Engines::built_in().with("null", null_engine::load);
    let app = App::start_with(Config::embedded(repository), engines).await?;
    println!("listening {}", app.grpc_address());
    app.run(std::future::pending()).await?;
    Ok(())
}

/// The daemon on the models of `repository`, which may change, until the process is ended.
///
/// # Errors
/// It does not start.
pub async fn run_swapping_daemon(repository: &Path, control: Control) -> Result<()> {
    let mut config = Config::embedded(repository);
    config.repository.control = control;
    config.repository.settle = Duration::from_millis(50);
    let app = App::start(config).await?;
    println!("listening {}", app.grpc_address());
    app.run(std::future::pending()).await?;
    Ok(())
}

/// The bare peer, until the process is ended.
///
/// # Errors
/// It does not start.
pub async fn run_peer() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening {}", listener.local_addr()?);
    peer::serve(listener).await
}

/// A repository with one model on the engine that does nothing.
///
/// # Errors
/// The folder cannot be written.
pub fn null_repository() -> Result<tempfile::TempDir> {
    let root = tempfile::tempdir()?;
    let folder = root.path().join("null");
    std::fs::create_dir_all(folder.join("1"))?;
    std::fs::write(folder.join("1/model.null"), "")?;
    let manifest = "engine = \"null\"\nfile = \"model.null\"\nlabels = [\"nothing\"]\n\
                    [instances]\ncount = 1\n[batching]\nmax_batch_size = 64\nqueue_capacity = 1024\n";
    std::fs::write(folder.join("model.toml"), manifest)?;
    Ok(root)
}
