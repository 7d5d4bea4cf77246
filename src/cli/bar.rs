//! A bar that is as full as the work is done.

const BAR_CHARS: u64 = 30;

pub fn bar(done: u64, all: u64) -> String {
    let done = done.min(all);
    // Of nothing, everything is done.
    let of_all = |whole: u64| {
        (u128::from(done) * u128::from(whole)).checked_div(u128::from(all)).unwrap_or(u128::from(whole))
    };
    let (chars, percent) = (of_all(BAR_CHARS), of_all(100));
    let full = "#".repeat(chars as usize);
    format!("[{full:.<width$}] {percent:>3}%  ", width = BAR_CHARS as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_it_is_far() {
        assert_eq!(bar(0, 10), format!("[{}]   0%  ", ".".repeat(30)));
        assert_eq!(bar(5, 10), format!("[{}{}]  50%  ", "#".repeat(15), ".".repeat(15)));
        for (done, all) in [(10, 10), (11, 10), (0, 0), (u64::MAX, u64::MAX)] {
            assert_eq!(bar(done, all), format!("[{}] 100%  ", "#".repeat(30)));
        }
    }
}
