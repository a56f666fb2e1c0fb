//! The machine's NVIDIA GPUs, asked for at each scrape through NVML, which is opened at run time: without it, or without a
//! GPU, there are no such metrics.

use std::collections::HashMap;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts};

/// Containers have the library under this name only.
const LIBRARY: &str = "libnvidia-ml.so.1";
const LABEL: &str = "gpu_uuid";

/// What a GPU says of itself; `None` what it does not measure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Its identifier.
    pub uuid: String,
    /// Share of the time in which a kernel ran, 0 to 1.
    pub utilization: Option<f64>,
    /// Bytes of its memory.
    pub memory_total: Option<f64>,
    /// Bytes of it that are allocated, by whomever.
    pub memory_used: Option<f64>,
    /// Watts.
    pub power: Option<f64>,
}

/// Gauges of what `read` gives at each scrape.
pub struct Gpus {
    read: Box<dyn Fn() -> Vec<Reading> + Send + Sync>,
    gauges: [GaugeVec; 4],
}

impl Gpus {
    /// The GPUs that NVML knows; `None` where there are none.
    ///
    /// # Errors
    /// A name that the registry refuses, which would be a mistake in this file.
    pub fn of_machine() -> prometheus::Result<Option<Self>> {
        let nvml = Nvml::builder().lib_path(LIBRARY.as_ref()).init().or_else(|_| Nvml::init());
        match nvml.and_then(|nvml| Ok((nvml.device_count()?, nvml))) {
            Ok((count, nvml)) if count > 0 => Self::new(move || read(&nvml, count)).map(Some),
            Ok(_) => Ok(None),
            Err(reason) => {
                tracing::debug!(%reason, "no metrics of GPUs");
                Ok(None)
            }
        }
    }

    fn new(read: impl Fn() -> Vec<Reading> + Send + Sync + 'static) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &[LABEL]);
        Ok(Self {
            read: Box::new(read),
            gauges: [
                gauge("nv_gpu_utilization", "Share of the time in which the GPU ran a kernel, 0 to 1.")?,
                gauge("nv_gpu_memory_total_bytes", "Bytes of the GPU's memory.")?,
                gauge("nv_gpu_memory_used_bytes", "Bytes of the GPU's memory that are allocated.")?,
                gauge("nv_gpu_power_usage", "Watts that the GPU takes.")?,
            ],
        })
    }
}

impl Collector for Gpus {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let readings = (self.read)();
        let of: [fn(&Reading) -> Option<f64>; 4] = [
            |reading| reading.utilization,
            |reading| reading.memory_total,
            |reading| reading.memory_used,
            |reading| reading.power,
        ];
        for (gauge, of) in self.gauges.iter().zip(of) {
            // A GPU that does not answer any more is not shown with old values.
            gauge.reset();
            for reading in &readings {
                if let Some(value) = of(reading) {
                    gauge.with_label_values(&[&reading.uuid]).set(value);
                }
            }
        }
        self.gauges.iter().flat_map(Collector::collect).filter(|family| !family.get_metric().is_empty()).collect()
    }
}

fn read(nvml: &Nvml, count: u32) -> Vec<Reading> {
    let reading = |index| -> Result<Reading, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let memory = device.memory_info().ok();
        Ok(Reading {
            uuid: device.uuid()?,
            utilization: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
            memory_total: memory.as_ref().map(|memory| memory.total as f64),
            memory_used: memory.as_ref().map(|memory| memory.used as f64),
            power: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
        })
    };
    let by_uuid: HashMap<String, Reading> =
        (0..count).filter_map(|index| reading(index).ok()).map(|one| (one.uuid.clone(), one)).collect();
    by_uuid.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use prometheus::{Registry, TextEncoder};

    use super::*;

    fn text(registry: &Registry) -> String {
        TextEncoder::new().encode_to_string(&registry.gather()).expect("text")
    }

    #[test]
    fn every_gpu_is_shown_with_what_it_measures() {
        let scrapes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&scrapes);
        let gpus = Gpus::new(move || {
            let whole = Reading {
                uuid: "GPU-a".into(),
                utilization: Some(0.25),
                memory_total: Some(1e9),
                memory_used: Some(2e8),
                power: Some(71.5),
            };
            let partial = Reading { uuid: "GPU-b".into(), utilization: Some(0.5), ..Reading::default() };
            // The second one is gone after the first scrape.
            if counted.fetch_add(1, Ordering::Relaxed) == 0 { vec![whole, partial] } else { vec![whole] }
        });
        let registry = Registry::new();
        registry.register(Box::new(gpus.expect("good names"))).expect("registered");
        let first = text(&registry);
        for line in [
            "nv_gpu_utilization{gpu_uuid=\"GPU-a\"} 0.25",
            "nv_gpu_utilization{gpu_uuid=\"GPU-b\"} 0.5",
            "nv_gpu_memory_total_bytes{gpu_uuid=\"GPU-a\"} 1000000000",
            "nv_gpu_memory_used_bytes{gpu_uuid=\"GPU-a\"} 200000000",
            "nv_gpu_power_usage{gpu_uuid=\"GPU-a\"} 71.5",
        ] {
            assert!(first.lines().any(|other| other == line), "{line} in:\n{first}");
        }
        assert_eq!(first.matches("GPU-b").count(), 1, "what it does not measure is not shown");
        assert!(!text(&registry).contains("GPU-b"), "a GPU that is gone is not shown");
    }

    #[test]
    fn a_machine_without_a_gpu_has_no_such_metrics() {
        let gpus = Gpus::of_machine().expect("good names");
        if Nvml::builder().lib_path(LIBRARY.as_ref()).init().is_err() && Nvml::init().is_err() {
            assert!(gpus.is_none());
        }
        let registry = Registry::new();
        if let Some(gpus) = gpus {
            registry.register(Box::new(gpus)).expect("registered");
            assert!(text(&registry).contains("nv_gpu_memory_total_bytes"));
        }
    }
}
