//! What a person at the terminal sees of a long step: its name when it begins, its time when it ends.

use std::time::Instant;

/// Says what begins, runs it, and says how long it took. A failure is said too; the error itself is the caller's.
pub fn step<T, E>(what: &str, run: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    eprintln!("==> {what}");
    let begin = Instant::now();
    let result = run();
    let seconds = begin.elapsed().as_secs_f64();
    match result {
        Ok(_) => eprintln!("    done in {seconds:.1} s"),
        Err(_) => eprintln!("    FAILED after {seconds:.1} s: {what}"),
    }
    result
}

/// One line under the current step.
pub fn note(text: &str) {
    eprintln!("    {text}");
}
