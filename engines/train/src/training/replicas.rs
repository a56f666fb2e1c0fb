//! One batch on several threads: each computes a part of it with its own copy of the network.
//!
//! libtorch's own threads meet after every operation, and wait for the slowest each time. These meet once a batch, which
//! on a busy machine is several times faster.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context, Result, bail, ensure};
use detectd_libtorch::network::{Network, Pass, Weights, is_trainable};

use super::batches::{Batch, tensor_of};
use super::loss::Loss;
use super::settings::Settings;

/// Copies of a network on threads of their own. The original takes part on the caller's thread.
pub struct Replicas {
    workers: Vec<Worker>,
}

struct Worker {
    shards: SyncSender<Batch>,
    losses: Receiver<Result<[f64; 3]>>,
    /// Shares its storage with the worker's network; touched only while the worker waits.
    weights: Weights,
}

impl Replicas {
    /// Starts `settings.threads - 1` threads with copies of `network`. They end when this value is dropped.
    pub fn start(network: &Network, settings: &Settings) -> Result<Self> {
        tch::set_num_threads(1);
        let workers: Result<Vec<Worker>> =
            (1..settings.threads).map(|number| Worker::start(number, network, settings.clone())).collect();
        Ok(Self { workers: workers? })
    }

    /// Forward and backward: adds the batch's gradients to those of `network`. Returns the loss's parts.
    pub fn gradients(&self, network: &Network, loss: &Loss, settings: &Settings, batch: &Batch) -> Result<[f64; 3]> {
        let shards = split(batch, self.workers.len() + 1);
        let shares: Vec<f64> = shards.iter().map(|shard| shard.len as f64).collect();
        let pictures: f64 = shares.iter().sum();
        let mut shards = shards.into_iter();
        let own = shards.next().context("an empty batch")?;
        let mut busy = Vec::new();
        for (worker, shard) in self.workers.iter().zip(shards) {
            worker.shards.send(shard).ok().context("a training thread has ended")?;
            busy.push(worker);
        }
        let own_loss = backward(network, loss, settings, &own);
        // All answers are awaited before any error is returned: nobody may be left working on shared weights.
        let others: Vec<Result<[f64; 3]>> = busy
            .iter()
            .map(|worker| worker.losses.recv().unwrap_or_else(|_| bail!("a training thread has ended")))
            .collect();
        let mut mean = own_loss?.map(|part| part * shares[0] / pictures);
        for (other, share) in others.into_iter().zip(&shares[1..]) {
            for (mean, part) in mean.iter_mut().zip(other?) {
                *mean += part * share / pictures;
            }
        }
        tch::no_grad(|| busy.iter().try_for_each(|worker| worker.give_gradients(network.weights())))?;
        Ok(mean)
    }

    /// Brings the copies up to date after a step, and all running statistics to their common mean.
    pub fn synchronise(&self, network: &Network) -> Result<()> {
        let copies = self.workers.len() as f64 + 1.0;
        tch::no_grad(|| {
            for (name, weight) in network.weights() {
                if name.ends_with(".running_mean") || name.ends_with(".running_var") {
                    let mut sum = weight.shallow_clone();
                    for worker in &self.workers {
                        sum = sum.f_add_(&worker.weights[name])?;
                    }
                    let _mean = sum.f_div_scalar_(copies)?;
                }
                for worker in &self.workers {
                    worker.weights[name].shallow_clone().f_copy_(weight)?;
                }
            }
            Ok(())
        })
    }
}

impl Worker {
    fn start(number: usize, network: &Network, settings: Settings) -> Result<Self> {
        let mut weights = Weights::new();
        let mut copy = Weights::new();
        for (name, weight) in network.weights() {
            let mut leaf = weight.detach().copy();
            if is_trainable(name) {
                leaf = leaf.f_set_requires_grad(true)?;
            }
            weights.insert(name.clone(), leaf.shallow_clone());
            copy.insert(name.clone(), leaf);
        }
        let network = Network::with_weights(network.plan().clone(), copy)?;
        let side = settings.input as usize;
        let loss = Loss::new(network.plan().detect.clone(), &settings.loss, side, side)?;
        let (shards, incoming) = sync_channel::<Batch>(1);
        let (outgoing, losses) = sync_channel(1);
        let work = move || {
            tch::set_num_threads(1);
            while let Ok(shard) = incoming.recv() {
                if outgoing.send(backward(&network, &loss, &settings, &shard)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name(format!("replica-{number}"))
            .spawn(work)
            .context("starting a training thread")?;
        Ok(Self { shards, losses, weights })
    }

    /// Adds this copy's gradients to those of `weights` and clears them.
    fn give_gradients(&self, weights: &Weights) -> Result<()> {
        for (name, weight) in weights.iter().filter(|(name, _)| is_trainable(name)) {
            let mut gradient = self.weights[name].grad();
            if !gradient.defined() {
                continue;
            }
            let mut sum = weight.grad();
            ensure!(sum.defined(), "`{name}` has a gradient on one thread only");
            sum = sum.f_add_(&gradient)?;
            gradient = gradient.f_zero_()?;
            drop((sum, gradient));
        }
        Ok(())
    }
}

/// Forward and backward of one part.
fn backward(network: &Network, loss: &Loss, settings: &Settings, shard: &Batch) -> Result<[f64; 3]> {
    let pictures = tensor_of(&shard.pixels, settings.input, settings.input)?;
    let pass = Pass { training: true, precision: settings.precision.kind() };
    let loss = loss.compute(&network.forward(&pictures, pass)?, &shard.targets)?;
    ensure!(loss.parts.iter().all(|part| part.is_finite()), "the loss is {:?}; try a smaller lr0", loss.parts);
    loss.total.f_backward()?;
    Ok(loss.parts)
}

/// Cuts a batch into at most `parts` batches of nearly equal size.
fn split(batch: &Batch, parts: usize) -> Vec<Batch> {
    let bytes = batch.pixels.len() / batch.len.max(1);
    let mut shards = Vec::with_capacity(parts);
    let mut first = 0;
    for part in 0..parts {
        let len = batch.len * (part + 1) / parts - first;
        if len == 0 {
            continue;
        }
        let of_shard = batch.targets.iter().filter(|target| (first..first + len).contains(&target.image));
        shards.push(Batch {
            pixels: batch.pixels[first * bytes..(first + len) * bytes].to_vec(),
            targets: of_shard.map(|target| super::Target { image: target.image - first, ..*target }).collect(),
            len,
        });
        first += len;
    }
    shards
}
