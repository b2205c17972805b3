//! Chance and time as the operating system gives them, for the threads that are inside a simulated world: from a seed, and
//! from the runtime's paused clock.
//!
//! The functions here bear the names of the C library's, and the linker takes those of the program before those of a shared
//! library. So everything that asks for randomness or the time, whoever wrote it (the hash tables of the standard library, the
//! generators that libraries seed for themselves, `Instant`, `SystemTime`), gets an answer that a seed decides, as long as its
//! thread is [`Inside`] a world. Other threads, and all threads of programs that never enter one, get the kernel's answer.
//!
//! This is the one file outside `launch` with unsafe code; it is part of no program that ships.

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::time::Duration;

/// What the monotonic clock shows when a world begins.
const BEGIN: Duration = Duration::from_secs(1_000_000);
/// What the wall clock shows then: a moment in 2030, in seconds since 1970.
const BEGIN_WALL: Duration = Duration::from_secs(1_900_000_000);

thread_local! {
    // Without destructors, so that they can be read at any time in the life of a thread.
    static DICE: Cell<Option<u64>> = const { Cell::new(None) };
    static READING: Cell<bool> = const { Cell::new(false) };
    static WALL_OFFSET_MS: Cell<i64> = const { Cell::new(0) };
}

/// The calling thread is inside a world until this is dropped.
pub(crate) struct Inside(());

impl Inside {
    pub(crate) fn enter(seed: u64) -> Inside {
        DICE.set(Some(seed));
        WALL_OFFSET_MS.set(0);
        Inside(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DICE.set(None);
    }
}

/// Moves the wall clock of the world by so many milliseconds.
pub fn jump_wall_clock(by_ms: i64) {
    WALL_OFFSET_MS.set(WALL_OFFSET_MS.get() + by_ms);
}

/// How long the world has lasted.
#[must_use]
pub fn elapsed() -> Duration {
    if READING.replace(true) {
        // The runtime asks on our behalf, before it has a clock of its own.
        return Duration::ZERO;
    }
    // The first asks this module, which says `BEGIN`.
    let begin = std::time::Instant::now();
    let now = tokio::time::Instant::now().into_std();
    READING.set(false);
    now.saturating_duration_since(begin)
}

/// The next random number, by splitmix64; `None` outside of a world.
fn roll() -> Option<u64> {
    let state = DICE.get()?.wrapping_add(0x9E37_79B9_7F4A_7C15);
    DICE.set(Some(state));
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    Some(z ^ (z >> 31))
}

/// Fills memory with random bytes; false outside of a world.
///
/// # Safety
/// `into` must be valid for writes of `bytes` bytes.
unsafe fn fill(into: *mut c_void, bytes: usize) -> bool {
    let mut done = 0;
    while done < bytes {
        let Some(random) = roll() else { return false };
        let random = random.to_ne_bytes();
        let count = random.len().min(bytes - done);
        // SAFETY: `done + count <= bytes`, for which the caller answers; a local array overlaps with nothing of the caller's.
        unsafe { std::ptr::copy_nonoverlapping(random.as_ptr(), into.cast::<u8>().add(done), count) };
        done += count;
    }
    DICE.get().is_some()
}

/// getrandom(2).
///
/// # Safety
/// That of the function of the C library: `into` must be valid for writes of `bytes` bytes.
// SAFETY: the name is the C library's, and so are the signature and what the function does.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(into: *mut c_void, bytes: usize, flags: c_uint) -> isize {
    // SAFETY: the caller answers for the memory.
    if unsafe { fill(into, bytes) } {
        return bytes as isize;
    }
    // SAFETY: the arguments are those of the system call, and the caller answers for the memory.
    unsafe { libc::syscall(libc::SYS_getrandom, into, bytes, flags) as isize }
}

/// getentropy(3).
///
/// # Safety
/// As for `getrandom`.
// SAFETY: as for `getrandom`.
#[unsafe(no_mangle)]
unsafe extern "C" fn getentropy(into: *mut c_void, bytes: usize) -> c_int {
    // SAFETY: the caller answers for the memory.
    let filled = unsafe { getrandom(into, bytes, 0) };
    if usize::try_from(filled) == Ok(bytes) { 0 } else { -1 }
}

/// clock_gettime(2).
///
/// # Safety
/// That of the function of the C library: `into` must be valid for a write.
// SAFETY: as for `getrandom`.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, into: *mut libc::timespec) -> c_int {
    let since = match clock {
        _ if DICE.get().is_none() => None,
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            let wall = BEGIN_WALL + elapsed();
            let offset = Duration::from_millis(WALL_OFFSET_MS.get().unsigned_abs());
            Some(if WALL_OFFSET_MS.get() < 0 { wall.saturating_sub(offset) } else { wall + offset })
        }
        libc::CLOCK_MONOTONIC | libc::CLOCK_MONOTONIC_RAW | libc::CLOCK_MONOTONIC_COARSE | libc::CLOCK_BOOTTIME => {
            Some(BEGIN + elapsed())
        }
        _ => None,
    };
    match since {
        Some(since) => {
            let time = libc::timespec {
                tv_sec: since.as_secs() as libc::time_t,
                tv_nsec: libc::c_long::from(since.subsec_nanos() as i32),
            };
            // SAFETY: the caller answers for the memory.
            unsafe { into.write(time) };
            0
        }
        // SAFETY: the arguments are those of the system call, and the caller answers for the memory.
        None => unsafe { libc::syscall(libc::SYS_clock_gettime, clock, into) as c_int },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    use rand::Rng;

    use super::*;

    /// Whatever depends on chance or time, in an order that must be the same.
    fn everything(seed: u64) -> (Vec<u32>, u64, u64, Duration, Duration) {
        let thread = std::thread::spawn(move || {
            let _inside = Inside::enter(seed);
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_time().start_paused(true).build().unwrap().block_on(async {
                let began = Instant::now();
                let table: HashSet<u32> = (0..100).collect();
                tokio::time::sleep(Duration::from_millis(rand::rng().random_range(5..50))).await;
                let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                let mut os = [0; 8];
                rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut os).unwrap();
                (table.into_iter().collect(), rand::rng().random(), u64::from_ne_bytes(os), began.elapsed(), wall)
            })
        });
        thread.join().unwrap()
    }

    #[test]
    fn chance_and_time_inside_a_world_come_from_the_seed() {
        let first = everything(1);
        assert_eq!(first, everything(1));
        let other = everything(2);
        assert_ne!(first.0, other.0, "the order in a hash table");
        assert_ne!(first.1, other.1, "a generator that seeds itself");
        assert_ne!(first.2, other.2, "the system's randomness");
        assert!(first.3 >= Duration::from_millis(5) && first.3 < Duration::from_millis(60), "{:?}", first.3);
        assert_eq!(first.4.as_secs(), BEGIN_WALL.as_secs());
    }

    #[test]
    fn outside_of_a_world_they_are_the_kernels() {
        let (a, b): (u64, u64) = (rand::rng().random(), rand::rng().random());
        assert_ne!(a, b);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert_ne!(wall.as_secs(), BEGIN_WALL.as_secs());
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn the_wall_clock_jumps_and_the_other_does_not() {
        let thread = std::thread::spawn(|| {
            let _inside = Inside::enter(1);
            let (wall, steady) = (SystemTime::now(), Instant::now());
            jump_wall_clock(-3_600_000);
            (wall.duration_since(SystemTime::now()).unwrap(), steady.elapsed())
        });
        assert_eq!(thread.join().unwrap(), (Duration::from_secs(3600), Duration::ZERO));
    }
}
