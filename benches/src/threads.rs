//! Independent runs on all cores, results in the order of the jobs.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `work` on each job, on up to `threads` threads. The result does not depend on their number if `work` depends on its job
/// alone. Says on standard error how far `label` has come.
pub fn in_order<J, R>(label: &str, jobs: &[J], threads: NonZeroUsize, work: impl Fn(&J) -> R + Sync) -> Vec<R>
where
    J: Sync,
    R: Send,
{
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(jobs.len()));
    let take = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(index) else { return };
            let result = work(job);
            results.lock().expect("no thread panics with the lock").push((index, result));
            eprintln!("{label}: {} of {}", done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.get().min(jobs.len()) {
            scope.spawn(take);
        }
        take();
    });
    let mut results = results.into_inner().expect("no thread panics with the lock");
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_the_order_of_the_jobs_whatever_the_number_of_threads() {
        let jobs: Vec<u64> = (0..50).collect();
        for threads in [1, 2, 7] {
            // Early jobs take longest, so that completion runs against the order.
            let work = |job: &u64| (0..(50 - job) * 10_000).fold(*job, |sum, next| sum ^ next.wrapping_mul(sum | 1));
            let expected: Vec<u64> = jobs.iter().map(work).collect();
            assert_eq!(in_order("test", &jobs, NonZeroUsize::new(threads).expect("not zero"), work), expected);
        }
    }
}
