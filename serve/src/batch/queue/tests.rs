//! The queue alone: places, order, what is left out.

use detectd_engine::Picture;
use detectd_vision::{DetectOptions, Image};

use super::*;
use crate::batch::Payload;
use crate::error::ErrorCode;

fn queue(capacity: usize, max_batch: usize) -> (Arc<BatchQueue>, IntGauge) {
    let depth = IntGauge::new("depth", "of the test's queue").unwrap();
    let policy = BatchPolicy { max_batch, preferred: Vec::new(), max_delay: Duration::ZERO };
    let settings = QueueSettings { capacity, timeout: None, preserve_order: false };
    (BatchQueue::new(settings, policy, depth.clone()), depth)
}

fn picture(width: u32) -> Payload {
    let picture = Picture::Decoded(Image::filled(width, 1, [0; 3]));
    Payload::Picture { picture, options: DetectOptions::default() }
}

/// Queues a picture `mark` pixels wide, by which it is known again.
fn push(queue: &Arc<BatchQueue>, mark: u32, priority: Priority, deadline: Option<Instant>) -> Ticket {
    let payload = picture(mark);
    queue.reserve().unwrap().push(priority, |reply| Work { payload, deadline, reply }).unwrap()
}

fn marks(taken: &Taken) -> Vec<u32> {
    let mark = |(_, work): &(Instant, Work)| match &work.payload {
        Payload::Picture { picture: Picture::Decoded(image), .. } => image.width(),
        other => panic!("{other:?}"),
    };
    taken.work.iter().map(mark).collect()
}

#[test]
fn places_are_bounded_and_come_back() {
    let (queue, depth) = queue(2, 8);
    let first = queue.reserve().unwrap();
    let ticket = push(&queue, 1, Priority::Normal, None);
    assert_eq!(queue.reserve().err(), Some(Refused::Full));
    assert_eq!(depth.get(), 2);
    drop(first);
    drop(ticket);
    assert_eq!((depth.get(), queue.len()), (0, 0));
    assert!(queue.reserve().is_ok());
}

#[test]
fn batches_follow_priority_and_then_arrival() {
    let (queue, depth) = queue(10, 3);
    let _tickets: Vec<_> = [(1, Priority::Low), (2, Priority::Normal), (3, Priority::High), (4, Priority::Normal)]
        .map(|(mark, priority)| push(&queue, mark, priority, None))
        .into();
    assert_eq!(marks(&queue.next_batch().unwrap()), [3, 2, 4]);
    assert_eq!(depth.get(), 1);
    assert_eq!(marks(&queue.next_batch().unwrap()), [1]);
}

#[tokio::test]
async fn dead_work_is_left_out() {
    let (queue, depth) = queue(10, 8);
    let late = push(&queue, 1, Priority::Normal, Some(Instant::now()));
    let gone = push(&queue, 2, Priority::Normal, None);
    let _alive = push(&queue, 3, Priority::Normal, None);
    drop(gone);
    assert_eq!(marks(&queue.next_batch().unwrap()), [3]);
    assert_eq!(late.answer().await.unwrap_err().code, ErrorCode::DeadlineExceeded);
    assert_eq!(depth.get(), 0);
}

#[tokio::test]
async fn a_closed_queue_runs_what_it_has_and_a_failed_one_answers_it() {
    let (queue, _) = queue(10, 8);
    let _ticket = push(&queue, 1, Priority::Normal, None);
    let place = queue.reserve().unwrap();
    queue.close();
    assert_eq!(queue.reserve().err(), Some(Refused::Closed));
    let work = |reply| Work { payload: picture(1), deadline: None, reply };
    assert!(place.push(Priority::Normal, work).is_err(), "closed while the picture was prepared");
    assert_eq!(marks(&queue.next_batch().unwrap()), [1]);
    assert!(queue.next_batch().is_none());

    let (queue, depth) = self::queue(10, 8);
    let ticket = push(&queue, 1, Priority::Normal, None);
    queue.fail(&Error::unavailable("gone"));
    assert_eq!(ticket.answer().await.unwrap_err().message, "gone");
    assert!(queue.next_batch().is_none());
    assert_eq!(depth.get(), 0);
}
