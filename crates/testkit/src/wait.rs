//! Waiting for something to become so.

use std::time::{Duration, Instant};

/// Long enough for a machine that has other things to do; only a test that fails waits so long.
pub const PATIENCE: Duration = Duration::from_secs(40);

const PAUSE: Duration = Duration::from_millis(5);

/// Asks until the answer is `Some`, and gives it.
///
/// # Panics
///
/// After [`PATIENCE`], saying `what` was waited for in vain.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// The same among tasks.
///
/// # Panics
///
/// After [`PATIENCE`], saying `what` was waited for in vain.
pub async fn eventually_async<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < until, "waited in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
