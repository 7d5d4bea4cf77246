//! The report as one HTML page that needs nothing else: tables, and plots drawn as SVG inside it.

use std::fmt::Write as _;

use super::plot::{Line, Plot};
use super::report::{Chapter, Report, Status};
use super::statistics::CURVE_SHARES;
use super::text::{judged, number};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2430}\
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .8rem .15rem 0;text-align:left}\
td.n{text-align:right;font-variant-numeric:tabular-nums}.failed{color:#a11;font-weight:600}.unavailable{color:#777}\
svg{max-width:100%;height:auto;margin:.5rem 1rem .5rem 0}h2{margin-top:2rem;border-top:1px solid #ddd;padding-top:1rem}";

pub fn render(report: &Report) -> String {
    let conditions = &report.conditions;
    let mut page = String::new();
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>herald bench</title><style>{STYLE}</style>\
         <h1>herald bench</h1><p>Herald {}, {}, {} CPUs, {}medians of {}.",
        escaped(conditions.version),
        escaped(&conditions.begun),
        conditions.cpus,
        conditions.load_average.map_or_else(String::new, |load| format!("load average {load:.1} before, ")),
        conditions.repeat,
    );
    if !conditions.optimized {
        page.push_str(" <b>Not an optimized build: no figure means much.</b>");
    }
    page.push_str(
        "</p><p>Rates and latencies stand beside those of the bare loop: POSTs of the same bodies to the same receivers in the same run, \
         without a server. Memory, CPU time, write-ahead log, counts and how long a start takes are the server's alone; what they measure \
         has no counterpart in that loop.</p>",
    );
    for chapter in &report.chapters {
        write_chapter(&mut page, chapter);
    }
    page.push_str("</html>\n");
    page
}

fn write_chapter(page: &mut String, chapter: &Chapter) {
    let _ = write!(
        page,
        "<h2>{}</h2><p>{}</p>",
        escaped(&chapter.scenario.name),
        escaped(&chapter.scenario.describe())
    );
    if let Some(message) = &chapter.message {
        let class = if chapter.status == Status::Unavailable { "unavailable" } else { "failed" };
        let _ = write!(page, "<p class=\"{class}\">{}</p>", escaped(message));
    }
    if chapter.runs.is_empty() {
        return;
    }
    write_figures(page, chapter);
    write_tallies(page, chapter);
    page.push_str(&latency_plot(chapter).unwrap_or_default());
    page.push_str(&throughput_plot(chapter).unwrap_or_default());
}

fn write_figures(page: &mut String, chapter: &Chapter) {
    page.push_str("<table><tr><th>figure<th>median<th><th>bare loop<th>ratio<th>");
    for median in &chapter.medians {
        let figure = &median.figure;
        let goal = median.goal.zip(median.verdict).map(|(goal, verdict)| judged(&goal, verdict));
        let _ = write!(
            page,
            "<tr><td>{}<td class=n>{}<td>{}<td class=n>{}<td class=n>{}<td>{}",
            escaped(figure.name),
            number(figure.value),
            escaped(figure.unit),
            figure.bare.map(number).unwrap_or_default(),
            figure.ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default(),
            escaped(&goal.unwrap_or_default()),
        );
    }
    page.push_str("</table>");
}

fn write_tallies(page: &mut String, chapter: &Chapter) {
    page.push_str("<table><tr><th>run<th>accepted<th>arrived<th>duplicated<th>refused<th>lost<th>invented");
    for (number, run) in chapter.runs.iter().enumerate() {
        let tally = &run.tally;
        let _ = write!(page, "<tr><td class=n>{}", number + 1);
        for count in
            [tally.accepted, tally.arrived, tally.duplicated, tally.refused, tally.lost, tally.invented]
        {
            let _ = write!(page, "<td class=n>{count}");
        }
    }
    page.push_str("</table>");
}

/// From asked to arrived, by percentile, on a logarithmic scale: the tail is what one wants to see.
fn latency_plot(chapter: &Chapter) -> Option<String> {
    let curve = |values: &[f64], bare| Line {
        points: values.iter().enumerate().map(|(at, ms)| (at as f64, ms.max(0.001).log10())).collect(),
        faint: bare,
    };
    let runs = chapter.runs.iter().filter(|run| !run.latency_ms.is_empty());
    let lines: Vec<Line> =
        runs.flat_map(|run| [curve(&run.latency_ms, false), curve(&run.bare_latency_ms, true)]).collect();
    let shares = CURVE_SHARES.iter().enumerate().step_by(2);
    Plot {
        title: "asked to arrived, by percentile (faint: the bare loop)",
        lines,
        x_labels: shares.map(|(at, share)| (at as f64, format!("{}", share * 100.0))).collect(),
        y_label: |exponent| format!("{} ms", number(10_f64.powf(exponent))),
        from_nought: false,
    }
    .draw()
}

fn throughput_plot(chapter: &Chapter) -> Option<String> {
    let line = |counts: &[u32]| Line {
        points: counts
            .iter()
            .enumerate()
            .map(|(at, count)| (at as f64 / 10.0, f64::from(*count) * 10.0))
            .collect(),
        faint: false,
    };
    let lines: Vec<Line> = chapter.runs.iter().map(|run| line(&run.arrivals_per_100ms)).collect();
    let last_s = chapter.runs.iter().map(|run| run.arrivals_per_100ms.len()).max().unwrap_or_default() / 10;
    Plot {
        title: "arrivals a second, by second",
        lines,
        x_labels: (0..=last_s).step_by(last_s / 10 + 1).map(|s| (s as f64, s.to_string())).collect(),
        y_label: |per_s| format!("{} /s", number(per_s)),
        from_nought: true,
    }
    .draw()
}

/// Text as it may stand between tags.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Tally;
    use super::super::report::{Conditions, Ended, Figure, Run};
    use super::super::scenario::built_in;
    use super::*;

    fn report(name: &str) -> Report {
        let mut scenario = built_in().remove(3);
        scenario.name = name.to_owned();
        let run = Run {
            figures: vec![Figure::new("delivered_per_s", "/s", 12_345.0).beside(100_000.0)],
            tally: Tally { accepted: 7, lost: 1, ..Tally::default() },
            latency_ms: vec![0.5; CURVE_SHARES.len()],
            arrivals_per_100ms: vec![3, 0, 5],
            ..Run::default()
        };
        let conditions = Conditions {
            version: "0.0.0",
            begun: "2030-01-01T00:00:00Z".to_owned(),
            cpus: 2,
            load_average: None,
            optimized: true,
            seconds: 1.0,
            repeat: 1,
        };
        Report { conditions, chapters: vec![Chapter::new(scenario, vec![run], Ended::Through)] }
    }

    #[test]
    fn a_page_has_its_figures_its_plots_and_nothing_from_elsewhere() {
        let page = render(&report("mine"));
        for part in [
            "12,345",
            "0.123",
            "1 were lost",
            "<svg",
            "asked to arrived",
            "arrivals a second",
            "has no counterpart",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        for elsewhere in ["http:", "https:", "<script", "<link", "url("] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn a_name_is_text() {
        assert!(render(&report("<b>&")).contains("&lt;b&gt;&amp;"));
    }

    #[test]
    fn the_text_says_the_same() {
        let text = super::super::text::render(&report("mine"));
        for part in ["12,345", "0.123x", "FAILED", "accepted 7"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
