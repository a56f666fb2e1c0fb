//! The figures of every epoch, in `results.csv`.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::report::EpochFigures;

/// What an epoch cost and reached.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochResult {
    /// From 1.
    pub epoch: usize,
    /// Mean box, objectness and class loss over the training batches.
    pub train_loss: [f64; 3],
    /// The same over the validation scenes.
    pub validation_loss: [f64; 3],
    /// Precision at the best mean F1.
    pub precision: f64,
    /// Recall at the best mean F1.
    pub recall: f64,
    /// Mean average precision at IoU 0.5.
    pub map50: f64,
    /// Mean over IoU 0.5 to 0.95.
    pub map50_95: f64,
    /// Learning rate at the end.
    pub learning_rate: f64,
    /// Wall-clock time, validation included.
    pub seconds: f64,
    /// Training speed.
    pub pictures_per_second: f64,
}

const HEADER: &str = "epoch,train_box,train_obj,train_cls,val_box,val_obj,val_cls,precision,recall,map50,map50_95,\
                      learning_rate,seconds,pictures_per_second";

/// `results.csv`, kept in step with the run.
pub struct History {
    path: PathBuf,
    results: Vec<EpochResult>,
}

impl History {
    /// Reads the file if it exists.
    pub fn open(path: &Path) -> Result<Self> {
        let mut results = Vec::new();
        if path.is_file() {
            let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            for line in text.lines().skip(1) {
                results.push(EpochResult::parse(line).with_context(|| format!("in {}", path.display()))?);
            }
        }
        Ok(Self { path: path.to_owned(), results })
    }

    /// Forgets everything after epoch `epochs`.
    pub fn keep(&mut self, epochs: usize) -> Result<()> {
        self.results.truncate(epochs);
        self.write()
    }

    /// Adds an epoch.
    pub fn add(&mut self, result: EpochResult) -> Result<()> {
        self.results.push(result);
        self.write()
    }

    /// All epochs in order.
    pub fn into_results(self) -> Vec<EpochResult> {
        self.results
    }

    fn write(&self) -> Result<()> {
        let lines: Vec<String> = self.results.iter().map(EpochResult::line).collect();
        let text = format!("{HEADER}\n{}{}", lines.join("\n"), if lines.is_empty() { "" } else { "\n" });
        std::fs::write(&self.path, text).with_context(|| format!("writing {}", self.path.display()))
    }
}

impl EpochResult {
    /// What the report shows of it.
    #[must_use]
    pub fn figures(&self) -> EpochFigures {
        EpochFigures {
            epoch: self.epoch,
            training_loss: self.train_loss,
            held_out_loss: self.validation_loss,
            precision: self.precision,
            recall: self.recall,
            map50: self.map50,
            map50_95: self.map50_95,
            learning_rate: self.learning_rate,
        }
    }

    fn line(&self) -> String {
        let [a, b, c] = self.train_loss;
        let [d, e, f] = self.validation_loss;
        let numbers = [a, b, c, d, e, f, self.precision, self.recall, self.map50, self.map50_95, self.learning_rate];
        let numbers = numbers.map(|number| format!("{number:.6}")).join(",");
        format!("{},{numbers},{:.1},{:.1}", self.epoch, self.seconds, self.pictures_per_second)
    }

    fn parse(line: &str) -> Result<Self> {
        let fields: Result<Vec<f64>, _> = line.split(',').map(str::parse).collect();
        let fields = fields.with_context(|| format!("the line `{line}`"))?;
        let [epoch, a, b, c, d, e, f, precision, recall, map50, map50_95, learning_rate, seconds, speed] = fields[..]
        else {
            bail!("the line `{line}` has {} fields, expected {HEADER}", fields.len());
        };
        Ok(Self {
            epoch: epoch as usize,
            train_loss: [a, b, c],
            validation_loss: [d, e, f],
            precision,
            recall,
            map50,
            map50_95,
            learning_rate,
            seconds,
            pictures_per_second: speed,
        })
    }
}

impl fmt::Display for EpochResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let train: f64 = self.train_loss.iter().sum();
        let validation: f64 = self.validation_loss.iter().sum();
        write!(
            f,
            "epoch {:3}: loss {train:.4}, validation {validation:.4}, precision {:.3}, recall {:.3}, mAP50 {:.4}, \
             mAP50-95 {:.4}, {:.0} s, {:.1} pictures/s",
            self.epoch, self.precision, self.recall, self.map50, self.map50_95, self.seconds, self.pictures_per_second
        )
    }
}
