//! `detectd demo`: the whole way, from a picture over gRPC to boxes, on what this program brings with it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use detectd_proto::detect::v1 as wire;
use include_dir::{Dir, DirEntry, include_dir};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{report, scrape};
use crate::app::App;
use crate::client::{Client, Question};
use crate::config::Config;
use crate::logging;

/// The sample repository: the bundled models, each with golden pictures.
static REPOSITORY: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../deploy/models");

/// A picture may take so long; far more than it needs on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the pictures with their boxes go [default: detectd-demo in the folder for temporary files].
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print one JSON object in place of text.
    #[arg(long)]
    json: bool,
}

/// Starts a server on free ports, asks it about every bundled picture and stops it.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let out = args.out.clone().unwrap_or_else(|| std::env::temp_dir().join("detectd-demo"));
    let repository = tempfile::tempdir().context("a temporary folder")?;
    REPOSITORY.extract(repository.path()).context("unpacking the bundled model")?;
    let pictures = bundled_pictures()?;
    let mut config = Config::embedded(repository.path());
    config.log.filter = "warn".to_owned();
    logging::start(&config.log).map_err(anyhow::Error::msg)?;

    let demo = super::runtime()?.block_on(demonstrate(config, &pictures, &out))?;
    if args.json {
        report::say(demo.json())?;
    } else {
        report::say(demo.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A bundled picture: its model, its name and its bytes.
struct Bundled {
    model: String,
    name: String,
    encoded: &'static [u8],
}

/// The pictures in the versions' folders, in the order of their names.
fn bundled_pictures() -> anyhow::Result<Vec<Bundled>> {
    let mut pictures = Vec::new();
    collect(&REPOSITORY, &mut pictures);
    pictures.sort_by(|a, b| (&a.model, &a.name).cmp(&(&b.model, &b.name)));
    anyhow::ensure!(!pictures.is_empty(), "this build has no bundled model: deploy/models was empty");
    Ok(pictures)
}

fn collect(folder: &Dir<'static>, pictures: &mut Vec<Bundled>) {
    for entry in folder.entries() {
        match entry {
            DirEntry::Dir(folder) => collect(folder, pictures),
            DirEntry::File(file) => {
                let path = file.path();
                let model = path.components().next().map(|model| model.as_os_str().to_string_lossy().into_owned());
                let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                if let (Some(model), Some(name), "jpg" | "jpeg" | "png" | "webp") = (model, name, ending) {
                    pictures.push(Bundled { model, name, encoded: file.contents() });
                }
            }
        }
    }
}

/// What the demo saw.
struct Demo {
    grpc: String,
    model: wire::GetModelResponse,
    start: Duration,
    answers: Vec<Answer>,
    moved: Vec<(String, f64, f64)>,
}

struct Answer {
    name: String,
    response: wire::DetectResponse,
    elapsed: Duration,
    copy: PathBuf,
}

async fn demonstrate(config: Config, pictures: &[Bundled], out: &Path) -> anyhow::Result<Demo> {
    let begin = Instant::now();
    let app = App::start(config).await?;
    let start = begin.elapsed();
    let (grpc, http) = (app.grpc_address().to_string(), app.http_address());
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(app.run(async {
        // A demo that fails drops the sender, which ends the server too.
        let _ = stopped.await;
    }));

    let client = Client::connect(&grpc, TIMEOUT).await?;
    let before = scrape::metrics(http).await?;
    let mut answers = Vec::new();
    let mut model = None;
    for picture in pictures {
        let question = Question { model: picture.model.clone(), ..Question::default() };
        let described = client.model(&question).await?;
        let sent = Instant::now();
        let response = client.detect(&question, Bytes::from_static(picture.encoded), &picture.name).await?;
        let elapsed = sent.elapsed();
        let copy = out.join(format!("{}-{}", picture.model, picture.name)).with_extension("png");
        report::write_annotated(picture.encoded, &response, &described.labels, &copy)?;
        answers.push(Answer { name: picture.name.clone(), response, elapsed, copy });
        model = Some(described);
    }
    let moved = scrape::moved(&before, &scrape::metrics(http).await?);
    let _ = stop.send(());
    server.await.context("the server")??;
    Ok(Demo { grpc, model: model.context("no picture was sent")?, start, answers, moved })
}

impl Demo {
    fn text(&self) -> String {
        let mut lines = Vec::new();
        let title = |text: &str| console::style(text).bold().underlined().to_string();
        let wire::GetModelResponse { name, version, family, engine, precision, device, labels, .. } = &self.model;
        lines.push(title("A server"));
        lines.push(format!("gRPC on {}, ready after {:.2} s", self.grpc, self.start.as_secs_f64()));
        lines.push(format!("model {name} version {version}: {family}, {precision}, on {engine} ({device})"));
        lines.push(format!("{} classes: {}\n", labels.len(), labels.join(", ")));
        lines.push(title("Pictures in, boxes out"));
        for answer in &self.answers {
            lines.push(format!("{}\n", report::text(&answer.name, &answer.response, answer.elapsed)));
        }
        lines.push(format!("latency, one picture after another: median {:.1} ms\n", self.median_ms()));
        lines.push(title("What the server's /metrics say of it"));
        let mut table = report::table(["metric", "before", "after"]);
        let (shown, others): (Vec<_>, Vec<_>) = self.moved.iter().partition(|(name, ..)| is_plain(name));
        for (name, before, after) in shown {
            table.add_row([name.clone(), number(*before), number(*after)]);
        }
        report::numbers_right(&mut table, 1);
        lines.push(format!("{table}\n and {} more: sums, and scores and areas by class\n", others.len()));
        lines.push(title("The pictures with their boxes"));
        self.answers.iter().for_each(|answer| lines.push(answer.copy.display().to_string()));
        lines.push(String::new());
        lines.push(title("What to type next"));
        let program = std::env::args().next().unwrap_or_else(|| "detectd".to_owned());
        let next = [
            ("serve --repository deploy/models", "serves this model, in a checkout, until Ctrl-C"),
            ("detect FOLDER --out boxes", "asks that server about your own pictures"),
            ("serve --help", "explains every setting"),
        ];
        next.iter().for_each(|(arguments, about)| lines.push(format!("{program} {arguments:34}# {about}")));
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let pictures = self
            .answers
            .iter()
            .map(|answer| report::json(&answer.name, &answer.response, answer.elapsed, Some(&answer.copy)));
        let metrics =
            self.moved.iter().map(|(name, before, after)| json!({ "name": name, "before": before, "after": after }));
        json!({
            "model": self.model.name,
            "version": self.model.version,
            "start_ms": self.start.as_secs_f64() * 1e3,
            "latency_ms": self.median_ms(),
            "pictures": pictures.collect::<Vec<_>>(),
            "metrics": metrics.collect::<Vec<_>>(),
        })
    }

    fn median_ms(&self) -> f64 {
        let mut times: Vec<_> = self.answers.iter().map(|answer| answer.elapsed).collect();
        times.sort_unstable();
        times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }
}

/// Counts as they are, seconds to the microsecond.
fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.6}") }
}

/// Neither a sum nor split by class: those are for dashboards.
fn is_plain(name: &str) -> bool {
    !name.contains("class=") && !name.contains("_sum{")
}
