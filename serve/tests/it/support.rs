//! A daemon for one test, and clients for it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};

use detectd::app::App;
use detectd::config::Config;
use detectd::engines::Engines;
use detectd::error::Error;
use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::detect_service_client::DetectServiceClient;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use image::{ImageFormat, RgbImage};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use crate::engine::{CLASSES, Control};

/// A daemon with models on the controlled engine.
pub struct Daemon {
    pub control: Arc<Control>,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), Error>>,
    pub repository: tempfile::TempDir,
}

/// What a test wants to be otherwise.
pub struct Setup {
    /// Models by name; each gets a version 1.
    pub models: Vec<&'static str>,
    /// Added to each manifest.
    pub manifest: &'static str,
    /// Changes the daemon's configuration.
    pub configure: fn(&mut Config),
}

impl Default for Setup {
    fn default() -> Self {
        Self { models: vec!["parts"], manifest: "[instances]\ncount = 1\n", configure: |_| {} }
    }
}

impl Daemon {
    pub async fn start(setup: Setup) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), setup).await
    }

    /// The same in a folder that may hold more versions already.
    pub async fn start_in(repository: tempfile::TempDir, setup: Setup) -> Self {
        for model in &setup.models {
            let folder = repository.path().join(model);
            write_version(&folder.join("1"), model, "");
            let manifest = format!("engine = \"controlled\"\nfile = \"model.test\"\n{}", setup.manifest);
            fs::write(folder.join("model.toml"), manifest).unwrap();
        }
        let mut config = Config::embedded(repository.path());
        (setup.configure)(&mut config);
        let control = Arc::new(Control::default());
        let engines = Engines::built_in().with("controlled", control.loader());
        let app = App::start_with(config, engines).await.unwrap();
        let (grpc, http) = (app.grpc_address(), app.http_address());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(app.run(async {
            // Dropped with the test's daemon: that stops it as well.
            let _ = stopped.await;
        }));
        control.take_executions();
        Self { control, grpc, http, stop: Some(stop), running, repository }
    }

    pub async fn client(&self) -> DetectServiceClient<Channel> {
        DetectServiceClient::new(self.channel().await)
    }

    /// A client that leaves deadlines to the server: the usual one answers them by itself.
    pub fn client_without_timeouts(&self) -> DetectServiceClient<Client<HttpConnector, tonic::body::Body>> {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        DetectServiceClient::with_origin(client, format!("http://{}", self.grpc).parse().unwrap())
    }

    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap()
    }

    /// Begins the shutdown, as SIGTERM does.
    pub fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Waits for the end of a shutdown that was begun.
    pub async fn ended(self) -> Result<(), Error> {
        self.running.await.unwrap()
    }

    /// The value of a metric whose line begins with `name{` and has every one of `labels`, or 0.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.get("/metrics").await.1;
        let line = text.lines().find(|line| {
            line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label))
        });
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// One HTTP request: status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        http_get(self.http, path).await.unwrap()
    }

    /// Whether so many requests, their pictures prepared, wait for the engine of the only model. A queue's depth counts
    /// those that are still being prepared as well.
    pub async fn has_queued(&self, count: usize) -> bool {
        self.get("/").await.1.contains(&format!(" queue: {count},"))
    }

    /// Waits until the pending requests are gone.
    pub async fn nothing_pending(&self) {
        eventually("nothing is pending", || async {
            self.metric("nv_inference_pending_request_count", &[]).await == 0.0
        })
        .await;
    }
}

/// A version of `model` whose engine behaves as `behaviour` asks.
pub fn write_version(folder: &Path, model: &str, behaviour: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("model.test"), behaviour).unwrap();
    let labels: Vec<_> = (0..CLASSES).map(|class| format!("{model}-{class}")).collect();
    fs::write(folder.join("labels.txt"), labels.join("\n")).unwrap();
}

async fn http_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((status, body))
}

/// Waits for something that must become true.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(30), "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A PNG of one colour.
pub fn png(rgb: [u8; 3]) -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    RgbImage::from_pixel(20, 10, image::Rgb(rgb)).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// An image message.
pub fn encoded(bytes: Vec<u8>) -> wire::Image {
    wire::Image { source: Some(wire::image::Source::Encoded(bytes.into())) }
}

/// A request for a picture of one colour.
pub fn request(rgb: [u8; 3]) -> wire::DetectRequest {
    wire::DetectRequest { image: Some(encoded(png(rgb))), ..wire::DetectRequest::default() }
}

/// A colour that the engine answers with class `class` and a score of 1.
pub fn good(class: u8) -> [u8; 3] {
    [class, 255, 0]
}
