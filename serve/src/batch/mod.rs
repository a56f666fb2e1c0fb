//! From waiting requests to executions: a bounded queue, a policy that decides when a batch is closed, and the threads
//! that own the engines.

mod execution;
mod instance;
mod order;
mod policy;
mod queue;
mod warm_up;
mod work;

pub use instance::{Instance, Shared};
pub use order::{Order, Turn};
pub use policy::{BatchPolicy, Dispatch, Pending, Waiting};
pub use queue::{BatchQueue, Place, QueueSettings, Refused, Taken, Ticket};
pub use warm_up::{refuse_nan, warm_up};
pub use work::{Completed, Output, Payload, Priority, Work};
