//! Keeps `grpc.health.v1` true: overall, for both services, and for each model under its own name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use detectd_proto::detect::v1::detect_service_server::SERVICE_NAME as DETECT;
use detectd_proto::inference::grpc_inference_service_server::SERVICE_NAME as KSERVE;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::lifecycle::Lifecycle;
use crate::repository::Repository;

/// How long a change may go unseen. A shutdown is seen at once.
const INTERVAL: Duration = Duration::from_millis(200);

/// Reports the state whenever it changes, and never returns.
pub async fn watch(reporter: HealthReporter, repository: Arc<Repository>, lifecycle: Arc<Lifecycle>) {
    let mut reported: BTreeMap<String, bool> = BTreeMap::new();
    loop {
        let states = states(&repository, &lifecycle);
        for gone in reported.extract_if(.., |service, _| !states.contains_key(service)).map(|(service, _)| service) {
            forget(&reporter, &gone).await;
        }
        for (service, serving) in states {
            if reported.insert(service.clone(), serving) != Some(serving) {
                let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
                reporter.set_service_status(service, status).await;
            }
        }
        if lifecycle.is_ready() {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = lifecycle.shutting_down() => {}
            }
        } else {
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// A removed model is unknown from now on. Whoever watches it is told that it does not serve before the watch ends.
async fn forget(reporter: &HealthReporter, service: &str) {
    reporter.set_service_status(service, ServingStatus::NotServing).await;
    reporter.clone().clear_service_status(service).await;
}

fn states(repository: &Repository, lifecycle: &Lifecycle) -> BTreeMap<String, bool> {
    let up = lifecycle.is_ready();
    let overall = up && repository.is_ready();
    let mut states: BTreeMap<String, bool> =
        repository.index().keys().map(|model| (model.clone(), up && repository.get(model, 0).is_ok())).collect();
    states.insert(String::new(), overall);
    states.insert(DETECT.to_owned(), overall);
    states.insert(KSERVE.to_owned(), overall);
    states
}
