//! Line charts as SVG.

use std::ops::Range;

use anyhow::Result;
use plotters::prelude::*;

/// Width and height of a chart.
const SIZE: (u32, u32) = (720, 420);

/// A named line.
pub struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Series {
    /// A line through `points`; those that are not finite are left out.
    pub fn new(name: &str, mut points: Vec<(f64, f64)>) -> Self {
        points.retain(|(x, y)| x.is_finite() && y.is_finite());
        Self { name: name.to_owned(), points }
    }
}

/// Several lines over one axis.
pub struct Chart {
    title: &'static str,
    x_label: &'static str,
    y_label: &'static str,
    series: Vec<Series>,
    /// The y axis goes from 0 to 1 rather than to the largest value.
    unit_range: bool,
}

impl Chart {
    /// A chart whose y axis starts at 0.
    pub fn new(title: &'static str, x_label: &'static str, y_label: &'static str, series: Vec<Series>) -> Self {
        Self { title, x_label, y_label, series, unit_range: false }
    }

    /// The same with a y axis from 0 to 1.
    pub fn of_shares(self) -> Self {
        Self { unit_range: true, ..self }
    }

    /// The chart as an SVG document.
    pub fn svg(&self) -> Result<String> {
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            area.fill(&WHITE)?;
            let mut chart = ChartBuilder::on(&area)
                .caption(self.title, ("sans-serif", 20))
                .margin(12)
                .x_label_area_size(40)
                .y_label_area_size(64)
                .build_cartesian_2d(self.x_range(), self.y_range())?;
            chart
                .configure_mesh()
                .x_desc(self.x_label)
                .y_desc(self.y_label)
                .label_style(("sans-serif", 14))
                .light_line_style(WHITE)
                .y_label_formatter(&|value| short(*value))
                .x_label_formatter(&|value| short(*value))
                .draw()?;
            for (index, series) in self.series.iter().enumerate() {
                let colour = Palette99::pick(index).to_rgba();
                chart
                    .draw_series(LineSeries::new(series.points.iter().copied(), colour.stroke_width(2)))?
                    .label(&series.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
            }
            if self.series.len() > 1 {
                chart
                    .configure_series_labels()
                    .position(SeriesLabelPosition::MiddleRight)
                    .label_font(("sans-serif", 14))
                    .background_style(WHITE.mix(0.85))
                    .border_style(BLACK.mix(0.3))
                    .draw()?;
            }
            area.present()?;
        }
        Ok(text)
    }

    fn points(&self) -> impl Iterator<Item = &(f64, f64)> {
        self.series.iter().flat_map(|series| &series.points)
    }

    /// From the first to the last point; never empty.
    fn x_range(&self) -> Range<f64> {
        let (low, high) = self.points().fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
        if low < high { low..high } else { low.min(0.0)..high.max(1.0) }
    }

    fn y_range(&self) -> Range<f64> {
        if self.unit_range {
            return 0.0..1.0;
        }
        let high = self.points().map(|(_, y)| *y).fold(0.0, f64::max);
        0.0..if high > 0.0 { high * 1.05 } else { 1.0 }
    }
}

/// A number with three digits and no trailing zeros.
fn short(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.001 {
        return format!("{value:.1e}");
    }
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([short(0.0), short(12.0), short(0.25), short(0.00012)], ["0", "12", "0.25", "1.2e-4"]);
    }

    #[test]
    fn ranges_are_never_empty() {
        let chart = |points| Chart::new("t", "x", "y", vec![Series::new("s", points)]);
        assert_eq!((chart(vec![]).x_range().is_empty(), chart(vec![]).y_range()), (false, 0.0..1.0));
        assert!(!chart(vec![(1.0, 0.0)]).x_range().is_empty());
        assert_eq!(chart(vec![(1.0, 2.0), (5.0, f64::NAN), (3.0, 0.5)]).x_range(), 1.0..3.0);
    }

    #[test]
    fn every_series_becomes_a_line_with_a_legend() {
        let line = |name: &str| Series::new(name, vec![(1.0, 0.5), (2.0, 0.25), (3.0, 0.125)]);
        let svg = Chart::new("Losses", "epoch", "loss", vec![line("box"), line("class")]).svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for word in ["Losses", "epoch", "loss", "box", "class"] {
            assert!(svg.contains(word), "{word} is missing");
        }
        assert!(svg.matches("<polyline").count() >= 4, "two lines and two legend marks");
    }
}
