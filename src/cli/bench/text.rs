//! The report as text, for whoever ran it.

use std::fmt::Write as _;

use super::goals::{Goal, Verdict};
use super::report::{Chapter, Median, Report, Status};

pub fn render(report: &Report) -> String {
    let mut text = String::new();
    let conditions = &report.conditions;
    let build =
        if conditions.optimized { "" } else { ", NOT an optimized build: no figure of it means much" };
    let load = conditions.load_average.map_or_else(String::new, |load| format!(", load average {load:.1}"));
    let _ = writeln!(
        text,
        "Herald {} at {}: {} CPUs{load}, medians of {}{build}",
        conditions.version, conditions.begun, conditions.cpus, conditions.repeat
    );
    for chapter in &report.chapters {
        write_chapter(&mut text, chapter);
    }
    text
}

fn write_chapter(text: &mut String, chapter: &Chapter) {
    let verdict = match chapter.status {
        Status::Ok => String::new(),
        Status::Failed => format!("  FAILED: {}", chapter.message.as_deref().unwrap_or_default()),
        Status::Unavailable => format!("  not available: {}", chapter.message.as_deref().unwrap_or_default()),
    };
    let _ = writeln!(text, "\n{}: {}{verdict}", chapter.scenario.name, chapter.scenario.describe());
    for median in &chapter.medians {
        let _ = writeln!(text, "  {}", line(median));
    }
    let sum =
        |take: fn(&super::ledger::Tally) -> u64| chapter.runs.iter().map(|run| take(&run.tally)).sum::<u64>();
    if !chapter.runs.is_empty() {
        let _ = writeln!(
            text,
            "  accepted {}, arrived {}, duplicated {}, refused {}, lost {}, invented {}",
            sum(|tally| tally.accepted),
            sum(|tally| tally.arrived),
            sum(|tally| tally.duplicated),
            sum(|tally| tally.refused),
            sum(|tally| tally.lost),
            sum(|tally| tally.invented),
        );
    }
}

fn line(median: &Median) -> String {
    let figure = &median.figure;
    let mut line = format!("{:28} {:>12} {}", figure.name, number(figure.value), figure.unit);
    if let (Some(bare), Some(ratio)) = (figure.bare, figure.ratio) {
        let _ = write!(line, "  ({ratio:.3}x of the bare loop's {})", number(bare));
    }
    if let (Some(goal), Some(verdict)) = (&median.goal, median.verdict) {
        let _ = write!(line, "  {}", judged(goal, verdict));
    }
    line
}

/// How a figure stands to its goal.
pub fn judged(goal: &Goal, verdict: Verdict) -> String {
    let x = if goal.of_ratio { "x" } else { "" };
    match verdict {
        Verdict::Target => format!("reaches the target, {}{x}", goal.target),
        Verdict::Floor => format!("reaches the floor, {}{x}, not the target, {}{x}", goal.floor, goal.target),
        Verdict::BelowFloor => format!("MISSES the floor, {}{x}", goal.floor),
    }
}

/// Three digits that mean something, or whole numbers.
pub fn number(value: f64) -> String {
    match value.abs() {
        1_000.0.. => {
            let whole = format!("{value:.0}");
            let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
            let grouped: Vec<&str> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .filter_map(|group| std::str::from_utf8(group).ok())
                .collect();
            format!("{sign}{}", grouped.join(","))
        }
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        for (value, shown) in [
            (1_234_567.8, "1,234,568"),
            (-1_000.0, "-1,000"),
            (999.4, "999"),
            (12.34, "12.3"),
            (0.126, "0.13"),
        ] {
            assert_eq!(number(value), shown);
        }
    }
}
