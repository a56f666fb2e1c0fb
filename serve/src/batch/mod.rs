//! From waiting pictures to executions: a bounded queue, a policy that decides when a batch is closed, and the threads
//! that own the engines.

mod instance;
mod policy;
mod queue;
mod work;

pub use instance::{Instance, Shared};
pub use policy::{BatchPolicy, Dispatch, Pending};
pub use queue::{BatchQueue, Place, Refused, Ticket};
pub use work::{Completed, Priority, Work};
