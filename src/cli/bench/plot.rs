//! A line plot as SVG. Knows nothing of what the lines are about.

use std::fmt::Write as _;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 28.0;
const Y_STEPS: u8 = 4;
const COLOURS: [&str; 4] = ["#1f6fb2", "#c2571a", "#2e8b57", "#8b3fa0"];

pub struct Line {
    pub points: Vec<(f64, f64)>,
    /// For comparison only.
    pub faint: bool,
}

pub struct Plot {
    pub title: &'static str,
    pub lines: Vec<Line>,
    pub x_labels: Vec<(f64, String)>,
    pub y_label: fn(f64) -> String,
    /// Whether the lower edge is nought, or the least value there is.
    pub from_nought: bool,
}

/// From values to places in the drawing.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let share = |(low, high): (f64, f64), value: f64| (value - low) / (high - low).max(1e-9);
        let across = LEFT + share(self.x, x) * (WIDTH - LEFT - RIGHT);
        (across, HEIGHT - BOTTOM - share(self.y, y) * (HEIGHT - TOP - BOTTOM))
    }
}

impl Plot {
    /// Nothing when there is no point.
    pub fn draw(&self) -> Option<String> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let bounds = |take: fn(&(f64, f64)) -> f64| {
            let all = || points().map(take);
            Some((all().reduce(f64::min)?, all().reduce(f64::max)?))
        };
        let (x, mut y) = (bounds(|point| point.0)?, bounds(|point| point.1)?);
        if self.from_nought {
            y.0 = 0.0;
        }
        let scale = Scale { x, y };
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" \
             font-size=\"11\" fill=\"#444\"><text x=\"{LEFT}\" y=\"14\">{}</text>",
            self.title
        );
        self.draw_axes(&mut svg, &scale);
        for (number, line) in self.lines.iter().enumerate() {
            draw_line(&mut svg, &scale, line, COLOURS[number % COLOURS.len()]);
        }
        svg.push_str("</svg>");
        Some(svg)
    }

    fn draw_axes(&self, svg: &mut String, scale: &Scale) {
        for step in 0..=Y_STEPS {
            let value = scale.y.0 + (scale.y.1 - scale.y.0) * f64::from(step) / f64::from(Y_STEPS);
            let (_, y) = scale.place((scale.x.0, value));
            let _ = write!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                (self.y_label)(value)
            );
        }
        for (value, label) in &self.x_labels {
            let (x, _) = scale.place((*value, scale.y.0));
            let y = HEIGHT - BOTTOM + 16.0;
            let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{label}</text>");
        }
    }
}

fn draw_line(svg: &mut String, scale: &Scale, line: &Line, colour: &str) {
    let opacity = if line.faint { 0.3 } else { 0.9 };
    let _ = write!(svg, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-opacity=\"{opacity}\" points=\"");
    for point in &line.points {
        let (x, y) = scale.place(*point);
        let _ = write!(svg, "{x:.1},{y:.1} ");
    }
    svg.push_str("\"/>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        Plot {
            title: "t",
            lines: vec![Line { points, faint: false }],
            x_labels: vec![(0.0, "0".to_owned())],
            y_label: |value| format!("{value}"),
            from_nought: true,
        }
    }

    #[test]
    fn the_corners_of_the_values_are_the_corners_of_the_plot() {
        let svg = plot(vec![(0.0, 0.0), (2.0, 8.0)]).draw().unwrap();
        assert!(
            svg.contains(&format!("{LEFT:.1},{:.1} {:.1},{TOP:.1}", HEIGHT - BOTTOM, WIDTH - RIGHT)),
            "{svg}"
        );
    }

    #[test]
    fn what_has_no_extent_is_drawn_all_the_same_and_nothing_is_not() {
        assert!(!plot(vec![(1.0, 0.0)]).draw().unwrap().contains("NaN"));
        assert!(plot(Vec::new()).draw().is_none());
    }
}
