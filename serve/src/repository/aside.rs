//! Work that must not take the processors from requests.
//!
//! It runs on a thread of low priority, which the threads that it starts inherit; the thread ends with the work,
//! as an ordinary user cannot raise a priority again. That is why instances are opened elsewhere.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

/// Runs `work` on a thread of its own and waits for it. With `aside`, whoever else wants the processors goes first.
///
/// # Errors
/// What `work` returns; that it panicked; that there is no thread for it.
pub fn run<T: Send>(aside: bool, work: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let guarded = || {
            if aside {
                step_aside();
            }
            catch_unwind(AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err("the engine panicked while it loaded the model".into()))
        };
        let thread = thread::Builder::new().name("load".into()).spawn_scoped(scope, guarded);
        let thread = thread.map_err(|error| format!("no thread to load it on: {error}"))?;
        thread.join().unwrap_or_else(|_| Err("the thread that loaded it ended".into()))
    })
}

/// Lowers this thread's priority. Where the processors have time to spare, it gets only that; where they have none, which
/// would keep it waiting for good, it gets about a tenth of one.
#[cfg(target_os = "linux")]
fn step_aside() {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id,
    };
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    if std::fs::read_to_string("/proc/pressure/cpu").is_ok_and(|pressure| has_time_to_spare(&pressure))
        && set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle).is_ok()
    {
        return;
    }
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!(%error, "a load keeps its priority");
    }
}

#[cfg(not(target_os = "linux"))]
fn step_aside() {}

/// From what the kernel says of the last ten seconds: the share of the time in which some thread waited for a processor.
#[cfg(target_os = "linux")]
fn has_time_to_spare(pressure: &str) -> bool {
    let average = pressure.lines().find_map(|line| line.strip_prefix("some avg10=")?.split(' ').next()?.parse().ok());
    average.is_some_and(|percent: f64| percent < 70.0)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figure_decides() {
        let pressure =
            |some: &str| format!("some avg10={some} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 total=0\n");
        assert!(has_time_to_spare(&pressure("7.38")));
        assert!(!has_time_to_spare(&pressure("93.10")));
        assert!(!has_time_to_spare("nothing that is known"));
    }

    #[test]
    fn work_aside_has_a_lower_priority_and_leaves_the_callers_alone() {
        let priority = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned).collect();
            // Nice value and scheduling policy, the 19th and the 41st field of the line.
            Ok((fields[16].parse::<i32>().unwrap(), fields[38].parse::<u32>().unwrap()))
        };
        let (nice, policy) = priority().unwrap();
        assert_eq!(run(false, priority), Ok((nice, policy)));
        let aside = run(true, priority).unwrap();
        assert!(aside.1 == 5 || aside.0 > nice || nice == 19, "{aside:?}");
        assert_eq!(priority(), Ok((nice, policy)));
        assert!(run(true, || -> Result<(), String> { panic!("of the engine") }).unwrap_err().contains("panicked"));
    }
}
