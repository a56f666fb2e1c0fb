//! Load over gRPC, closed (so many callers, each waits for its answer) or open (so many requests a second, whether
//! answers come or not). Requests are encoded once, so that the generator costs little beside the server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BufMut as _, Bytes};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// This many callers, each sending its next request when it has its answer.
    Closed(usize),
    /// This many requests a second, evenly spaced. Latency counts from when a request should have been sent.
    Open(f64),
}

/// What to send, where to and for how long.
#[derive(Clone, Debug)]
pub struct Load {
    /// `http://host:port`.
    pub url: String,
    /// `/package.Service/Method`.
    pub method: &'static str,
    /// Encoded requests, sent in turn.
    pub bodies: Vec<Bytes>,
    /// How requests are sent.
    pub mode: Mode,
    /// Connections that the callers share.
    pub connections: usize,
    /// Not counted, at the beginning.
    pub warm_up: Duration,
    /// Counted.
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Answers that were good.
    pub good: u64,
    /// Answers that were not, by gRPC code.
    pub errors: BTreeMap<String, u64>,
    /// Seconds counted.
    pub seconds: f64,
    /// Of good answers, in microseconds.
    pub latency_us: Histogram<u64>,
}

/// In an open loop no more than this many requests wait for their answers; more are counted as not sent.
const MAX_OPEN: usize = 10_000;

impl Report {
    /// Good answers a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.good as f64 / self.seconds
    }

    /// The latency below which a share `quantile` of the answers lies, in milliseconds.
    #[must_use]
    pub fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1000.0
    }
}

impl Load {
    /// Runs it.
    ///
    /// # Errors
    /// No connection, or nothing to send. Failed requests are no errors here: they are counted.
    pub async fn run(&self) -> Result<Report> {
        if self.bodies.is_empty() {
            bail!("nothing to send");
        }
        let mut channels = Vec::new();
        for _ in 0..self.connections.max(1) {
            let endpoint = Endpoint::from_shared(self.url.clone())?
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(8 << 20)
                .tcp_nodelay(true);
            channels.push(endpoint.connect().await.with_context(|| format!("connecting to {}", self.url))?);
        }
        let start = Instant::now() + self.warm_up;
        let shared = Arc::new(Shared {
            method: PathAndQuery::from_static(self.method),
            bodies: self.bodies.clone(),
            start,
            end: start + self.duration,
            tally: Mutex::new(Tally::new()?),
        });
        match self.mode {
            Mode::Closed(callers) => closed(&channels, callers, &shared).await?,
            Mode::Open(rate) => open(&channels, rate, &shared).await?,
        }
        let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let Tally { good, errors, latency_us } = std::mem::replace(&mut *tally, Tally::new()?);
        Ok(Report { good, errors, latency_us, seconds: self.duration.as_secs_f64() })
    }
}

struct Shared {
    method: PathAndQuery,
    bodies: Vec<Bytes>,
    start: Instant,
    end: Instant,
    tally: Mutex<Tally>,
}

struct Tally {
    good: u64,
    errors: BTreeMap<String, u64>,
    latency_us: Histogram<u64>,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self { good: 0, errors: BTreeMap::new(), latency_us: Histogram::new_with_max(600_000_000, 3)? })
    }

    fn count(&mut self, outcome: Result<(), &Status>, latency: Duration) {
        match outcome {
            Ok(()) => {
                self.good += 1;
                self.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
            }
            Err(status) => *self.errors.entry(format!("{:?}", status.code())).or_default() += 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.good += other.good;
        for (code, count) in &other.errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
        // Both histograms have the same range.
        let _ = self.latency_us.add(&other.latency_us);
    }
}

async fn closed(channels: &[Channel], callers: usize, shared: &Arc<Shared>) -> Result<()> {
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let (channel, shared) = (channels[caller % channels.len()].clone(), Arc::clone(shared));
        let mut tally = Tally::new()?;
        tasks.spawn(async move {
            for index in (caller..).step_by(callers.max(1)) {
                let sent = Instant::now();
                if sent >= shared.end {
                    break;
                }
                let outcome = call(&channel, &shared, index).await;
                let done = Instant::now();
                // Counted by when the answer came, so that the rate is right at both ends.
                if done >= shared.start && done < shared.end {
                    tally.count(outcome.as_ref().map(|_| ()), done - sent);
                }
            }
            shared.tally.lock().unwrap_or_else(PoisonError::into_inner).add(&tally);
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

async fn open(channels: &[Channel], rate: f64, shared: &Arc<Shared>) -> Result<()> {
    let interval = Duration::from_secs_f64(1.0 / rate.max(0.001));
    let mut due = Instant::now();
    let mut tasks = JoinSet::new();
    for index in 0usize.. {
        if due >= shared.end {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        while let Some(ended) = tasks.try_join_next() {
            ended?;
        }
        if tasks.len() >= MAX_OPEN {
            let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
            *tally.errors.entry("NotSent".into()).or_default() += 1;
        } else {
            let (channel, shared) = (channels[index % channels.len()].clone(), Arc::clone(shared));
            tasks.spawn(async move {
                let outcome = call(&channel, &shared, index).await;
                if due >= shared.start {
                    let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
                    tally.count(outcome.as_ref().map(|_| ()), due.elapsed());
                }
            });
        }
        due += interval;
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

async fn call(channel: &Channel, shared: &Shared, index: usize) -> Result<Bytes, Status> {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let body = shared.bodies[index % shared.bodies.len()].clone();
    let response = grpc.unary(Request::new(body), shared.method.clone(), EncodedCodec).await?;
    Ok(response.into_inner())
}

/// Messages that are encoded already.
#[derive(Clone, Copy, Debug, Default)]
pub struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
