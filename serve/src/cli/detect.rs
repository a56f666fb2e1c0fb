//! `detectd detect`: the command-line client.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use detectd_proto::detect::v1 as wire;
use futures_util::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tonic::Code;

use super::options::QuestionArgs;
use super::pictures::{self, Picture};
use super::report;
use crate::client::{Client, ClientError, Question};

/// How often a picture is sent again that the server was too busy for.
const ATTEMPTS: usize = 5;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Pictures (JPEG, PNG, WebP, BMP), and folders of them.
    #[arg(required = true, value_name = "IMAGE|FOLDER")]
    inputs: Vec<PathBuf>,
    /// The server's gRPC address.
    #[arg(short, long, default_value = "127.0.0.1:8001", value_name = "HOST:PORT")]
    server: String,
    #[command(flatten)]
    question: QuestionArgs,
    /// Write each picture with its boxes drawn into this folder, as PNG.
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print one JSON object a line, a picture each.
    #[arg(long)]
    json: bool,
    /// Pictures on their way at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "COUNT")]
    concurrency: u16,
    /// How long a picture may take.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS", value_parser = seconds)]
    timeout: f64,
}

/// Sends every picture. One that fails does not stop the others, but is told by the exit status.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let pictures = pictures::find(&args.inputs)?;
    let question = args.question.question()?;
    super::runtime()?.block_on(send(args, question, pictures))
}

async fn send(args: Args, question: Question, pictures: Vec<Picture>) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.server, Duration::from_secs_f64(args.timeout)).await?;
    let labels = client.model(&question).await.with_context(|| format!("server {}", args.server))?.labels;
    let start = Instant::now();
    let bar = progress(pictures.len());
    let sender = Arc::new(Sender { client, question, labels, out: args.out });
    let answers = stream::iter(&pictures).map(|picture| {
        let sender = Arc::clone(&sender);
        async move { (picture, sender.one(picture).await) }
    });
    let mut answers = std::pin::pin!(answers.buffered(args.concurrency.into()));
    let (mut objects, mut failed) = (0, 0);
    while let Some((picture, answer)) = answers.next().await {
        let name = picture.path.display().to_string();
        objects += answer.as_ref().map_or(0, |answer| answer.response.detections.len());
        failed += usize::from(answer.is_err());
        bar.suspend(|| show(&name, &answer, args.json))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let elapsed = start.elapsed().as_secs_f64();
    let (count, rate) = (pictures.len(), pictures.len() as f64 / elapsed);
    eprintln!("{count} pictures, {objects} objects, {failed} failed, {elapsed:.1} s ({rate:.1} pictures/s)");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Sender {
    client: Client,
    question: Question,
    labels: Vec<String>,
    out: Option<PathBuf>,
}

struct Answer {
    response: wire::DetectResponse,
    elapsed: Duration,
    copy: Option<PathBuf>,
}

impl Sender {
    async fn one(self: Arc<Self>, picture: &Picture) -> anyhow::Result<Answer> {
        let encoded = Bytes::from(tokio::fs::read(&picture.path).await?);
        let start = Instant::now();
        let response = self.ask(&encoded).await?;
        let elapsed = start.elapsed();
        let Some(out) = &self.out else { return Ok(Answer { response, elapsed, copy: None }) };
        let copy = out.join(&picture.copy);
        let (this, path) = (Arc::clone(&self), copy.clone());
        let drawn = tokio::task::spawn_blocking(move || {
            report::write_annotated(&encoded, &response, &this.labels, &path).map(|()| response)
        });
        let response = drawn.await?.context("the annotated copy")?;
        Ok(Answer { response, elapsed, copy: Some(copy) })
    }

    /// Asks again when the server is full and says after which time to come back.
    async fn ask(&self, encoded: &Bytes) -> Result<wire::DetectResponse, ClientError> {
        let mut attempt = 1;
        loop {
            let error = match self.client.detect(&self.question, encoded.clone(), "").await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match retry_after(&error) {
                Some(pause) if attempt < ATTEMPTS => tokio::time::sleep(pause * attempt as u32).await,
                _ => return Err(error),
            }
            attempt += 1;
        }
    }
}

fn retry_after(error: &ClientError) -> Option<Duration> {
    let ClientError::Status(status) = error else { return None };
    let after = status.metadata().get("retry-after-ms")?.to_str().ok()?.parse().ok()?;
    (status.code() == Code::ResourceExhausted).then(|| Duration::from_millis(after).min(Duration::from_secs(5)))
}

fn show(name: &str, answer: &anyhow::Result<Answer>, json: bool) -> anyhow::Result<()> {
    match answer {
        Ok(Answer { response, elapsed, copy }) if json => {
            report::say(report::json(name, response, *elapsed, copy.as_deref()))
        }
        Ok(Answer { response, elapsed, copy }) => {
            report::say(report::text(name, response, *elapsed))?;
            match copy {
                Some(copy) => report::say(format_args!("annotated: {}\n", copy.display())),
                None => report::say(""),
            }
        }
        Err(error) if json => report::say(report::failure_json(name, error)),
        Err(error) => {
            eprintln!("{} {name}: {error:#}", console::style("failed:").for_stderr().red());
            Ok(())
        }
    }
}

/// Shown on a terminal only.
fn progress(pictures: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} pictures, {per_sec}, {eta} left");
    let bar = ProgressBar::new(pictures as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if seconds > 0.0 && seconds <= 86_400.0 { Ok(seconds) } else { Err("expected from above 0 to 86400".to_owned()) }
}
