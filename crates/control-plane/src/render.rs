//! A run as text for a person. Pure functions.

/// Seconds as a person reads them: `42 s`, `3 min 10 s`, `2 h 05 min`, `4 d 03 h`.
pub fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".into();
    }
    if seconds < 59.5 {
        return format!("{seconds:.0} s");
    }
    // Above u64 it saturates, which is far beyond what anybody waits for.
    let whole = seconds.round() as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    match () {
        () if days > 0 => format!("{days} d {:02} h", hours % 24),
        () if hours > 0 => format!("{hours} h {:02} min", minutes % 60),
        () => format!("{minutes} min {:02} s", whole % 60),
    }
}
